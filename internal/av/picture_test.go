package av

import (
	"testing"

	"upscaler/internal/frame"

	"github.com/asticode/go-astiav"
)

func TestLayout(t *testing.T) {
	yuv := func(depth, w, h int) frame.Format { return frame.Format{Depth: depth, ChromaW: w, ChromaH: h} }
	alpha := func(f frame.Format) frame.Format { f.Alpha = true; return f }
	cases := []struct {
		name  string
		exact bool
		want  frame.Format // of Layout when exact, else of Nearest
	}{
		{"yuv420p", true, yuv(8, 1, 1)}, {"yuvj422p", true, yuv(8, 1, 0)}, {"yuv444p16le", true, yuv(16, 0, 0)},
		{"yuv420p10be", true, yuv(10, 1, 1)}, {"nv12", true, yuv(8, 1, 1)}, {"nv21", true, yuv(8, 1, 1)}, {"nv16", true, yuv(8, 1, 0)},
		{"nv24", true, yuv(8, 0, 0)}, {"p010le", true, yuv(10, 1, 1)}, {"p012le", true, yuv(12, 1, 1)}, {"p016le", true, yuv(16, 1, 1)},
		{"p210le", true, yuv(10, 1, 0)}, {"p416le", true, yuv(16, 0, 0)}, {"yuyv422", true, yuv(8, 1, 0)}, {"y210le", true, yuv(10, 1, 0)},
		{"yuva420p", true, alpha(yuv(8, 1, 1))}, {"yuva444p12le", true, alpha(yuv(12, 0, 0))}, {"ayuv64le", true, alpha(yuv(16, 0, 0))},
		{"gray", true, frame.Format{Depth: 8, Gray: true}}, {"gray12le", true, frame.Format{Depth: 12, Gray: true}},

		{"rgb24", false, yuv(8, 0, 0)}, {"rgba", false, alpha(yuv(8, 0, 0))}, {"gbrp14le", false, yuv(14, 0, 0)},
		{"gbrap14le", false, alpha(yuv(16, 0, 0))}, {"pal8", false, alpha(yuv(8, 0, 0))}, {"rgb48le", false, yuv(16, 0, 0)},
		{"x2rgb10le", false, yuv(10, 0, 0)}, {"yuv411p", false, yuv(8, 1, 0)}, {"yuv410p", false, yuv(8, 1, 1)},
		{"yuv440p12le", false, yuv(12, 0, 0)}, {"ya16le", false, alpha(yuv(16, 1, 1))}, {"monow", false, frame.Format{Depth: 8, Gray: true}},
		{"bayer_rggb8", false, yuv(8, 0, 0)}, {"gbrpf32le", false, yuv(16, 0, 0)},
	}
	for _, c := range cases {
		pf := astiav.FindPixelFormatByName(c.name)
		if pf == astiav.PixelFormatNone {
			t.Errorf("%s: FFmpeg has no such format", c.name)
			continue
		}
		got, ok := Layout(pf)
		if ok != c.exact {
			t.Errorf("%s: exact %v, want %v", c.name, ok, c.exact)
		}
		if !ok {
			got, ok = Nearest(pf, false)
		}
		if !ok || got != c.want {
			t.Errorf("%s: %+v %v, want %+v", c.name, got, ok, c.want)
		}
		if _, ok := PixelFormatOf(got); !ok {
			t.Errorf("%s: FFmpeg has no format like %+v", c.name, got)
		}
	}
	for _, hw := range []string{"cuda", "vaapi"} {
		if _, ok := Nearest(astiav.FindPixelFormatByName(hw), false); ok {
			t.Errorf("%s can be converted?", hw)
		}
	}
}

func TestLayoutAndPixelFormatAgree(t *testing.T) {
	for _, depth := range depths {
		for _, w := range []int{0, 1} {
			for _, h := range []int{0, 1} {
				for _, a := range []bool{false, true} {
					f := frame.Format{Depth: depth, ChromaW: w, ChromaH: h, Alpha: a}
					pf, ok := PixelFormatOf(f)
					if !ok || w == 0 && h == 1 {
						continue // 4:4:0 is converted
					}
					if got, ok := Layout(pf); !ok || got != f {
						t.Errorf("%+v is %s, which is %+v", f, PixelFormatName(pf), got)
					}
				}
			}
		}
	}
}

// Formats whose samples lie apart, shifted or in the other byte order come out as the planar picture they were made of.
func TestCopyPictureUnpacks(t *testing.T) {
	const w, h = 98, 66
	for planar, others := range map[string][]string{
		"yuv420p":     {"yuv420p", "nv12", "nv21"},
		"yuv422p":     {"nv16", "yuyv422", "uyvy422", "yvyu422"},
		"yuv444p":     {"nv24", "nv42"},
		"yuv420p10le": {"yuv420p10le", "yuv420p10be", "p010le", "p010be"},
		"yuv420p16le": {"p016le", "yuv420p16be"},
		"yuv422p10le": {"p210le", "y210le"},
		"yuv444p10le": {"p410le"},
	} {
		src := astiav.FindPixelFormatByName(planar)
		format, _ := Layout(src)
		var content []byte
		for i := range format.Bytes(w, h) {
			v := byte(i*7 + i/w*13)
			if format.Depth == 10 && i%2 == 1 {
				v &= 3
			}
			content = append(content, v)
		}
		for _, name := range others {
			in, out := newFrame(t, src, w, h), newFrame(t, astiav.FindPixelFormatByName(name), w, h)
			if err := in.Data().SetBytes(content, 1); err != nil {
				t.Fatal(err)
			}
			packed := in
			if name != planar {
				c, err := astiav.CreateSoftwareScaleContext(w, h, src, w, h, out.PixelFormat(), astiav.NewSoftwareScaleContextFlags())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Free()
				if err := c.ScaleFrame(in, out); err != nil {
					t.Fatal(err)
				}
				packed = out
			}
			got, err := frame.NewPool(1<<20).Get(t.Context(), format, w, h)
			if err != nil {
				t.Fatal(err)
			}
			if layout, ok := Layout(packed.PixelFormat()); !ok || layout != format {
				t.Fatalf("%s is %+v", name, layout)
			}
			CopyPicture(got, packed)
			at, wrong := 0, 0
			for i := range format.Planes() {
				p := got.Planes[i]
				for y := range p.Height {
					for x := range p.Width * format.SampleBytes() {
						if p.Data[y*p.Stride+x] != content[at] {
							wrong++
						}
						at++
					}
				}
			}
			if wrong > 0 {
				t.Errorf("%s: %d of %d bytes differ", name, wrong, len(content))
			}
		}
	}
}

func newFrame(t *testing.T, pf astiav.PixelFormat, w, h int) *astiav.Frame {
	t.Helper()
	f := AllocFrame()
	t.Cleanup(func() { FreeFrame(f) })
	f.SetWidth(w)
	f.SetHeight(h)
	f.SetPixelFormat(pf)
	if err := f.AllocBuffer(0); err != nil {
		t.Fatal(err)
	}
	return f
}
