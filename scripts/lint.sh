#!/usr/bin/env bash
# Checks the code with golangci-lint, the contract with buf, and that gen/ is what proto/ generates.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
. scripts/env.sh
tools=$(scripts/tools.sh)
export PATH="$tools:$PATH"

echo "lint: proto"
buf lint proto

echo "lint: generated code is fresh"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
buf generate proto -o "$fresh"
diff -r "$fresh/gen" gen || { echo "lint: gen/ is stale; run make generate and commit the result" >&2; exit 1; }

echo "lint: go"
golangci-lint run ./...

echo "lint: scripts"
for f in scripts/*.sh .ci/run; do bash -n "$f"; done
