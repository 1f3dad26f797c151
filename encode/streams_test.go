package encode

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"upscaler/internal/av"
	"upscaler/internal/media"
	"upscaler/internal/notice"

	"github.com/asticode/go-astiav"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	picture  = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=2 "
	sound    = "-f lavfi -i sine=frequency=440:duration=2 "
	x264     = " -c:v libx264 -preset veryfast -pix_fmt yuv420p -bf 2 "
	chapters = ";FFMETADATA1\ntitle=A film\nartist=Somebody\n" +
		"[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=900\ntitle=One\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=900\nEND=2000\ntitle=Two\n"
	subtitles = "1\n00:00:00,200 --> 00:00:00,900\nHello\n\n2\n00:00:01,500 --> 00:00:01,800\nthere\n"
)

// fullMKV has one of everything that Matroska holds.
func fullMKV(t *testing.T) string {
	return ffmpeg(t, "full.mkv", picture+sound+sound+"-i "+write(t, "s.srt", subtitles)+" -i "+write(t, "c.txt", chapters)+
		" -map 0:v -map 1:a -map 2:a -map 3:s -map 3:s -map_metadata 4 -map_chapters 4"+x264+
		"-c:a:0 aac -c:a:1 ac3 -c:s:0 srt -c:s:1 ass -metadata:s:a:0 language=ger -metadata:s:a:1 language=eng"+
		" -metadata:s:a:1 title=Commentary -metadata:s:s:0 language=fre -disposition:a:1 comment -disposition:s:0 forced"+
		" -attach "+write(t, "font.ttf", "not really a font")+" -metadata:s:t mimetype=application/x-truetype-font")
}

// fullMP4 has one of everything that MP4 holds, the picture turned by 90 degrees.
func fullMP4(t *testing.T) string {
	plain := ffmpeg(t, "plain.mp4", picture+sound+"-i "+write(t, "s.srt", subtitles)+" -i "+write(t, "c.txt", chapters)+
		" -map 0:v -map 1:a -map 2:s -map_metadata 3 -map_chapters 3"+x264+"-vf setsar=4/3 -c:a aac -c:s mov_text"+
		" -metadata:s:a:0 language=ger -metadata:s:s:0 language=fre")
	const rest = " -map 0:v -map 0:a -map 0:s -c copy"
	if exec.Command("ffmpeg", "-v", "error", "-display_rotation", "90", "-i", plain, "-f", "null", "-").Run() != nil {
		return ffmpeg(t, "full.mp4", "-i "+plain+rest+" -metadata:s:v rotate=90") // before ffmpeg 6
	}
	return ffmpeg(t, "full.mp4", "-display_rotation 90 -i "+plain+rest)
}

// near tells whether b is shift after a, give or take tolerance; both are times in seconds as ffprobe prints them.
func near(a, b string, shift, tolerance float64) bool {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return errX == nil && errY == nil && math.Abs(x+shift-y) <= tolerance
}

// compare checks an output against its input by what ffprobe says of both.
func compare(t *testing.T, in, out string, r result) {
	t.Helper()
	want, got := probe(t, in), probe(t, out)
	shift := 0.0
	tolerance := 1e-6 // of the video: ffprobe prints microseconds
	copied := 1.3e-5  // of the rest: half a sample at 44.1 kHz
	switch r.plan.Container {
	case ContainerMatroska, ContainerWebM:
		tolerance, copied = 0.0005001, 0.0005001 // times in milliseconds
	case ContainerMPEGTS:
		tolerance, copied = 0.0000056, 0.001 // 90 kHz; only every few sound packets have a time
		// Its times cannot be negative: where B-frames make decoding start before zero, everything moves by that much.
		first, _ := strconv.ParseFloat(want.times(0)[0], 64)
		moved, _ := strconv.ParseFloat(got.times(0)[0], 64)
		if shift = moved - first; shift < -tolerance || shift > 0.2 {
			t.Errorf("everything moved by %f s", shift)
		}
	}
	if want.Format.Name == "mpegts" {
		copied = 0.001 // sound packets without a time of their own get one that is rounded anew at each
	}
	language := func(s string) string { return strings.NewReplacer("und", "", "fra", "fre").Replace(s) }
	for i, s := range r.plan.Input.Streams {
		if s.Action == media.ActionDrop {
			continue
		}
		a, b := want.Streams[i], got.Streams[s.Peer]
		if language(a.Tags["language"]) != language(b.Tags["language"]) && r.plan.Container != ContainerMPEGTS {
			t.Errorf("stream %d: language %q, was %q", i, b.Tags["language"], a.Tags["language"])
		}
		if title := b.Tags["title"]; a.Tags["title"] != title && a.Tags["title"] != b.Tags["handler_name"] && r.plan.Container != ContainerMPEGTS {
			t.Errorf("stream %d: title %q, was %q", i, b.Tags["title"], a.Tags["title"])
		}
		at, bt := want.times(i), got.times(s.Peer)
		if len(at) != len(bt) {
			t.Errorf("stream %d: %d packets, was %d", i, len(bt), len(at))
			continue
		}
		for k := range at {
			limit := copied
			if s.Action == media.ActionUpscale {
				limit = tolerance
			}
			if !near(at[k], bt[k], shift, limit) {
				t.Errorf("stream %d, packet %d is at %s, was at %s", i, k, bt[k], at[k])
				break
			}
		}
		reframed := a.CodecName == "aac" && (want.Format.Name == "mpegts" || r.plan.Container == ContainerMPEGTS) // with or without ADTS headers
		if s.Action == media.ActionCopy && !reframed && !slices.Equal(want.hashes(i), got.hashes(s.Peer)) {
			t.Errorf("stream %d: the packets' contents differ", i)
		}
		if s.Action == media.ActionUpscale {
			if b.Width != a.Width*2 || b.Height != a.Height*2 || b.SAR != a.SAR {
				t.Errorf("picture is %dx%d %s, was %dx%d %s", b.Width, b.Height, b.SAR, a.Width, a.Height, a.SAR)
			}
		}
	}
	if r.plan.Output.Chapters > 0 {
		if len(want.Chapters) != len(got.Chapters) {
			t.Fatalf("%d chapters, were %d", len(got.Chapters), len(want.Chapters))
		}
		for i, c := range want.Chapters {
			g := got.Chapters[i]
			if !near(c.Start, g.Start, 0, 0.001) || !near(c.End, g.End, 0, 0.001) || g.Tags["title"] != c.Tags["title"] {
				t.Errorf("chapter %d is %+v, was %+v", i, g, c)
			}
		}
	}
	if a, b := want.Format.Tags["title"], got.Format.Tags["title"]; a != b && r.plan.Container != ContainerMPEGTS {
		t.Errorf("title %q, was %q", b, a)
	}
}

func TestStreamsAreKept(t *testing.T) {
	mkv, mp4 := fullMKV(t), fullMP4(t)
	ts := ffmpeg(t, "in.ts", picture+sound+"-c:v mpeg2video -pix_fmt yuv420p -bf 2 -c:a mp2 -muxdelay 0.7")
	aacTS := ffmpeg(t, "aac.ts", picture+sound+x264+"-c:a aac")
	webm := ffmpeg(t, "in.webm", picture+sound+"-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus")
	mp4Late := ffmpeg(t, "late.mp4", "-itsoffset 3.34 "+picture+sound+x264+"-c:a aac")
	vfr := ffmpeg(t, "vfr.mkv", picture+"-vf setpts='(N+gte(N,5)*7+gte(N,20)*11)/25/TB+random(0)*0.01/TB' -vsync vfr"+x264)
	film := ffmpeg(t, "film.mov", "-f lavfi -i testsrc2=size=96x64:rate=24000/1001:duration=1 "+sound+x264+"-c:a pcm_s16le -timecode 01:00:00:00")
	for _, c := range []struct {
		name, in  string
		container Container
		seekable  bool
		want      Container
		drops     int
	}{
		{"mkv to auto", mkv, ContainerAuto, true, ContainerMatroska, 0},
		{"mkv to pipe mkv", mkv, ContainerMatroska, false, ContainerMatroska, 0},
		{"mkv to mp4", mkv, ContainerMP4, true, ContainerMP4, 1}, // the font; SubRip and ASS become timed text
		{"mkv to ts", mkv, ContainerMPEGTS, false, ContainerMPEGTS, 3},
		{"mp4 to auto", mp4, ContainerAuto, true, ContainerMP4, 0},
		{"mp4 to pipe mp4", mp4, ContainerMP4, false, ContainerMP4, 0},
		{"mp4 to mov", mp4, ContainerMOV, true, ContainerMOV, 0},
		{"mp4 to mkv", mp4, ContainerMatroska, true, ContainerMatroska, 0}, // timed text becomes SubRip
		{"late mp4 to mp4", mp4Late, ContainerMP4, true, ContainerMP4, 0},
		{"late mp4 to pipe mp4", mp4Late, ContainerMP4, false, ContainerMP4, 0},
		{"late mp4 to mkv", mp4Late, ContainerMatroska, true, ContainerMatroska, 0},
		{"ts to auto", ts, ContainerAuto, true, ContainerMP4, 0},
		{"ts to ts", ts, ContainerMPEGTS, false, ContainerMPEGTS, 0},
		{"ts to mkv", ts, ContainerMatroska, true, ContainerMatroska, 0},
		{"aac ts to pipe mp4", aacTS, ContainerMP4, false, ContainerMP4, 0},
		{"aac ts to ts", aacTS, ContainerMPEGTS, false, ContainerMPEGTS, 0},
		{"webm to webm", webm, ContainerWebM, true, ContainerWebM, 0},
		{"webm to mp4", webm, ContainerAuto, true, ContainerMP4, 0},
		{"vfr to mp4", vfr, ContainerMP4, true, ContainerMP4, 0},
		{"vfr to mkv", vfr, ContainerMatroska, false, ContainerMatroska, 0},
		{"film to mov", film, ContainerMOV, true, ContainerMOV, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{Container: c.container, Seekable: c.seekable}
			r := mustUpscale(t, c.in, "out", o)
			if r.plan.Container != c.want {
				t.Errorf("container %d, want %d", r.plan.Container, c.want)
			}
			drops := 0
			for _, n := range r.notices {
				if n.Code == notice.StreamDropped {
					drops++
					if other := "Matroska"; r.plan.Container != ContainerMatroska && !strings.Contains(n.Text, other) {
						t.Errorf("the notice names no container that could: %s", n.Text)
					}
				}
			}
			if drops != c.drops {
				t.Errorf("%d streams dropped, want %d: %v", drops, c.drops, r.notices)
			}
			if !c.seekable && r.out.jumps > 0 {
				t.Errorf("%d writes went back in a stream that cannot", r.out.jumps)
			}
			compare(t, c.in, r.path, r)
		})
	}
}

func TestStrictRefusesToDrop(t *testing.T) {
	_, err := upscale(t, fullMKV(t), "out.mp4", Options{Container: ContainerMP4, Strict: true})
	var unsupported *UnsupportedError
	if !errors.As(err, &unsupported) || !strings.Contains(unsupported.Text, "Matroska") {
		t.Errorf("%v, want an UnsupportedError that names Matroska", err)
	}
}

// Every encoder must hand back each frame's time, however uneven.
func TestEncodersKeepTimes(t *testing.T) {
	in := ffmpeg(t, "vfr.mkv", "-itsoffset 1.5 -f lavfi -i testsrc2=size=96x64:rate=25:duration=2 -vf setpts='(N+gte(N,5)*7)/25/TB+random(0)*0.01/TB' -vsync vfr"+x264)
	for _, e := range encoders {
		if e.still {
			continue // a picture has no time
		}
		t.Run(e.id, func(t *testing.T) {
			c := ContainerMatroska
			r := mustUpscale(t, in, "out", Options{Codec: e.codec, Container: c, Seekable: true})
			compare(t, in, r.path, r)
			if codec := probe(t, r.path).Streams[0].CodecName; codec != e.id {
				t.Errorf("codec is %s", codec)
			}
		})
	}
}

func TestSeekableMP4IsOrdinary(t *testing.T) {
	in := fullMP4(t)
	r := mustUpscale(t, in, "out.mp4", Options{Container: ContainerMP4, Seekable: true})
	data, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != r.stats.BytesOut {
		t.Errorf("%d bytes, stats say %d", len(data), r.stats.BytesOut)
	}
	if r.out.jumps == 0 {
		t.Error("the muxer never went back: the file's index is not completed")
	}
	var top []string
	for at := 0; at+8 <= len(data); {
		n := int(data[at])<<24 | int(data[at+1])<<16 | int(data[at+2])<<8 | int(data[at+3])
		if n < 8 {
			t.Fatalf("box of %d bytes at %d", n, at)
		}
		top = append(top, string(data[at+4:at+8]))
		at += n
	}
	if want := []string{"ftyp", "free", "mdat", "moov"}; !slices.Equal(top, want) {
		t.Errorf("the file's boxes are %v, want %v", top, want)
	}
	moov := string(data[strings.LastIndex(string(data), "moov"):])
	if strings.Contains(moov, "mvex") {
		t.Error("the index announces fragments")
	}
	a, b := probe(t, in).Streams[0], probe(t, r.path).Streams[0]
	if len(a.SideData) == 0 || len(b.SideData) == 0 || a.SideData[0]["rotation"] != b.SideData[0]["rotation"] {
		t.Errorf("rotation is %v, was %v", b.SideData, a.SideData)
	}
}

func TestHDR10IsKept(t *testing.T) {
	in := ffmpeg(t, "hdr.mkv", "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1 -c:v libx265 -pix_fmt yuv420p10le"+
		" -vf setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc:range=tv -x265-params log-level=none:hdr10=1:"+
		"master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400")
	for _, c := range []struct {
		codec     Codec
		container Container
	}{
		{CodecAuto, ContainerMP4}, {CodecAuto, ContainerMatroska}, {CodecAuto, ContainerMPEGTS}, {CodecH264, ContainerMatroska},
		{CodecAV1, ContainerMP4}, {CodecVP9, ContainerWebM}, {CodecFFV1, ContainerMatroska},
	} {
		t.Run(containerOf(c.container).name, func(t *testing.T) {
			r := mustUpscale(t, in, "out", Options{Codec: c.codec, Container: c.container, Seekable: true})
			if c.codec == CodecAuto && r.plan.Codec != CodecHEVC {
				t.Errorf("codec %d", r.plan.Codec)
			}
			s, first := probe(t, r.path).Streams[0], firstFrame(t, r.path)
			if s.PixFmt != "yuv420p10le" || s.Range != "tv" || s.Space != "bt2020nc" || s.Transfer != "smpte2084" || s.Primaries != "bt2020" {
				t.Errorf("%s %s %s %s %s", s.PixFmt, s.Range, s.Space, s.Transfer, s.Primaries)
			}
			kinds := map[string]bool{}
			for _, list := range [][]map[string]any{s.SideData, first} {
				for _, sd := range list {
					kinds[sd["side_data_type"].(string)] = true
					if sd["max_content"] != nil && (sd["max_content"] != float64(1000) || sd["max_average"] != float64(400)) {
						t.Errorf("light level is %v", sd)
					}
					if sd["green_x"] != nil {
						num, den, _ := strings.Cut(sd["green_x"].(string), "/")
						n, _ := strconv.ParseFloat(num, 64)
						d, _ := strconv.ParseFloat(den, 64)
						if math.Abs(n/d-13250.0/50000) > 0.0001 {
							t.Errorf("mastering display is %v", sd)
						}
					}
				}
			}
			if !kinds["Mastering display metadata"] || !kinds["Content light level metadata"] {
				t.Errorf("HDR metadata is lost: %v", kinds)
			}
		})
	}
}

func TestOptionErrors(t *testing.T) {
	crf := func(n int) *int { return &n }
	for _, c := range []struct {
		name  string
		o     Options
		field string
	}{
		{"crf too high", Options{CRF: crf(52)}, "output.crf"},
		{"crf negative", Options{CRF: crf(-1)}, "output.crf"},
		{"crf of lossless", Options{Codec: CodecFFV1, CRF: crf(18)}, "output.crf"},
		{"crf and bitrate", Options{CRF: crf(18), Bitrate: 1e6}, "output.bitrate"},
		{"bitrate tiny", Options{Bitrate: 5}, "output.bitrate"},
		{"bitrate negative", Options{Bitrate: -5}, "output.bitrate"},
		{"bitrate of prores", Options{Codec: CodecProRes, Container: ContainerMOV, Bitrate: 1e6}, "output.bitrate"},
		{"preset", Options{Preset: "quick"}, "output.preset"},
		{"preset of another", Options{Codec: CodecAV1, Preset: "medium"}, "output.preset"},
		{"preset of none", Options{Codec: CodecFFV1, Preset: "fast"}, "output.preset"},
		{"tune", Options{Tune: "movie"}, "output.tune"},
		{"codec unknown", Options{Codec: 77}, "output.codec"},
		{"container unknown", Options{Container: 77}, "output.container"},
		{"codec not in container", Options{Codec: CodecFFV1, Container: ContainerMP4}, "output.codec"},
		{"codec not in webm", Options{Codec: CodecH264, Container: ContainerWebM}, "output.codec"},
		{"unknown option", Options{EncoderOptions: map[string]string{"aq-modus": "1"}}, `output.encoder_options["aq-modus"]`},
		{"bad value", Options{EncoderOptions: map[string]string{"aq-strength": "much"}}, `output.encoder_options["aq-strength"]`},
		{"out of range", Options{EncoderOptions: map[string]string{"psy": "7"}}, `output.encoder_options["psy"]`},
		{"field again", Options{EncoderOptions: map[string]string{"crf": "7"}}, `output.encoder_options["crf"]`},
		{"generic but closed", Options{EncoderOptions: map[string]string{"threads": "64"}}, `output.encoder_options["threads"]`},
		{"file to write", Options{EncoderOptions: map[string]string{"passlogfile": "/tmp/x"}}, `output.encoder_options["passlogfile"]`},
		{"any x264 option", Options{EncoderOptions: map[string]string{"x264opts": "dump-yuv=/tmp/x"}}, `output.encoder_options["x264opts"]`},
		{"x264 file", Options{EncoderOptions: map[string]string{"x264-params": "me=hex:dump-yuv=/tmp/x"}}, `output.encoder_options["x264-params"]`},
		{"x265 file", Options{Codec: CodecHEVC, EncoderOptions: map[string]string{"x265-params": "csv=/tmp/x"}}, `output.encoder_options["x265-params"]`},
		{"path as value", Options{EncoderOptions: map[string]string{"x264-params": "me=../../x"}}, `output.encoder_options["x264-params"]`},
		{"another encoder's", Options{Codec: CodecHEVC, EncoderOptions: map[string]string{"x264-params": "me=hex"}}, `output.encoder_options["x264-params"]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := av.LiveContexts()
			m := syntheticMedia(t, yuv420, 64, 64, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, av.Color{})
			c.o.Scale = 2
			_, err := Plan(m, c.o)
			var option *OptionError
			if !errors.As(err, &option) || option.Field != c.field {
				t.Errorf("%v, want an OptionError of %s", err, c.field)
			}
			if n := av.LiveContexts(); n != before+1 { // m itself
				t.Errorf("%d contexts left open", n-before-1)
			}
		})
	}
}

// What Plan cannot know the encoder itself must answer, without a crash and without a leak.
func TestEncoderRefusals(t *testing.T) {
	for name, o := range map[string]Options{
		"profile too low": {Codec: CodecHEVC, EncoderOptions: map[string]string{"profile": "main12-intra-of-nothing"}},
		"x264 profile":    {Codec: CodecH264, EncoderOptions: map[string]string{"profile": "nonsense"}},
		"svt parameter":   {Codec: CodecAV1, EncoderOptions: map[string]string{"svtav1-params": "tile-rows=99"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := syntheticMedia(t, yuv420, 64, 64, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, av.Color{})
			before := av.LiveContexts()
			o.Scale = 2
			plan, err := Plan(m, o)
			if err == nil {
				var s *Sink
				if s, err = Open(context.Background(), newFileOutput(t, "out"), m, plan, o); err == nil {
					s.Close()
				}
			}
			var option *OptionError
			if !errors.As(err, &option) {
				t.Errorf("%v, want an OptionError", err)
			}
			if n := av.LiveContexts(); n != before {
				t.Errorf("%d contexts left open", n-before)
			}
		})
	}
}
