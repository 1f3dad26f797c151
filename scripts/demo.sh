#!/usr/bin/env bash
# Upscales the clip in testdata/ and makes a picture that shows bicubic and our result side by side. `make demo` has built bin/.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."

scripts/packages.sh test # for the ffmpeg program, which makes the picture
clip=testdata/big-buck-bunny-3s.mp4
mkdir -p out
echo "demo: upscaling $clip from 854x480 to 1708x960"
bin/sr-client upscale "$clip" -o out/big-buck-bunny-3s.x2.mp4 --overwrite
echo "demo: making the side-by-side picture"
# The same 400x480 pixels of one frame, shown at twice their size: bicubic left, ours right.
ffmpeg -v error -y -ss 1 -i "$clip" -ss 1 -i out/big-buck-bunny-3s.x2.mp4 -frames:v 1 -lavfi "
  [0:v]scale=1708:960:flags=bicubic,crop=400:480:780:240,scale=2*iw:-1:flags=neighbor[left];
  [1:v]crop=400:480:780:240,scale=2*iw:-1:flags=neighbor[right];
  [left][right]hstack" -update 1 out/side-by-side.png
echo
echo "The upscaled video:             $PWD/out/big-buck-bunny-3s.x2.mp4"
echo "Bicubic left, ours right:       $PWD/out/side-by-side.png"
