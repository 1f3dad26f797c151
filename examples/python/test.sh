#!/usr/bin/env bash
# Runs the example against a real server and checks the result. `make build` has built bin/; the Python packages go into a
# virtual environment in the cache folder, made at the first run.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")"
bin=$(realpath "${1:-../../bin}")
cache=${UPSCALER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/video-upscaler}
venv=$cache/example-python-$(sha256sum requirements.txt | cut -c1-12)
fail() { echo "python example: $*" >&2; exit 1; }

if ! [ -f "$venv/.complete" ]; then
  echo "python example: installing grpcio-tools, once"
  mkdir -p "$cache"
  python3 -m venv --clear "$venv" || fail "python3 has no venv; install Debian's python3-venv."
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
  touch "$venv/.complete"
fi

work=$(mktemp -d)
server=
cleanup() {
  [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" || true; }
  rm -rf "$work"
}
trap cleanup EXIT

PYTHON=$venv/bin/python ./generate.sh
export PYTHONPATH=$PWD/stubs PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ffmpeg -v error -f lavfi -i testsrc2=size=96x64:rate=10:duration=1 -f lavfi -i sine=duration=1 -pix_fmt yuv420p "$work/in.mp4"
echo "This is not a video." >"$work/text.mp4"
"$bin/sr-server" --listen "unix:$work/sr.sock" --log-level error &
server=$!
# The server is ready once its socket takes calls; the channel waits for that.
"$venv/bin/python" - "unix:$work/sr.sock" <<'PYTHON'
import sys, grpc
with grpc.insecure_channel(sys.argv[1], options=[("grpc.max_reconnect_backoff_ms", 200)]) as channel:
    grpc.channel_ready_future(channel).result(timeout=60)
PYTHON

"$venv/bin/python" upscale_video.py "$work/in.mp4" "$work/out.mp4" "unix:$work/sr.sock"
got=$(ffprobe -v error -count_packets -show_entries stream=codec_type,width,height,nb_read_packets -of csv=p=0 "$work/out.mp4")
want=$(ffprobe -v error -count_packets -show_entries stream=codec_type,width,height,nb_read_packets -of csv=p=0 "$work/in.mp4" |
  sed 's/^video,96,64,/video,192,128,/')
[ "$got" = "$want" ] || fail "the result holds
$got
instead of
$want"

if said=$("$venv/bin/python" upscale_video.py "$work/text.mp4" "$work/no.mp4" "unix:$work/sr.sock" 2>&1); then
  fail "a text was accepted as a video"
fi
case $said in
  INVALID_ARGUMENT:*) ;;
  *) fail "a text as input gives: $said" ;;
esac
[ ! -e "$work/no.mp4" ] || fail "a failed job left a result"
echo "python example: passed"
