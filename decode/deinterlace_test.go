package decode

import (
	"slices"
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

// Each format that has interlaced video in practice can be deinterlaced without conversion.
func TestDeinterlacerTakesCommonFormats(t *testing.T) {
	for _, name := range []string{"yuv420p", "yuvj420p", "yuv422p", "yuv422p10le", "yuv420p10le", "yuv444p", "gray"} {
		d, err := newDeinterlacer(av.Picture{Width: 96, Height: 64, Format: astiav.FindPixelFormatByName(name)}, av25, true, 1)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d.close()
	}
	before := av.LiveContexts()
	if d, err := newDeinterlacer(av.Picture{Width: 96, Height: 64, Format: astiav.FindPixelFormatByName("nv12")}, av25, true, 1); err == nil {
		d.close()
		t.Error("nv12 is said to be taken, which would convert it silently")
	}
	if n := av.LiveContexts(); n != before {
		t.Errorf("%d contexts left by a failure", n-before)
	}
}
