#!/usr/bin/env bash
# From nothing to a report: sets up .venv, then runs a Halton study of 20 trials on the handwritten
# digits. Everything it writes is ignored by git.
#   scripts/quickstart.sh [directory of the study]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
unset PYTHONDONTWRITEBYTECODE # without .pyc files every process imports three times as long
.venv/bin/python scripts/launch_study.py \
  --config=configs/studies/digits_mlp.py --workdir="${1:-runs/quickstart}"
echo "Before you type one of our commands: source .venv/bin/activate"
