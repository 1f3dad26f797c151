#!/usr/bin/env bash
# Runs this package's tests for 64-bit ARM under QEMU, those left out that need ONNX Runtime, of which there is no such build here, or
# that only repeat in the scheduler, at an emulator's pace, what the others show.
set -euo pipefail
cd "$(dirname "$0")"
export GOARCH=arm64 CGO_ENABLED=1 CC=aarch64-linux-gnu-gcc
nice go test -count=1 -exec 'qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu' -skip 'ONNX|TestEngine$|InTheScheduler' . "$@"
