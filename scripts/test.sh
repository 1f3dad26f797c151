#!/usr/bin/env bash
# Runs the whole suite: lint, unit tests, the end-to-end tests with the real programs, and the race detector. `make test` has
# built bin/ before.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
scripts/packages.sh test
. scripts/env.sh

scripts/mediamtx.sh >/dev/null
scripts/lint.sh

echo "test: unit and end-to-end tests"
# Live streams are tested on their own: what other tests leave of two cores is no machine to keep up on.
mapfile -t packages < <(go list ./... | grep -v '/test/live$')
go test -timeout 15m "${packages[@]}"
go test -timeout 15m -parallel 4 ./test/live # they wait more than they compute

echo "test: again under the race detector"
UPSCALER_TEST_RACE=1 go test -race -short -timeout 10m ./...

echo "test: the client and the network build without cgo"
CGO_ENABLED=0 go vet ./client/... ./cmd/sr-client/... ./live/...

echo "test: the python example against the real server"
examples/python/test.sh
