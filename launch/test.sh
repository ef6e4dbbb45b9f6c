#!/usr/bin/env bash
# Runs the tests: ./launch/test.sh [arguments of pytest]
# Installs into .venv first, if setup.py changed since the last time.
set -euo pipefail

# shellcheck source=launch/install.sh
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
install "test"
cd "$root"
exec .venv/bin/python -m pytest "$@"
