#!/usr/bin/env bash
# Builds the pinned development tools (tools/go.mod) into the cache folder and prints that folder.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../tools"
cache=${UPSCALER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/video-upscaler}
bin=$cache/tools-$( (cat go.mod; go version) | sha256sum | cut -c1-12)
if ! [ -f "$bin/.complete" ]; then
  echo "tools: building golangci-lint, buf and the protobuf generators; this takes a few minutes the first time" >&2
  GOBIN=$bin GOFLAGS=-mod=readonly CGO_ENABLED=0 go install tool
  touch "$bin/.complete"
fi
echo "$bin"
