#!/usr/bin/env bash
# Runs everything that must hold before a change lands: lint, formatting, tests.
#   scripts/test.sh [pytest arguments ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh test
unset PYTHONDONTWRITEBYTECODE # without .pyc files every process imports three times as long
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/python -m pytest --numprocesses=2 "$@"
