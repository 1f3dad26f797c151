package encode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"upscaler/decode"
	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// encodeFlat runs three frames of one colour through a job and returns the plan and the file's path.
func encodeFlat(t *testing.T, f frame.Format, w, h int, values [4]int, color av.Color, o Options) (*Layout, string) {
	t.Helper()
	ctx := context.Background()
	m := syntheticMedia(t, f, w, h, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, color)
	plan, err := Plan(m, o)
	if err != nil {
		t.Fatal(err)
	}
	out := newFileOutput(t, "flat")
	s, err := Open(ctx, out, m, plan, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pool := frame.NewPool(1 << 24)
	src := flatFrame(t, pool, f, w, h, values)
	luma := flatFrame(t, pool, frame.Format{Depth: f.Depth, Gray: true}, w*o.Scale, h*o.Scale, values)
	for i := range 3 {
		src.PTS, src.Duration = int64(i), 1
		if err := s.WriteFrame(ctx, src, luma.Luma()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	return plan, out.Name()
}

// checkFlat decodes a file and compares every sample, and the range.
func checkFlat(t *testing.T, path string, f frame.Format, w, h int, values [4]int, tolerance int, color av.Color) {
	t.Helper()
	ctx := context.Background()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	src, err := decode.Open(ctx, bytes.NewReader(data), decode.Options{Pool: frame.NewPool(1 << 24), Spool: newSpool(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	m := src.Media()
	defer m.Free()
	if m.Working != f || m.Width != w || m.Height != h {
		t.Fatalf("the file holds %s of %dx%d, want %s of %dx%d", formatName(m.Working), m.Width, m.Height, formatName(f), w, h)
	}
	got := m.Color
	if f.ChromaW == 0 || f.ChromaH == 0 {
		got.ChromaLocation = color.ChromaLocation // codecs say it of 4:2:0 only
	}
	if f.Gray || got.Space == av.SpaceUnknown && values[1] == values[2] {
		got.Space = color.Space // there is no chroma whose matrix could matter
	}
	if color.Range != 0 && got != color {
		t.Errorf("colour is %+v, want %+v", got, color)
	}
	n := 0
	for ; ; n++ {
		u, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range f.Planes() {
			compareFlat(t, u.Frame.Planes[i], fmt.Sprintf("frame %d, plane %d", n, i), values[i], tolerance)
		}
		u.Frame.Release()
	}
	if n != 3 {
		t.Errorf("%d frames, want 3", n)
	}
}

func compareFlat(t *testing.T, p frame.Plane, where string, want, tolerance int) {
	t.Helper()
	for y := range p.Height {
		for x := range p.Width {
			var got int
			if p.Depth > 8 {
				got = int(binary.LittleEndian.Uint16(p.Data[y*p.Stride+2*x:]))
			} else {
				got = int(p.Data[y*p.Stride+x])
			}
			if got < want-tolerance || got > want+tolerance {
				t.Fatalf("%s, sample %d,%d is %d, want %d", where, x, y, got, want)
			}
		}
	}
}

var (
	yuv420 = frame.Format{Depth: 8, ChromaW: 1, ChromaH: 1}
	yuv422 = frame.Format{Depth: 8, ChromaW: 1}
	yuv444 = frame.Format{Depth: 8}
	gray   = frame.Format{Depth: 8, Gray: true}
)

func deep(f frame.Format, depth int) frame.Format { f.Depth = depth; return f }

func transparent(f frame.Format) frame.Format { f.Alpha = true; return f }

func TestFlatColoursSurvive(t *testing.T) {
	// What each encoder takes as it is.
	exact := map[Codec][]frame.Format{
		CodecH264: {yuv420, yuv422, yuv444, gray, deep(yuv420, 10), deep(yuv422, 10), deep(yuv444, 10), deep(gray, 10)},
		CodecHEVC: {yuv420, yuv422, yuv444, gray, deep(yuv420, 10), deep(yuv422, 10), deep(yuv444, 10), deep(yuv420, 12), deep(yuv444, 12)},
		CodecVP9: {yuv420, yuv422, yuv444, deep(yuv420, 10), deep(yuv422, 10), deep(yuv444, 10),
			deep(yuv420, 12), deep(yuv444, 12)},
		CodecAV1:    {yuv420, deep(yuv420, 10)},
		CodecProRes: {deep(yuv422, 10), deep(yuv444, 10), transparent(deep(yuv444, 10))},
		CodecFFV1: {yuv420, yuv422, yuv444, gray, deep(yuv420, 9), deep(yuv422, 10), deep(yuv444, 12),
			deep(yuv420, 14), deep(yuv444, 16), deep(gray, 10), deep(gray, 12), deep(gray, 16), transparent(yuv420), transparent(yuv422),
			transparent(yuv444), transparent(deep(yuv420, 10)), transparent(deep(yuv444, 16))},
	}
	for codec, formats := range exact {
		e := encoderOf(codec)
		for _, f := range formats {
			for _, rng := range []int{av.RangeLimited, av.RangeFull} {
				t.Run(fmt.Sprintf("%s %s range %d", e.id, formatName(f), rng), func(t *testing.T) {
					unit := 1 << (f.Depth - 8)
					values := [4]int{180 * unit, 90 * unit, 200 * unit, 128 * unit}
					if rng == av.RangeFull {
						values = [4]int{250 * unit, 5 * unit, 252 * unit, 255 * unit}
					}
					o := Options{Container: ContainerMatroska, Codec: codec, Scale: 2, Threads: 1}
					if e.maxCRF > 0 {
						o.CRF = new(int)
						*o.CRF = max(e.minCRF, 4)
					}
					color := av.Color{Range: rng, Space: av.SpaceBT709, Primaries: av.PrimariesBT709, Transfer: av.TransferBT709, ChromaLocation: 1}
					plan, path := encodeFlat(t, f, 34, 36, values, color, o)
					if plan.target != f {
						t.Fatalf("encoded as %s", plan.PixelFormat)
					}
					if codec == CodecH264 && f.Gray {
						f, values[1], values[2] = frame.Format{Depth: f.Depth, ChromaW: 1, ChromaH: 1}, 128*unit, 128*unit // FFmpeg decodes it so
					}
					if codec == CodecProRes {
						color.Range = av.RangeLimited // ProRes cannot say otherwise, which a notice tells
					}
					checkFlat(t, path, f, 68, 72, values, 1, color)
				})
			}
		}
	}
}

func TestFlatColoursSurviveConversion(t *testing.T) {
	for _, c := range []struct {
		name     string
		codec    Codec
		from, to frame.Format
		w, h     int // of the input
		scale    int
	}{
		{"8 to 10 bits", CodecProRes, yuv422, deep(yuv422, 10), 34, 36, 2},
		{"4:2:0 to 4:2:2", CodecProRes, deep(yuv420, 10), deep(yuv422, 10), 34, 36, 2},
		{"4:4:4 to 4:2:0", CodecAV1, yuv444, yuv420, 34, 36, 2},
		{"12 to 10 bits", CodecAV1, deep(yuv420, 12), deep(yuv420, 10), 34, 36, 2},
		{"9 to 10 bits", CodecHEVC, deep(yuv420, 9), deep(yuv420, 10), 34, 36, 2},
		{"gray in 4:2:0", CodecAV1, gray, yuv420, 34, 36, 2},
		{"deep gray in 4:2:0", CodecVP9, deep(gray, 10), deep(yuv420, 10), 34, 36, 2},
		{"gray of 16 bits", CodecHEVC, deep(gray, 16), deep(yuv420, 12), 34, 36, 2},
		{"alpha dropped", CodecH264, transparent(yuv420), yuv420, 34, 36, 2},
		{"opaque stays opaque", CodecProRes, transparent(yuv444), transparent(deep(yuv444, 10)), 34, 36, 2},
		{"odd size grows", CodecH264, yuv420, yuv420, 33, 37, 3},
		{"odd size stays", CodecVP9, yuv420, yuv420, 33, 37, 3},
		{"odd 4:4:4 stays", CodecH264, yuv444, yuv444, 33, 37, 3},
		{"no scaling", CodecH264, yuv420, yuv420, 34, 36, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			values := func(f frame.Format) [4]int {
				if f.Depth < 8 {
					t.Fatal("depth")
				}
				unit := 1 << (f.Depth - 8)
				v := [4]int{180 * unit, 90 * unit, 200 * unit, 128 * unit}
				if f.Alpha {
					v[3] = 1<<f.Depth - 1
				}
				if c.from.Gray {
					v[1], v[2] = 128*unit, 128*unit
				}
				return v
			}
			o := Options{Container: ContainerMatroska, Codec: c.codec, Scale: c.scale, Threads: 1}
			if e := encoderOf(c.codec); e.maxCRF > 0 {
				o.CRF = new(int)
				*o.CRF = max(e.minCRF, 4)
			}
			plan, path := encodeFlat(t, c.from, c.w, c.h, values(c.from), av.Color{Range: 1, Space: 1, Primaries: 1, Transfer: 1}, o)
			if plan.target != c.to {
				t.Fatalf("encoded as %s, want %s", plan.PixelFormat, formatName(c.to))
			}
			w, h := c.w*c.scale, c.h*c.scale
			if encoderOf(c.codec).even && c.to.ChromaW > 0 {
				w, h = w+w&1, h+h&1
			}
			checkFlat(t, path, c.to, w, h, values(c.to), 1<<max(0, c.to.Depth-c.from.Depth), av.Color{})
			if changed := c.from != c.to || w != c.w*c.scale; changed != (len(plan.Notices) > 0) {
				t.Errorf("changed %v, notices %v", changed, plan.Notices)
			}
		})
	}
}
