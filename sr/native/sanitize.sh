#!/usr/bin/env bash
# Runs this package's tests with the C compiler's address and undefined-behaviour sanitizers; the first finding fails.
set -euo pipefail
cd "$(dirname "$0")"
. ../../scripts/env.sh
# Leaks are not looked for at exit: ONNX Runtime, which the tests compare with, keeps what it has until the process ends.
ASAN_OPTIONS=detect_leaks=0 nice go test -count=1 -asan . "$@"
export CGO_CFLAGS="$CGO_CFLAGS -fsanitize=undefined -fno-sanitize-recover=all" CGO_LDFLAGS="-fsanitize=undefined"
nice go test -count=1 . "$@"
