#!/usr/bin/env bash
# Makes .venv in this checkout with everything the project needs; a second run costs nothing.
#   scripts/setup.sh [extra ...]     extras of pyproject.toml: test, ray, cuda, tpu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=$(IFS=,; echo "$*")
stamp=.venv/installed-${extras:-base}
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
fi
if [ -z "$python" ]; then
  echo "error: Python 3.11 or newer is needed and was not found; name one with PYTHON=/path/to/python $0" >&2
  exit 2
fi

echo "Setting up .venv (once; about 2.5 GB, most of it TensorFlow) ..." >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv
# uv installs several times faster than pip; without it, pip does.
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null || true
if .venv/bin/python -m uv --version >/dev/null 2>&1; then
  install=(.venv/bin/python -m uv pip install --quiet --python .venv/bin/python)
else
  install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
fi
"${install[@]}" --constraint constraints.txt --editable ".${extras:+[$extras]}"
echo "$wanted" >"$stamp"
