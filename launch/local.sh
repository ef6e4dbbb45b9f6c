#!/usr/bin/env bash
# Trains on this machine: ./launch/local.sh --config=configs/zero.py
# Installs into .venv first, if setup.py changed since the last time.
set -euo pipefail

# shellcheck source=launch/install.sh
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
install ""
cd "$root"
exec .venv/bin/python -m r1jax.main "$@"
