#!/usr/bin/env bash
# Builds mediamtx, the media server that the tests of live/ talk to, into the cache folder and prints the program's path.
#
# It comes from its Go module. The module lacks two files that mediamtx's own release makes and embeds: the version, which is
# written here, and the player of its HLS web page, which no test opens and which is left empty.
set -euo pipefail

version=v1.15.3
cache=${UPSCALER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/video-upscaler}
program=$cache/mediamtx-$version/mediamtx

say() { printf '%s\n' "$*" >&2; }
fail() { say "mediamtx: $*"; exit 1; }

if [ -x "$program" ]; then
  echo "$program"
  exit 0
fi
command -v go >/dev/null || fail "Go is missing."
mkdir -p "$cache"
exec 9>"$cache/mediamtx.lock"
flock 9 # two builds at once would do the same work twice
if [ -x "$program" ]; then
  echo "$program"
  exit 0
fi

work=$(mktemp -d "$cache/mediamtx-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "mediamtx: building $version for the tests; this takes a minute or two the first time"
cd "$work"
module=$(go mod download -json "github.com/bluenviron/mediamtx@$version" 2>"$work/log" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p') ||
  { tail -n 5 "$work/log" >&2; fail "its Go module could not be fetched."; }
[ -d "$module" ] || { tail -n 5 "$work/log" >&2; fail "its Go module could not be fetched."; }
cp -r "$module" src
chmod -R u+w src
cd src
printf '%s' "$version" >internal/core/VERSION
: >internal/servers/hls/hls.min.js
CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -o "$work/mediamtx" . 2>"$work/log" || { tail -n 5 "$work/log" >&2; fail "go build failed."; }
mkdir -p "$(dirname "$program")"
mv "$work/mediamtx" "$program"
echo "$program"
