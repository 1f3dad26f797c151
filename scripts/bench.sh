#!/usr/bin/env bash
# Measures frames a second end to end and of the engine alone. `make bench` has built bin/.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
scripts/packages.sh test # for the ffmpeg program, which prepares the clip
. scripts/env.sh
go run ./bench "$@"
