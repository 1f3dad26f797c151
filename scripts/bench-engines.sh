#!/usr/bin/env bash
# Measures the CPU engines against each other and against OpenVINO and ncnn, and writes docs/engines.md. The peers' Python packages go
# into a virtual environment in the cache folder, made at the first run. Arguments go to bench/engines.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
. scripts/env.sh
cache=${UPSCALER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/video-upscaler}
venv=$cache/bench-engines-$(sha256sum bench/engines/requirements.txt | cut -c1-12)
if ! [ -f "$venv/.complete" ]; then
  echo "bench-engines: installing OpenVINO and ncnn, once (400 MB)"
  mkdir -p "$cache"
  python3 -m venv --clear "$venv" || { echo "bench-engines: python3 has no venv; install Debian's python3-venv." >&2; exit 1; }
  # Without what they ask for beside NumPy: torch for pnnx, which its program does without, and OpenVINO's telemetry.
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r bench/engines/requirements.txt
  touch "$venv/.complete"
fi
go run ./bench/engines -peers "$venv/bin/python" -out docs/engines.md "$@"
cat docs/engines.md
