# Source this in a shell to run `go build` and `go test` by hand as the Makefile does. Builds FFmpeg and fetches ONNX Runtime
# when they are not in the cache yet.
#
#   . scripts/env.sh
_scripts=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
_pc=$("$_scripts/ffmpeg.sh") && [ -z "$_pc" ] || export PKG_CONFIG_PATH="$_pc${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
UPSCALER_ONNXRUNTIME=$("$_scripts/onnxruntime.sh") && export UPSCALER_ONNXRUNTIME
export CGO_ENABLED=1
# FFmpeg's headers mark what it will drop one day; that is go-astiav's concern, not something to read at every build.
export CGO_CFLAGS="${CGO_CFLAGS:--O2 -g} -Wno-deprecated-declarations"
unset _scripts _pc
