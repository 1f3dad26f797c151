#!/usr/bin/env bash
# Measures frames a second end to end, of the network alone, and where a frame's time goes. `make bench` has built bin/.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
scripts/packages.sh test # for the ffmpeg program, which prepares the clip
. scripts/env.sh
go run ./bench "$@"
