#!/usr/bin/env bash
# Puts ONNX Runtime's shared library (CPU) into the cache folder and prints its path.
#
# It comes from the Python wheel or the Node package, whichever of pip and npm is there, and is checked against the digest
# below. A library of your own (a CUDA build, say) is taken from UPSCALER_ONNXRUNTIME=/folder/libonnxruntime.so instead.
set -euo pipefail

version=1.27.0
# SHA-256 of libonnxruntime.so as the wheel and the Node package hold it, for linux on x86-64.
wheel_sha256=b5c9d4f124d24707f514dad926dc181820807178855df1c528e3addb2dd0e6f7
node_sha256=d8aff4aa8abee8fb2abb2f2f2459ffc94461e781e41b9f7c072829dd0d470221
cache=${UPSCALER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/video-upscaler}

say() { printf '%s\n' "$*" >&2; }
fail() { say "onnxruntime: $*"; exit 1; }
holds() { echo "$1  $2" | sha256sum --check --status 2>/dev/null; }

if [ -n "${UPSCALER_ONNXRUNTIME:-}" ]; then
  [ -f "$UPSCALER_ONNXRUNTIME" ] || fail "UPSCALER_ONNXRUNTIME names $UPSCALER_ONNXRUNTIME, which is not a file."
  realpath "$UPSCALER_ONNXRUNTIME"
  exit 0
fi
[ "$(uname -sm)" = "Linux x86_64" ] ||
  fail "no pinned library for $(uname -sm); name one with UPSCALER_ONNXRUNTIME=/folder/libonnxruntime.so."

lib=$cache/onnxruntime-$version/libonnxruntime.so
if [ -f "$lib" ] && { holds $wheel_sha256 "$lib" || holds $node_sha256 "$lib"; }; then
  echo "$lib"
  exit 0
fi

mkdir -p "$(dirname "$lib")"
work=$(mktemp -d "$cache/onnxruntime-fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

from_wheel() {
  python3 -m pip --version >/dev/null 2>&1 || return 1
  say "onnxruntime: fetching $version with pip"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 "onnxruntime==$version" >pip.log 2>&1 &&
    python3 -m zipfile -e onnxruntime-*.whl wheel && cp "wheel/onnxruntime/capi/libonnxruntime.so.$version" got &&
    holds $wheel_sha256 got
}
from_node() {
  command -v npm >/dev/null || return 1
  say "onnxruntime: fetching $version with npm"
  npm pack --silent "onnxruntime-node@$version" >npm.log 2>&1 &&
    tar -xzf onnxruntime-node-*.tgz package/bin/napi-v6/linux/x64/libonnxruntime.so.1 &&
    cp package/bin/napi-v6/linux/x64/libonnxruntime.so.1 got && holds $node_sha256 got
}
from_wheel || from_node ||
  fail "could not be fetched: install pip (Debian: python3-pip) or npm, or name a library with UPSCALER_ONNXRUNTIME=/folder/libonnxruntime.so."
mv got "$lib"
echo "$lib"
