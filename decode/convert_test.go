package decode

import (
	"fmt"
	"io"
	"math"
	"slices"
	"testing"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/notice"
)

// TestConvertsRGB sends flat patches of known colours through the formats that hold RGB, and compares with BT.709 at full range
// (Rec. ITU-R BT.709-6, item 3.2; ISO/IEC 23091-2, 8.3 for the full range).
func TestConvertsRGB(t *testing.T) {
	yuv444 := func(depth int, alpha bool) frame.Format { return frame.Format{Depth: depth, Alpha: alpha} }
	cases := []struct {
		file, args string
		want       frame.Format
	}{
		{"rgb.png", "-pix_fmt rgb24", yuv444(8, false)},
		{"rgb48.png", "-pix_fmt rgb48be", yuv444(16, false)},
		{"opaque.png", "-pix_fmt rgba", yuv444(8, false)},
		{"palette.png", "-frames:v 1 -filter_complex split[a][b];[a]palettegen[p];[b][p]paletteuse", yuv444(8, false)},
		{"gbrp10.mkv", "-frames:v 1 -c:v ffv1 -pix_fmt gbrp10le", yuv444(10, false)},
		{"gbrp12.mkv", "-frames:v 1 -c:v ffv1 -pix_fmt gbrp12le", yuv444(12, false)},
		{"rgb.mkv", "-frames:v 1 -c:v libx264rgb -qp 0 -pix_fmt rgb24", yuv444(8, false)},
		{"rgb.bmp", "-frames:v 1 -pix_fmt bgr24", yuv444(8, false)},
		{"rgb.gif", "-frames:v 1 -filter_complex split[a][b];[a]palettegen[p];[b][p]paletteuse", yuv444(8, false)},
	}
	for _, c := range cases {
		for _, rgb := range [][3]int{{255, 255, 255}, {0, 0, 255}, {200, 100, 50}} {
			color := fmt.Sprintf("0x%02x%02x%02x", rgb[0], rgb[1], rgb[2])
			path := generate(t, color+c.file, "-f lavfi -i color="+color+":size=34x18:d=0.04,format=gbrp "+c.args)
			f, m := firstFrame(t, path)
			if f.Format != c.want {
				t.Fatalf("%s: frames are %+v, want %+v", c.file, f.Format, c.want)
			}
			if want := (av.Color{Range: av.RangeFull, Space: av.SpaceBT709, Primaries: av.PrimariesBT709, Transfer: av.TransferSRGB}); m.Color != want {
				t.Errorf("%s: colour is %+v, want %+v", c.file, m.Color, want)
			}
			top := float64(int(1)<<c.want.Depth - 1)
			// ffmpeg makes deeper samples of the generator's 8 bits by shifting them.
			r, g, b := float64(rgb[0]<<(c.want.Depth-8))/top, float64(rgb[1]<<(c.want.Depth-8))/top, float64(rgb[2]<<(c.want.Depth-8))/top
			y := 0.2126*r + 0.7152*g + 0.0722*b
			want := [3]float64{y * top, ((b-y)/1.8556)*top + (top+1)/2, ((r-y)/1.5748)*top + (top+1)/2}
			tolerance := 1.5 * math.Max(1, top/4096) // FFmpeg's scaler calculates with 15 bits
			for i := range 3 {
				p := f.Planes[i]
				if got := sample(p, p.Width/2, p.Height/2); math.Abs(float64(got)-math.Min(want[i], top)) > tolerance {
					t.Errorf("%s of %s: plane %d is %d, want %.1f", color, c.file, i, got, want[i])
				}
			}
		}
	}
}

// firstFrame decodes the first frame of a file. It stays readable after the pool has it back, since nothing else is asked of that.
func firstFrame(t *testing.T, path string) (frame.Frame, *av.Media) {
	t.Helper()
	s, err := Open(t.Context(), stream(readFile(t, path)), Options{Pool: newPool()})
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	defer s.Media().Free()
	defer s.Close()
	for {
		u, err := s.Next(t.Context())
		if err == io.EOF {
			t.Fatalf("%s: no frame", path)
		}
		if err != nil {
			t.Fatal(err)
		}
		if u.Frame != nil {
			f := *u.Frame
			u.free()
			return f, s.Media()
		}
		u.free()
	}
}

func sample(p frame.Plane, x, y int) int {
	if p.Depth > 8 {
		at := p.Data[y*p.Stride+2*x:]
		return int(at[0]) | int(at[1])<<8
	}
	return int(p.Data[y*p.Stride+x])
}

// TestNearestFormats checks where formats without a planar YUV layout of their own go, that their luma is not touched on the
// way where they have one, and that the user is told.
func TestNearestFormats(t *testing.T) {
	cases := []struct {
		file, args string
		want       frame.Format
		notice     bool
		luma       bool // unchanged
	}{
		{"440.mkv", "-frames:v 3 -c:v ffv1 -pix_fmt yuv440p", frame.Format{Depth: 8}, true, true},
		{"440-10.mkv", "-frames:v 3 -c:v ffv1 -pix_fmt yuv440p10le", frame.Format{Depth: 10}, true, true},
		{"411.mkv", "-frames:v 3 -c:v ffv1 -pix_fmt yuv411p", frame.Format{Depth: 8, ChromaW: 1}, true, true},
		{"410.mkv", "-frames:v 3 -c:v ffv1 -pix_fmt yuv410p", frame.Format{Depth: 8, ChromaW: 1, ChromaH: 1}, true, true},
		{"gray-alpha.png", "-frames:v 1 -pix_fmt ya8 -vf format=rgba,colorchannelmixer=aa=0.5", frame.Format{Depth: 8, Alpha: true, ChromaW: 1, ChromaH: 1}, true, false},
		{"gray-opaque.png", "-frames:v 1 -pix_fmt ya8", frame.Format{Depth: 8, Gray: true}, true, false},
		{"gray.png", "-frames:v 1 -pix_fmt gray", frame.Format{Depth: 8, Gray: true}, false, true},
		{"gray16.png", "-frames:v 1 -pix_fmt gray16be", frame.Format{Depth: 16, Gray: true}, false, false},
		{"mono.png", "-frames:v 1 -pix_fmt monob", frame.Format{Depth: 8, Gray: true}, true, false},
		{"rgb-alpha.png", "-frames:v 1 -pix_fmt rgba -vf format=rgba,colorchannelmixer=aa=0.5", frame.Format{Depth: 8, Alpha: true}, true, false},
		{"rgb565.avi", "-frames:v 3 -c:v rawvideo -pix_fmt rgb565le", frame.Format{Depth: 8}, true, false},
		{"gbrap12.mkv", "-frames:v 3 -c:v ffv1 -pix_fmt gbrap12le -vf format=gbrap12le,colorchannelmixer=aa=0.5", frame.Format{Depth: 12, Alpha: true}, true, false},
	}
	for _, c := range cases {
		t.Run(c.file, func(t *testing.T) {
			path := generate(t, c.file, "-f lavfi -i testsrc=size=97x65:rate=25 "+c.args)
			got, err := decodeAll(t, stream(readFile(t, path)), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got.media.Working != c.want {
				t.Errorf("frames are %+v, want %+v", got.media.Working, c.want)
			}
			if n := got.codes()[notice.PixelFormatConverted]; (n == 1) != c.notice || n > 1 {
				t.Errorf("notices %v", got.notices)
			}
			if !c.luma {
				return
			}
			native := program(t, "ffmpeg", "-v", "error", "-nostdin", "-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-")
			luma := 97 * 65 * c.want.SampleBytes()
			for i := range got.pts {
				ours, theirs := got.raw[i*int(c.want.Bytes(97, 65)):], native[i*len(native)/len(got.pts):]
				if !slices.Equal(ours[:luma], theirs[:luma]) {
					t.Errorf("luma of frame %d differs", i)
				}
			}
		})
	}
}
