package decode

import (
	"math"
	"slices"
	"strings"
	"testing"

	"upscaler/internal/av"
	"upscaler/internal/notice"

	"github.com/asticode/go-astiav"
)

// Interlaced pictures come out as bwdif makes them, one for one, at their own times; progressive ones are untouched.
func TestDeinterlace(t *testing.T) {
	// 50 fields a second woven into 25 frames.
	interlaced := generate(t, "interlaced.mkv",
		"-f lavfi -i testsrc2=size=98x64:rate=50 -frames:v 12 -vf interlace=scan=tff -c:v libx264 -flags +ildct+ilme -x264opts tff=1 -pix_fmt yuv420p")
	progressive := generate(t, "progressive.mkv", source("98x66", 25, 12)+" -c:v libx264 -pix_fmt yuv420p")
	cases := []struct {
		name, path string
		mode       Deinterlace
		filter     string // of the reference
		notices    int
		interlaced bool // what Media says of the frames
	}{
		{"auto, interlaced", interlaced, DeinterlaceAuto, "bwdif=mode=send_frame:deint=interlaced", 1, false},
		{"on, interlaced", interlaced, DeinterlaceOn, "bwdif=mode=send_frame", 1, false},
		{"off, interlaced", interlaced, DeinterlaceOff, "null", 0, true},
		{"auto, progressive", progressive, DeinterlaceAuto, "null", 0, false},
		{"on, progressive", progressive, DeinterlaceOn, "bwdif=mode=send_frame", 1, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := decodeAll(t, stream(readFile(t, c.path)), Options{Deinterlace: c.mode})
			if err != nil {
				t.Fatal(err)
			}
			if want := probedPTS(t, c.path); !slices.Equal(got.pts, want) {
				t.Errorf("presentation times %v, want %v", got.pts, want)
			}
			for i, d := range got.duration {
				if d != 40 {
					t.Errorf("frame %d lasts %d ms, want 40", i, d)
				}
			}
			if n := got.codes()[notice.Deinterlaced]; n != c.notices {
				t.Errorf("%d notices, want %d", n, c.notices)
			}
			if got.media.Interlaced != c.interlaced {
				t.Errorf("Media says interlaced: %v", got.media.Interlaced)
			}
			// Versions of bwdif differ in a row or two at the edges of the first picture.
			working := workingName(t, got.media)
			share := differing(got.raw, filtered(t, c.path, working, c.filter))
			if share > 0.01 || c.filter == "null" && share > 0 {
				t.Errorf("%.2f %% of the samples differ from those of ffmpeg -vf %s", 100*share, c.filter)
			}
			if c.filter != "null" {
				if untouched := differing(got.raw, filtered(t, c.path, working, "null")); untouched < 0.02 {
					t.Errorf("only %.2f %% of the samples are changed", 100*untouched)
				}
			}
		})
	}
}

// At field rate each field becomes a frame, half-way between the frames' times, also in a time base that cannot say that; progressive
// pictures stay as they are.
func TestFieldRate(t *testing.T) {
	const weave = "-f lavfi -i testsrc2=size=98x64:rate=50 -frames:v 12 -vf interlace=scan=tff -c:v libx264 -flags +ildct+ilme -x264opts tff=1 -pix_fmt yuv420p"
	for _, c := range []struct {
		name, path string
		fields     bool
	}{
		{"matroska", generate(t, "interlaced.mkv", weave), true},
		{"one unit a frame", generate(t, "interlaced.avi", strings.Replace(weave, "libx264 -flags +ildct+ilme -x264opts tff=1", "mpeg2video -q:v 2 -flags +ildct+ilme -top 1", 1)), true},
		{"progressive", generate(t, "progressive.mkv", source("98x66", 25, 12)+" -c:v libx264 -pix_fmt yuv420p"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decodeAll(t, stream(readFile(t, c.path)), Options{FieldRate: true})
			if err != nil {
				t.Fatal(err)
			}
			times := probedPTS(t, c.path)
			want, each := len(times), 0.04
			if c.fields {
				want, each = 2*len(times), 0.02
			}
			if len(got.pts) != want {
				t.Fatalf("%d frames of %d pictures, want %d", len(got.pts), len(times), want)
			}
			for i, pts := range got.pts {
				at, lasts := got.media.VideoTimeBase.Seconds(pts-got.pts[0]), got.media.VideoTimeBase.Seconds(got.duration[i])
				if math.Abs(at-float64(i)*each) > 1e-6 || math.Abs(lasts-each) > 1e-6 {
					t.Errorf("frame %d is at %f s and lasts %f s, want %f and %f", i, at, lasts, float64(i)*each, each)
				}
			}
			if rate := got.media.Video().AvgFrameRate.Float(); math.Abs(rate-1/each) > 0.01 {
				t.Errorf("the rate is %f", rate)
			}
			if c.fields {
				share := differing(got.raw, filtered(t, c.path, workingName(t, got.media), "bwdif=mode=send_field:deint=interlaced"))
				if share > 0.02 {
					t.Errorf("%.2f %% of the samples differ from ffmpeg's", 100*share)
				}
			}
		})
	}
}

// TestFilm puts film in 60 fields a second together again: its own pictures, at its own times.
func TestFilm(t *testing.T) {
	const film = "-f lavfi -i testsrc2=size=98x64:rate=24000/1001 -t 2 -pix_fmt yuv420p"
	original := generate(t, "film.mkv", film+" -c:v ffv1")
	telecined := generate(t, "telecined.mov", film+" -vf telecine=pattern=23,setfield=tff -c:v ffv1 -flags +ildct -field_order tt -video_track_timescale 30000")
	got, err := decodeAll(t, stream(readFile(t, telecined)), Options{Deinterlace: DeinterlaceFilm})
	if err != nil {
		t.Fatal(err)
	}
	want := len(probedPTS(t, original))
	if len(got.pts) < want-2 || len(got.pts) > want+1 {
		t.Fatalf("%d frames, the film has %d", len(got.pts), want)
	}
	for i, pts := range got.pts {
		if at, want := got.media.VideoTimeBase.Seconds(pts-got.pts[0]), float64(i)*1001/24000; math.Abs(at-want) > 1e-6 {
			t.Errorf("frame %d is at %f s, want %f", i, at, want)
			break
		}
	}
	n := min(len(got.raw), len(got.raw)/len(got.pts)*(want-2))
	if share := differing(got.raw[:n], filtered(t, original, workingName(t, got.media), "null")[:n]); share > 0.02 {
		t.Errorf("%.2f %% of the samples differ from the film's", 100*share)
	}
}

// Each format that has interlaced video in practice can be deinterlaced without conversion.
func TestDeinterlacerTakesCommonFormats(t *testing.T) {
	for _, name := range []string{"yuv420p", "yuvj420p", "yuv422p", "yuv422p10le", "yuv420p10le", "yuv444p", "gray"} {
		d, err := newDeinterlacer(av.Picture{Width: 96, Height: 64, Format: astiav.FindPixelFormatByName(name)}, fieldsOf{mode: DeinterlaceOn, timeBase: av25, out: av25, threads: 1})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d.close()
	}
	before := av.LiveContexts()
	if d, err := newDeinterlacer(av.Picture{Width: 96, Height: 64, Format: astiav.FindPixelFormatByName("nv12")}, fieldsOf{mode: DeinterlaceOn, timeBase: av25, out: av25, threads: 1}); err == nil {
		d.close()
		t.Error("nv12 is said to be taken, which would convert it silently")
	}
	if n := av.LiveContexts(); n != before {
		t.Errorf("%d contexts left by a failure", n-before)
	}
}
