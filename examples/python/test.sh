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
# Frames: what comes back is the same picture, in the same order, only larger.
"$venv/bin/python" - "$work" <<'PYTHON'
import subprocess, sys
import numpy as np
def raw(form):
    return np.frombuffer(subprocess.run(["ffmpeg", "-v", "error", "-i", sys.argv[1] + "/in.mp4", "-f", "rawvideo", "-pix_fmt", form, "-"],
        check=True, capture_output=True).stdout, np.uint8)
np.save(sys.argv[1] + "/gray.npy", raw("gray").reshape(10, 64, 96))
np.save(sys.argv[1] + "/yuv.npy", raw("yuv444p").reshape(10, 3, 64, 96))
np.save(sys.argv[1] + "/float.npy", np.zeros((1, 64, 96)))
PYTHON
for kind in gray yuv; do
  "$venv/bin/python" frames.py "$work/$kind.npy" "$work/$kind.x2.npy" "unix:$work/sr.sock"
done
"$venv/bin/python" - "$work" <<'PYTHON' || fail "the frames that came back are not those that were sent"
import sys
import numpy as np
for kind in "gray", "yuv":
    small, large = np.load(f"{sys.argv[1]}/{kind}.npy"), np.load(f"{sys.argv[1]}/{kind}.x2.npy")
    *_, height, width = small.shape
    assert large.shape == (*small.shape[:-2], 2 * height, 2 * width), large.shape
    shrunk = large.reshape(*small.shape[:-2], height, 2, width, 2).mean((-3, -1))
    for picture, original in zip(shrunk, small):
        difference = abs(picture - original).mean()
        others = [abs(picture - other).mean() for other in small if other is not original and (other != original).any()]
        assert difference < 4 and difference < min(others), (kind, difference, min(others))
PYTHON
# The README's short form is run as it stands there, and gives the same.
"$venv/bin/python" - "$work" "unix:$work/sr.sock" <<'PYTHON' || fail "the README's upscale() gives something else than frames.py"
import re, sys
import grpc
import numpy as np
from frames import OPTIONS
from upscale.v1 import upscale_pb2 as pb
from upscale.v1 import upscale_pb2_grpc as rpc
blocks = re.findall(r"```python\n(.*?)```", open("../../README.md").read(), re.S)
[code] = [block for block in blocks if "UpscaleFrames" in block]
exec(code)
small, large = np.load(sys.argv[1] + "/gray.npy"), np.load(sys.argv[1] + "/gray.x2.npy")
assert np.array_equal(np.stack(list(upscale(sys.argv[2], small))), large)
PYTHON
if said=$("$venv/bin/python" frames.py "$work/float.npy" "$work/no.npy" "unix:$work/sr.sock" 2>&1); then
  fail "floats were accepted as a picture"
fi
# A camera: what comes back can be played, and is what the server said.
said=$("$venv/bin/python" live.py "$work/live.ts" "unix:$work/sr.sock" 2 2>&1 | tail -n 1)
encoded=$(sed -n 's/^\([0-9]*\) of [0-9]* frames.*/\1/p' <<<"$said")
got=$(ffprobe -v error -select_streams v -count_packets -show_entries stream=width,height,nb_read_packets -of csv=p=0 "$work/live.ts" | sort -u | grep .)
[ -n "$encoded" ] && [ "$encoded" -ge 8 ] || fail "live.py says: $said"
[ "$got" = "640,360,$encoded" ] || fail "the live result holds $got, and live.py says: $said"
echo "python example: passed"
