package client

import (
	"testing"

	upscalev1 "upscaler/gen/upscale/v1"
)

func TestOutputName(t *testing.T) {
	const (
		auto   = upscalev1.VideoCodec_VIDEO_CODEC_UNSPECIFIED
		h264   = upscalev1.VideoCodec_VIDEO_CODEC_H264
		av1    = upscalev1.VideoCodec_VIDEO_CODEC_AV1
		ffv1   = upscalev1.VideoCodec_VIDEO_CODEC_FFV1
		prores = upscalev1.VideoCodec_VIDEO_CODEC_PRORES
	)
	tests := []struct {
		input   string
		scale   uint32
		codec   upscalev1.VideoCodec
		want    string
		changed bool
	}{
		{"video.mp4", 2, auto, "video.x2.mp4", false},
		{"dir.d/video.mp4", 4, auto, "dir.d/video.x4.mp4", false},
		{"a.b.c.mkv", 3, auto, "a.b.c.x3.mkv", false},
		{"VIDEO.MP4", 2, auto, "VIDEO.x2.MP4", false},
		{"clip.webm", 2, auto, "clip.x2.webm", false},
		{"clip.m4v", 2, auto, "clip.x2.m4v", false},
		{"clip.ts", 2, auto, "clip.x2.ts", false},
		{"clip.m2ts", 2, auto, "clip.x2.ts", true},
		{"clip.avi", 2, auto, "clip.x2.mkv", true},
		{"clip.flv", 2, auto, "clip.x2.mkv", true},
		{"clip", 2, auto, "clip.x2.mkv", true},
		{"dir.d/clip", 2, auto, "dir.d/clip.x2.mkv", true},
		{".mp4", 2, auto, ".mp4.x2.mkv", true},
		{"clip.", 2, auto, "clip.x2.mkv", true},
		{"clip.mp4", 2, ffv1, "clip.x2.mkv", true},
		{"clip.mkv", 2, ffv1, "clip.x2.mkv", false},
		{"clip.mp4", 2, prores, "clip.x2.mov", true},
		{"clip.mov", 2, prores, "clip.x2.mov", false},
		{"clip.mkv", 2, prores, "clip.x2.mkv", false},
		{"clip.webm", 2, h264, "clip.x2.mkv", true},
		{"clip.webm", 2, av1, "clip.x2.webm", false},
		{"clip.ts", 2, av1, "clip.x2.mkv", true},
		{"clip.mp4", 2, av1, "clip.x2.mp4", false},
		{"photo.png", 2, auto, "photo.x2.png", false},
		{"photo.JPG", 2, auto, "photo.x2.png", true},
		{"photo.webp", 4, auto, "photo.x4.png", true},
		{"photo.tiff", 2, auto, "photo.x2.png", true},
		{"photo.png", 2, ffv1, "photo.x2.mkv", true},
		{"moving.gif", 2, auto, "moving.x2.mkv", true},
		{"moving.apng", 2, auto, "moving.x2.mkv", true},
	}
	for _, test := range tests {
		got, changed := OutputName(test.input, test.scale, test.codec)
		if got != test.want || changed != test.changed {
			t.Errorf("OutputName(%q, %d, %v) = %q, %v, want %q, %v", test.input, test.scale, test.codec, got, changed, test.want, test.changed)
		}
		// Whatever the name, it says which container to write.
		if _, ok := ContainerOf(got); !ok {
			t.Errorf("ContainerOf(%q) does not know", got)
		}
	}
}

func TestContainerOf(t *testing.T) {
	tests := []struct {
		name string
		want upscalev1.Container
	}{
		{"a.mp4", upscalev1.Container_CONTAINER_MP4},
		{"a.M4V", upscalev1.Container_CONTAINER_MP4},
		{"a.mov", upscalev1.Container_CONTAINER_MOV},
		{"x/a.b.MKV", upscalev1.Container_CONTAINER_MATROSKA},
		{"a.webm", upscalev1.Container_CONTAINER_WEBM},
		{"a.ts", upscalev1.Container_CONTAINER_MPEGTS},
		{"a.PNG", upscalev1.Container_CONTAINER_PNG},
		{"a.avi", 0},
		{"a.mp4/b", 0},
		{"a", 0},
		{"mp4", 0},
		{"", 0},
	}
	for _, test := range tests {
		got, ok := ContainerOf(test.name)
		if got != test.want || ok != (test.want != 0) {
			t.Errorf("ContainerOf(%q) = %v, %v, want %v", test.name, got, ok, test.want)
		}
	}
}

func TestSequenceName(t *testing.T) {
	for _, c := range []struct {
		pattern string
		number  uint32
		want    string
	}{
		{"frame-%06d.png", 1, "frame-000001.png"}, {"frames/%d.PNG", 12, "frames/12.PNG"}, {"a%03db.png", 1234, "a1234b.png"},
		{"frame.png", 1, ""}, {"%d-%d.png", 1, ""}, {"%d/frame.png", 1, ""}, {"frame-%d.mp4", 1, ""}, {"frame-%s.png", 1, ""}, {"100%.png", 1, ""},
	} {
		if got, ok := SequenceName(c.pattern, c.number); got != c.want || ok != (c.want != "") {
			t.Errorf("%q, %d: %q, %v; want %q", c.pattern, c.number, got, ok, c.want)
		}
	}
}
