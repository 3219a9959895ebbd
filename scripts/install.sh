#!/usr/bin/env bash
# Makes .venv and installs the project with the given extras under constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
# Without python3-venv a first attempt leaves a .venv that has no pip.
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv 2>/dev/null || {
    echo "Cannot make a virtual environment. On Debian: apt-get install python3-venv" >&2
    exit 1
}
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
if [ -n "${TORCH_INDEX_URL:-}" ]; then
    pip install -q -c constraints.txt --index-url "$TORCH_INDEX_URL" torch
fi
echo "Installing spillway[$1] into .venv (once; a few minutes on a fresh machine) ..."
pip install -q -c constraints.txt -e ".[$1]"
