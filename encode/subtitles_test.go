package encode

import (
	"os"
	"slices"
	"strings"
	"testing"

	"upscaler/internal/media"
	"upscaler/internal/notice"
)

// TestTextSubtitles: text that a container holds in another codec only is kept, at its times, with its plain styles.
func TestTextSubtitles(t *testing.T) {
	const lines = "1\n00:00:00,100 --> 00:00:00,400\nHello <i>there</i>,\nyou & me\n\n2\n00:00:00,500 --> 00:00:00,800\nGrüße, 你好\n\n"
	srt := write(t, "s.srt", lines)
	const picture = "-f lavfi -i testsrc2=s=64x48:r=25:d=1 "
	for _, c := range []struct {
		name, in, args, out string
		container           Container
		codec               Codec
		want                string
	}{
		{"subrip to MP4", "in.mkv", "-c:s srt", "out.mp4", ContainerMP4, CodecAuto, "mov_text"},
		{"subrip to QuickTime", "in.mkv", "-c:s srt", "out.mov", ContainerMOV, CodecAuto, "mov_text"},
		{"ass to MP4", "in.mkv", "-c:s ass", "out.mp4", ContainerMP4, CodecAuto, "mov_text"},
		{"webvtt to MP4", "in.mkv", "-c:s webvtt", "out.mp4", ContainerMP4, CodecAuto, "mov_text"},
		{"mov_text to Matroska", "in.mp4", "-c:s mov_text", "out.mkv", ContainerMatroska, CodecAuto, "subrip"},
		{"subrip to WebM", "in.mkv", "-c:s srt", "out.webm", ContainerWebM, CodecVP9, "webvtt"},
		{"mov_text to WebM", "in.mp4", "-c:s mov_text", "out.webm", ContainerWebM, CodecVP9, "webvtt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := ffmpeg(t, c.in, picture+"-i "+srt+" -map 0 -map 1 -c:v libx264 -preset ultrafast "+c.args+" -metadata:s:s:0 language=ger")
			o := Options{Container: c.container, Codec: c.codec, Seekable: true}
			r := mustUpscale(t, in, c.out, o)
			if s := probe(t, r.path).Streams[1]; s.CodecName != c.want || s.Tags["language"] != "ger" {
				t.Errorf("the subtitles are %s in %q, want %s in ger", s.CodecName, s.Tags["language"], c.want)
			}
			if a := r.plan.Input.Streams[1].Action; a != media.ActionConvert || r.plan.Output.Streams[1].Codec != c.want {
				t.Errorf("the plan says action %d and codec %s", a, r.plan.Output.Streams[1].Codec)
			}
			if !slices.ContainsFunc(r.notices, func(n notice.Notice) bool { return n.Code == notice.Fallback && n.Stream == 1 }) {
				t.Errorf("no notice says so: %v", r.notices)
			}
			text := func(path string) string {
				b, err := os.ReadFile(ffmpeg(t, "text.srt", "-i "+path+" -map 0:s:0"))
				if err != nil {
					t.Fatal(err)
				}
				return strings.TrimSpace(string(b))
			}
			if got, want := text(r.path), text(in); got != want {
				t.Errorf("the text is\n%s\nwant\n%s", got, want)
			}
			o.Strict = true
			if _, err := upscale(t, in, c.out, o); err == nil {
				t.Error("strict does not refuse")
			}
		})
	}
}
