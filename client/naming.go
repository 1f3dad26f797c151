package client

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	upscalev1 "upscaler/gen/upscale/v1"
)

// containers are the output formats by the extension of the file's name, without the dot.
var containers = map[string]upscalev1.Container{
	"mp4":  upscalev1.Container_CONTAINER_MP4,
	"m4v":  upscalev1.Container_CONTAINER_MP4,
	"mov":  upscalev1.Container_CONTAINER_MOV,
	"mkv":  upscalev1.Container_CONTAINER_MATROSKA,
	"webm": upscalev1.Container_CONTAINER_WEBM,
	"ts":   upscalev1.Container_CONTAINER_MPEGTS,
	"png":  upscalev1.Container_CONTAINER_PNG,
}

// pictures are the extensions of still pictures that can be read but not written; their results are PNG.
var pictures = []string{"jpg", "jpeg", "jpe", "webp", "bmp", "tif", "tiff"}

// Extensions lists the extensions that ContainerOf knows, without the dot, sorted.
func Extensions() []string {
	var list []string
	for ext := range containers {
		list = append(list, ext)
	}
	sort.Strings(list)
	return list
}

// ContainerOf returns the format that a file name's extension stands for, and false when it stands for none.
func ContainerOf(name string) (upscalev1.Container, bool) {
	c, ok := containers[strings.ToLower(strings.TrimPrefix(filepath.Ext(name), "."))]
	return c, ok
}

// patternOf finds the number's place in the name of a sequence, as FFmpeg writes it: frame-%06d.png.
var patternOf = regexp.MustCompile(`%(0[0-9]{1,2})?d`)

// SequenceName returns the name of a sequence's picture, counted from 1. ok is false when the pattern is none: it has to hold one %d
// or %06d in its last part, and to end with .png.
func SequenceName(pattern string, number uint32) (name string, ok bool) {
	dir, base := filepath.Split(pattern)
	places := patternOf.FindAllStringIndex(base, -1)
	if len(places) != 1 || !strings.EqualFold(filepath.Ext(base), ".png") {
		return "", false
	}
	from, to := places[0][0], places[0][1]
	return dir + base[:from] + fmt.Sprintf(base[from:to], number) + base[to:], true
}

// OutputName returns the name beside the input that a result gets by default, video.x2.mp4 for video.mp4, and whether its
// extension differs from the input's.
//
// The extension stays when it is one that can be written and can hold codec; else it is the nearest that can: .ts for the
// other names of MPEG-TS, .png for pictures, .mov for ProRes, .mkv for the rest.
func OutputName(input string, scale uint32, codec upscalev1.VideoCodec) (name string, changed bool) {
	ext := filepath.Ext(input)
	if ext == filepath.Base(input) {
		ext = "" // .mp4 is a hidden file's name
	}
	stem := strings.TrimSuffix(input, ext)
	out := outputExtension(strings.ToLower(strings.TrimPrefix(ext, ".")), codec)
	if !strings.EqualFold(ext, "."+out) {
		ext, changed = "."+out, true
	}
	return fmt.Sprintf("%s.x%d%s", stem, scale, ext), changed
}

func outputExtension(ext string, codec upscalev1.VideoCodec) string {
	if ext == "mts" || ext == "m2ts" {
		ext = "ts"
	}
	if slices.Contains(pictures, ext) {
		ext = "png"
	}
	c, ok := containers[ext]
	if !ok {
		ext, c = "mkv", upscalev1.Container_CONTAINER_MATROSKA
	}
	if c == upscalev1.Container_CONTAINER_MATROSKA {
		return ext
	}
	if c == upscalev1.Container_CONTAINER_PNG && codec != upscalev1.VideoCodec_VIDEO_CODEC_UNSPECIFIED {
		return "mkv"
	}
	switch codec {
	case upscalev1.VideoCodec_VIDEO_CODEC_FFV1:
		return "mkv"
	case upscalev1.VideoCodec_VIDEO_CODEC_PRORES:
		return "mov"
	case upscalev1.VideoCodec_VIDEO_CODEC_H264, upscalev1.VideoCodec_VIDEO_CODEC_HEVC:
		if c == upscalev1.Container_CONTAINER_WEBM {
			return "mkv"
		}
	case upscalev1.VideoCodec_VIDEO_CODEC_AV1, upscalev1.VideoCodec_VIDEO_CODEC_VP9:
		if c == upscalev1.Container_CONTAINER_MPEGTS {
			return "mkv"
		}
	}
	return ext
}
