package fidelity

import (
	"slices"
	"strings"
	"testing"

	"upscaler/encode"
)

// dimensions are what inputs differ in, each with its values. TestPairs makes inputs in which each value of each dimension meets each
// value of each other one, where such a file can be: all combinations would be thousands, and what breaks breaks for a pair.
var dimensions = [][]string{
	{"mp4", "mov", "mkv", "webm", "ts"},
	{"h264 yuv420p", "h264 yuv422p10le", "hevc yuv420p10le", "vp9 yuv420p", "av1 yuv420p10le", "mpeg2video yuv422p", "prores yuv422p10le",
		"ffv1 yuv444p12le", "ffv1 gray"},
	{"unset", "tv", "pc"},
	{"even", "uneven", "late"},
	{"upright", "turned"},
	{"progressive", "interlaced"},
	{"video", "sound", "sound and text"},
	{"to mp4", "to mov", "to mkv", "to webm", "to ts"},
}

const (
	inContainer = iota
	inCodec
	inRange
	inTime
	inTurn
	inFields
	inStreams
	outContainer
)

// possible tells whether the ffmpeg program can make such a file, and what it then says is so.
func possible(c []string) bool {
	codec, _, _ := strings.Cut(c[inCodec], " ")
	holds := map[string][]string{
		"mp4": {"h264", "hevc", "vp9", "av1"}, "mov": {"h264", "hevc", "prores"}, "webm": {"vp9", "av1"}, "ts": {"h264", "hevc", "mpeg2video"},
		"mkv": {"h264", "hevc", "vp9", "av1", "mpeg2video", "prores", "ffv1"},
	}[c[inContainer]]
	switch {
	case !slices.Contains(holds, codec):
	case c[inTurn] == "turned" && c[inContainer] != "mp4" && c[inContainer] != "mov":
	case c[inFields] == "interlaced" && !slices.Contains([]string{"h264", "mpeg2video", "prores"}, codec):
	case c[inFields] == "interlaced" && c[inTime] == "uneven": // fields have no pace of their own
	case c[inRange] == "pc" && (codec == "prores" || codec == "mpeg2video"): // cannot say so
	case c[inStreams] == "sound and text" && c[inContainer] == "ts":
	case c[inTime] == "uneven" && codec == "mpeg2video": // counts its pictures by a rate
	default:
		return true
	}
	return false
}

// pairs chooses combinations until each pair of values that is possible at all is in one.
func pairs() (chosen [][]string) {
	var all [][]string
	var extend func(c []string)
	extend = func(c []string) {
		if len(c) == len(dimensions) {
			if possible(c) {
				all = append(all, slices.Clone(c))
			}
			return
		}
		for _, v := range dimensions[len(c)] {
			extend(append(c, v))
		}
	}
	extend(nil)
	pairsOf := func(c []string, f func(pair [4]any)) {
		for i := range c {
			for k := range i {
				f([4]any{i, c[i], k, c[k]})
			}
		}
	}
	missing := map[[4]any]bool{}
	for _, c := range all {
		pairsOf(c, func(p [4]any) { missing[p] = true })
	}
	for len(missing) > 0 {
		best, most := 0, 0
		for i, c := range all {
			n := 0
			pairsOf(c, func(p [4]any) {
				if missing[p] {
					n++
				}
			})
			if n > most {
				best, most = i, n
			}
		}
		chosen = append(chosen, all[best])
		pairsOf(all[best], func(p [4]any) { delete(missing, p) })
	}
	return chosen
}

// combined makes the input of a combination.
func combined(t *testing.T, dir string, c []string) string {
	codec, format, _ := strings.Cut(c[inCodec], " ")
	offset, filter := "", []string{}
	switch c[inTime] {
	case "late":
		offset = "-itsoffset 0.52 "
	case "uneven":
		filter = append(filter, "setpts='(N+gte(N\\,4)*5)/25/TB'")
	}
	if c[inFields] == "interlaced" {
		filter = append(filter, "setfield=tff")
	}
	args := offset + "-f lavfi -i testsrc2=size=96x64:rate=25:duration=0.4 "
	maps := "-map 0"
	if c[inStreams] != "video" {
		args += "-f lavfi -i sine=frequency=440:duration=0.4 "
		maps += " -map 1"
	}
	if c[inStreams] == "sound and text" {
		args += "-i " + write(t, dir, "t.srt", "1\n00:00:00,100 --> 00:00:00,300\nHello\n") + " "
		maps += " -map 2"
	}
	args += maps + " -pix_fmt " + format + " " + map[string]string{
		"h264": "-c:v libx264 -preset veryfast -bf 2", "hevc": x265, "vp9": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8",
		"av1": "-c:v libsvtav1 -preset 12", "mpeg2video": "-c:v mpeg2video -bf 2", "prores": "-c:v prores_ks", "ffv1": "-c:v ffv1 -level 3",
	}[codec]
	if len(filter) > 0 {
		args += " -vf " + strings.Join(filter, ",") + " -vsync vfr"
	}
	if c[inFields] == "interlaced" {
		args += " -flags +ildct+ilme"
	}
	if c[inRange] != "unset" {
		args += " -color_range " + c[inRange] + " -colorspace bt709 -color_primaries bt709 -color_trc bt709"
	}
	if c[inTurn] == "turned" {
		args += " -metadata:s:v:0 rotate=90"
	}
	switch c[inContainer] {
	case "webm":
		args += " -c:a libopus -c:s webvtt"
	case "mkv":
		args += " -c:a flac -c:s srt"
	case "mp4":
		args += " -c:a aac -c:s mov_text"
	case "mov":
		args += " -c:a pcm_s16le -c:s mov_text"
	default:
		args += " -c:a ac3"
	}
	return ffmpeg(t, dir, "in."+c[inContainer], args)
}

func TestPairs(t *testing.T) {
	if testing.Short() {
		t.Skip("the rows of TestMatrix must do")
	}
	all := pairs()
	t.Logf("%d combinations", len(all))
	for _, c := range all {
		t.Run(strings.Join(c, ", "), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := combined(t, dir, c)
			o := outputs[slices.IndexFunc(outputs, func(o output) bool { return "to "+o.extension[1:] == c[outContainer] })]
			r := upscale(t, path, dir, "out"+o.extension, encode.Options{Container: o.container, Seekable: true})
			compare(t, probe(t, path), probe(t, r.path), o, r, &seen{fates: map[string]bool{}})
		})
	}
}
