#!/usr/bin/env bash
# Installs the Debian packages that building and testing need, when any is missing. Takes no time when all are there.
#
#   scripts/packages.sh          what `make build` and `make demo` need
#   scripts/packages.sh test     and what the tests need beside it
#   scripts/packages.sh arm64    and what tests for 64-bit ARM need on another machine
set -euo pipefail

packages=(gcc g++ make pkg-config nasm xz-utils ca-certificates libx264-dev libx265-dev libsvtav1enc-dev libvpx-dev libdav1d-dev zlib1g-dev)
[ "${1:-}" != test ] || packages+=(ffmpeg python3 python3-venv)
[ "${1:-}" != arm64 ] || packages+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)

say() { printf '%s\n' "$*" >&2; }

if ! command -v dpkg-query >/dev/null; then
  say "packages: this is not Debian; make sure that the likes of these are installed: ${packages[*]}"
  exit 0
fi
missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { say "packages: please install as root: apt-get install ${missing[*]}"; exit 1; }
  as_root=(sudo)
fi
say "packages: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
{ "${as_root[@]}" apt-get -q update && "${as_root[@]}" apt-get -q install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 ||
  { tail -n 5 "$log" >&2; say "packages: apt-get failed; the packages missing are ${missing[*]}."; exit 1; }
