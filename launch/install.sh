# shellcheck shell=bash
# Makes .venv in the repository, or updates it, for an extra of setup.py.
# Sourced by local.sh and test.sh, which give the extra: "" or "test".

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  echo "r1jax needs Python 3.11 or newer, and none was found on PATH." >&2
  exit 1
}

# The stamp holds what setup.py said when the extra was last installed.
install() {
  local extra="$1" venv="$root/.venv" python stamp
  stamp="$venv/r1jax-installed${extra:+-$extra}"
  if [[ -x "$venv/bin/python" ]]; then
    cmp -s "$root/setup.py" "$stamp" && return
    # The tests' packages hold all that a run needs.
    cmp -s "$root/setup.py" "$venv/r1jax-installed-test" && return
  fi
  if command -v uv >/dev/null; then
    if [[ ! -x "$venv/bin/python" ]]; then
      uv venv --quiet --python '>=3.11' "$venv"
    fi
    uv pip install --quiet --python "$venv/bin/python" \
      --editable "$root${extra:+[$extra]}"
  else
    if [[ ! -x "$venv/bin/python" ]]; then
      python="$(find_python)"
      if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        echo "$python has no working venv module: install python3-venv or uv." \
          >&2
        exit 1
      fi
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --editable "$root${extra:+[$extra]}"
  fi
  cp "$root/setup.py" "$stamp"
}
