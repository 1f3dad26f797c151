#!/usr/bin/env bash
# Makes FFmpeg 7.x available for the build and prints the PKG_CONFIG_PATH that finds it (empty when the system's serves).
#
# The system's FFmpeg is taken when pkg-config says it is 7.x. Otherwise FFmpeg is built once from Debian 13's source
# package into a cache folder outside the checkout, as static libraries with only the parts this program uses: what is not
# compiled in (network protocols, playlists, the file protocol) cannot be reached through an uploaded file.
#
#   scripts/ffmpeg.sh                 build if needed, print the path
#   UPSCALER_CACHE=/folder            another cache folder (default: $XDG_CACHE_HOME/video-upscaler or ~/.cache/video-upscaler)
#   UPSCALER_FFMPEG=build             build even when the system has 7.x
set -euo pipefail

version=7.1.5
orig=ffmpeg_${version}.orig.tar.xz
orig_sha256=de668509caf9e35e3cd162473441fdb29538c6d96ed080292b3cf9e6fc5d558f
cache=${UPSCALER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/video-upscaler}

say() { printf '%s\n' "$*" >&2; }
fail() { say "ffmpeg: $*"; exit 1; }

if [ "${UPSCALER_FFMPEG:-}" != build ] && v=$(pkg-config --modversion libavcodec 2>/dev/null) &&
  [ "${v%%.*}" = 61 ] && pkg-config --exists libavdevice libavfilter libavformat libswscale libswresample; then
  exit 0 # libavcodec 61 is FFmpeg 7.x
fi

demuxers=mov,matroska,mpegts,mpegps,flv,avi,ogg,ivf,h264,hevc,m4v,mpegvideo,obu,gif,apng,yuv4mpegpipe,asf
demuxers+=,image_png_pipe,image_jpeg_pipe,image_webp_pipe,image_bmp_pipe,image_tiff_pipe,aac,mp3,flac,wav
muxers=mp4,mov,matroska,webm,mpegts,flv,image2pipe,gif,apng,avi,nut,framecrc
decoders=h264,hevc,vp8,vp9,libdav1d,libvpx_vp8,libvpx_vp9,mpeg4,mpeg2video,mpeg1video,h263,flv,msmpeg4v2,msmpeg4v3
decoders+=,vc1,wmv3,theora,mjpeg,ffv1,huffyuv,ffvhuff,utvideo,prores,dnxhd,rawvideo,png,apng,gif,webp,bmp,tiff,qtrle,cinepak,svq3
decoders+=,aac,aac_latm,ac3,eac3,mp2float,mp3float,opus,vorbis,flac,alac,dca,truehd,mlp,wmav2
decoders+=,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_f32le,pcm_u8,pcm_alaw,pcm_mulaw,pcm_bluray,pcm_dvd,adpcm_ms,adpcm_ima_wav
decoders+=,subrip,ass,ssa,movtext,webvtt,dvbsub,dvdsub,pgssub
encoders=libx264,libx265,libsvtav1,libvpx_vp8,libvpx_vp9,ffv1,prores_ks,png,apng,gif,mjpeg,rawvideo,subrip,ass,movtext,webvtt
parsers=h264,hevc,vp8,vp9,av1,mpeg4video,mpegvideo,h263,vc1,mjpeg,png,gif,webp,bmp,dnxhd
parsers+=,aac,aac_latm,ac3,mpegaudio,opus,vorbis,flac,dca,mlp,dvbsub,dvdsub,dvd_nav
bsfs=aac_adtstoasc,h264_mp4toannexb,hevc_mp4toannexb,extract_extradata,vp9_superframe,vp9_superframe_split,av1_frame_merge
bsfs+=,av1_frame_split,mpeg4_unpack_bframes,pgs_frame_merge,dovi_rpu,null,setts,prores_metadata
filters=buffer,buffersink,format,scale,null,bwdif,yadif,idet,fieldmatch,decimate,crop,setpts,setsar

configure=(
  --disable-everything --disable-autodetect --disable-programs --disable-doc --disable-network --disable-debug
  --disable-shared --enable-static --enable-pic --enable-pthreads --enable-zlib --enable-gpl
  --enable-libx264 --enable-libx265 --enable-libsvtav1 --enable-libvpx --enable-libdav1d
  "--enable-demuxer=$demuxers" "--enable-muxer=$muxers" "--enable-decoder=$decoders" "--enable-encoder=$encoders"
  "--enable-parser=$parsers" "--enable-bsf=$bsfs" "--enable-filter=$filters"
)

# The folder's name holds a digest of what was built, so that a changed list builds anew and old checkouts keep theirs.
digest=$(printf '%s\n' "$version" "${configure[@]}" | sha256sum | cut -c1-12)
prefix=$cache/ffmpeg-$version-$digest
if [ -f "$prefix/.complete" ]; then
  echo "$prefix/lib/pkgconfig"
  exit 0
fi

for tool in apt-get nasm make gcc pkg-config tar xz; do
  command -v "$tool" >/dev/null || fail "$tool is missing; run scripts/packages.sh, or install Debian's packages named in it."
done
for lib in x264 x265 SvtAv1Enc vpx dav1d zlib; do
  pkg-config --exists "$lib" || fail "the development files of $lib are missing; run scripts/packages.sh."
done

mkdir -p "$cache"
exec 9>"$cache/ffmpeg.lock"
flock 9 # two builds at once would write the same folder
if [ -f "$prefix/.complete" ]; then
  echo "$prefix/lib/pkgconfig"
  exit 0
fi

work=$(mktemp -d "$cache/ffmpeg-build.XXXXXX")
trap 'rm -rf "$work"' EXIT

source=$cache/downloads/$orig
if ! [ -f "$source" ] || ! echo "$orig_sha256  $source" | sha256sum --check --status; then
  # The machine's own apt sources stay as they are: a private list, state and cache folder, with the machine's own mirror and keyring.
  say "ffmpeg: fetching FFmpeg $version from Debian 13's source package"
  mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/state" "$cache/downloads"
  : >"$work/apt/status"
  uri=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
  [ -n "$uri" ] || uri=$(awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /^(https?|mirror)/) {print $i; exit}}' /etc/apt/sources.list 2>/dev/null || true)
  [ -n "$uri" ] || fail "no Debian entry found in /etc/apt/sources.list.d/debian.sources or /etc/apt/sources.list; install FFmpeg 7.x and its development files yourself."
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main" >"$work/apt/sources.list"
  apt=(apt-get -q -o "Dir::Etc::SourceList=$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State=$work/apt/state" -o "Dir::State::Lists=$work/apt/lists" -o "Dir::State::status=$work/apt/status"
    -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root)
  { "${apt[@]}" update && cd "$work" && "${apt[@]}" source --download-only ffmpeg; } >"$work/apt.log" 2>&1 ||
    { tail -n 5 "$work/apt.log" >&2; fail "Debian 13's source package could not be fetched."; }
  got=$(find "$work" -maxdepth 1 -name 'ffmpeg_*.orig.tar.xz')
  [ -n "$got" ] && echo "$orig_sha256  $got" | sha256sum --check --status ||
    fail "Debian 13 now holds another FFmpeg than $version ($(basename "${got:-none}")); update version and orig_sha256 in scripts/ffmpeg.sh."
  mv "$got" "$source"
fi

mkdir "$work/src"
tar -xf "$source" -C "$work/src" --strip-components=1
cd "$work/src"
say "ffmpeg: configuring"
./configure --prefix="$prefix" "${configure[@]}" >"$work/configure.log" 2>&1 ||
  { tail -n 15 "$work/configure.log" >&2; fail "configure failed."; }

# One line every few seconds: what is compiled is the only measure of progress make gives.
make -j"$(nproc)" >"$work/make.log" 2>&1 &
pid=$!
while kill -0 $pid 2>/dev/null; do
  sleep 5
  say "ffmpeg: compiled $(grep -c -E '^(CC|X86ASM)' "$work/make.log" || true) files"
done
wait $pid || { tail -n 15 "$work/make.log" >&2; fail "make failed."; }
rm -rf "$prefix"
make install >"$work/install.log" 2>&1
touch "$prefix/.complete"
say "ffmpeg: FFmpeg $version is in $prefix"
echo "$prefix/lib/pkgconfig"
