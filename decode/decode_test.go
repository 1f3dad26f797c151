package decode

import (
	"slices"
	"strings"
	"testing"

	"upscaler/internal/notice"
)

// TestDecodesWhatFFmpegDecodes compares every sample, every presentation time and the number of frames with what the ffmpeg
// program makes of the same file, read as a stream.
func TestDecodesWhatFFmpegDecodes(t *testing.T) {
	const frames = 12
	src := source("98x66", 25, frames)
	odd := oddSource(frames)
	cases := []struct {
		file    string // name; the extension chooses the container
		args    string
		working string // pixel format of the frames we get
		decoder string // of the reference, where FFmpeg would choose another
		notices []notice.Code
	}{
		{"h264.mp4", src + " -c:v libx264 -pix_fmt yuv420p -movflags +faststart", "yuv420p", "", nil},
		{"mpeg4-odd.mkv", odd + " -c:v mpeg4 -pix_fmt yuv420p", "yuv420p", "", nil},
		{"h264-422-10.mkv", src + " -c:v libx264 -pix_fmt yuv422p10le", "yuv422p10le", "", nil},
		{"h264-444-odd.mkv", odd + " -c:v libx264 -pix_fmt yuv444p", "yuv444p", "", nil},
		{"h264-gray.mkv", src + " -c:v libx264 -pix_fmt gray", "yuvj420p", "", nil},
		{"h264-full.mkv", src + " -c:v libx264 -pix_fmt yuvj420p", "yuvj420p", "", nil},
		{"h264-rgb.mkv", src + " -c:v libx264rgb -pix_fmt rgb24 -qp 0", "", "", []notice.Code{notice.PixelFormatConverted}},
		{"moov-last.mp4", src + " -c:v libx264 -pix_fmt yuv420p", "yuv420p", "", []notice.Code{notice.InputSpooled}},
		{"moov-last.mov", src + " -c:v libx264 -pix_fmt yuv420p", "yuv420p", "", []notice.Code{notice.InputSpooled}},
		{"fragmented.mp4", src + " -c:v libx264 -pix_fmt yuv420p -movflags +frag_keyframe+empty_moov", "yuv420p", "", nil},
		{"h264.ts", src + " -c:v libx264 -pix_fmt yuv420p", "yuv420p", "", nil},
		{"h264.flv", src + " -c:v libx264 -pix_fmt yuv420p", "yuv420p", "", nil},
		{"h264.h264", src + " -c:v libx264 -pix_fmt yuv420p -bf 0", "yuv420p", "", []notice.Code{notice.TimestampsRepaired}},
		{"hevc.mp4", src + " -c:v libx265 -x265-params log-level=error -pix_fmt yuv420p -movflags +faststart", "yuv420p", "", nil},
		{"hevc-10.mkv", src + " -c:v libx265 -x265-params log-level=error -pix_fmt yuv420p10le", "yuv420p10le", "", nil},
		{"hevc-12.mkv", src + " -c:v libx265 -x265-params log-level=error -pix_fmt yuv422p12le", "yuv422p12le", "", nil},
		{"vp8.webm", odd + " -c:v libvpx -pix_fmt yuv420p", "yuv420p", "", nil},
		{"vp8-alpha.webm", src + " -c:v libvpx -pix_fmt yuva420p -auto-alt-ref 0", "yuva420p", "libvpx", nil},
		{"vp9.webm", odd + " -c:v libvpx-vp9 -cpu-used 8 -pix_fmt yuv420p", "yuv420p", "", nil},
		{"vp9-10.webm", src + " -c:v libvpx-vp9 -cpu-used 8 -pix_fmt yuv420p10le", "yuv420p10le", "", nil},
		{"av1.mkv", src + " -c:v libsvtav1 -preset 12", "yuv420p", "", nil},
		{"av1.mp4", src + " -c:v libsvtav1 -preset 12 -pix_fmt yuv420p10le -movflags +faststart", "yuv420p10le", "", nil},
		{"mpeg4.avi", src + " -c:v mpeg4 -bf 2", "yuv420p", "", nil},
		{"mpeg2.ts", src + " -c:v mpeg2video -bf 2", "yuv420p", "", nil},
		{"mpeg2.vob", src + " -c:v mpeg2video -bf 2", "yuv420p", "", nil},
		{"mpeg1.mpg", src + " -c:v mpeg1video", "yuv420p", "", nil},
		{"mjpeg.avi", src + " -c:v mjpeg -pix_fmt yuvj422p", "yuvj422p", "", nil},
		{"mjpeg-odd.mov", odd + " -c:v mjpeg -pix_fmt yuvj444p -movflags +faststart", "yuvj444p", "", nil},
		{"msmpeg4.asf", src + " -c:v msmpeg4", "yuv420p", "", nil},
		{"theora.ogg", src + " -c:v libtheora", "yuv420p", "", nil},
		{"prores.mov", src + " -c:v prores_ks -pix_fmt yuv422p10le -movflags +faststart", "yuv422p10le", "", nil},
		{"prores-alpha.mov", src + " -c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le -movflags +faststart", "yuva444p12le", "", nil},
		{"ffv1-gray10.mkv", odd + " -c:v ffv1 -pix_fmt gray10le", "gray10le", "", nil},
		{"ffv1-gray16.mkv", odd + " -c:v ffv1 -pix_fmt gray16le", "gray16le", "", nil},
		{"ffv1-444-14.mkv", odd + " -c:v ffv1 -pix_fmt yuv444p14le", "yuv444p14le", "", nil},
		{"ffv1-420-9.mkv", odd + " -c:v ffv1 -pix_fmt yuv420p9le", "yuv420p9le", "", nil},
		{"ffv1-alpha-16.mkv", odd + " -c:v ffv1 -pix_fmt yuva422p16le", "yuva422p16le", "", nil},
		{"ffv1-411.mkv", odd + " -c:v ffv1 -pix_fmt yuv411p", "", "", []notice.Code{notice.PixelFormatConverted}},
		{"ffv1-440.mkv", odd + " -c:v ffv1 -pix_fmt yuv440p", "", "", []notice.Code{notice.PixelFormatConverted}},
		{"huffyuv.avi", src + " -c:v huffyuv -pix_fmt yuv422p", "yuv422p", "", nil},
		{"yuyv.avi", src + " -c:v rawvideo -pix_fmt yuyv422", "yuv422p", "", nil},
		{"uyvy.avi", src + " -c:v rawvideo -pix_fmt uyvy422", "yuv422p", "", nil},
		{"nv12.avi", src + " -c:v rawvideo -pix_fmt nv12", "yuv420p", "", nil},
		{"nv21.avi", src + " -c:v rawvideo -pix_fmt nv21", "yuv420p", "", nil},
		{"bgr24.avi", src + " -c:v rawvideo -pix_fmt bgr24", "", "", []notice.Code{notice.PixelFormatConverted}},
		{"animation.gif", src, "", "", []notice.Code{notice.PixelFormatConverted}},
		{"animation.apng", src + " -pix_fmt rgba -f apng", "", "", []notice.Code{notice.InputSpooled, notice.PixelFormatConverted}},
		{"vfr.mkv", src + " -c:v libx264 -pix_fmt yuv420p -vf select=not(eq(mod(n\\,3)\\,1)) -fps_mode vfr", "yuv420p", "", nil},
		{"offset.ts", src + " -c:v libx264 -pix_fmt yuv420p -output_ts_offset 7.3", "yuv420p", "", nil},
		{"rotated.mp4", src + " -c:v libx264 -pix_fmt yuv420p -metadata:s:v rotate=90 -movflags +faststart", "yuv420p", "", nil},
	}
	for _, c := range cases {
		wantSize := [2]int{98, 66}
		if strings.HasPrefix(c.args, odd) {
			wantSize = [2]int{97, 65}
		}
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			path := generate(t, c.file, c.args)
			got, err := decodeAll(t, stream(readFile(t, path)), Options{})
			if err != nil {
				t.Fatal(err)
			}
			var reference []string
			if c.decoder != "" {
				reference = []string{"-c:v", c.decoder}
			}
			if want := probedPTS(t, path); !samePTS(got.pts, want) {
				t.Errorf("presentation times %v, ffprobe says %v", got.pts, want)
			}
			working := workingName(t, got.media)
			if c.working != "" && working != c.working {
				t.Errorf("frames are %s, want %s", working, c.working)
			}
			if c.working != "" { // conversions have a test of their own
				if want := decodedSum(t, path, working, reference...); got.sum != want {
					t.Errorf("samples differ from ffmpeg's")
				}
			}
			var codes []notice.Code
			for _, n := range got.notices {
				codes = append(codes, n.Code)
			}
			if !slices.Equal(codes, c.notices) {
				t.Errorf("notices %v, want codes %v", got.notices, c.notices)
			}
			if got.size != wantSize {
				t.Errorf("frames of %v, want %v", got.size, wantSize)
			}
			if got.stats.Frames != uint64(len(got.pts)) || got.stats.DamagedPackets != 0 || got.stats.Busy <= 0 {
				t.Errorf("stats %+v for %d sound frames", got.stats, len(got.pts))
			}
		})
	}
}
