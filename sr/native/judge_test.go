package native

import (
	"math/rand/v2"
	"testing"

	"upscaler/internal/frame"
	"upscaler/sr"
	"upscaler/sr/onnx"
)

// upscaleONNX upscales a plane with ONNX Runtime.
func upscaleONNX(t testing.TB, data []byte, src frame.Plane) frame.Plane {
	t.Helper()
	m, err := onnx.ReadModel(data)
	if err != nil {
		t.Fatal(err)
	}
	e, err := onnx.OpenCPU(onnx.CPUOptions{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	net, err := e.Open(sr.File{Model: m, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	size := 1
	if src.Depth > 8 {
		size = 2
	}
	b, err := net.NewBatch(src.Width, src.Height, size, 1)
	if err != nil {
		t.Fatal(err)
	}
	dst := newPlane(src.Width*m.Scale, src.Height*m.Scale, src.Depth)
	b.Load(0, sr.Window{Src: src, Dst: dst})
	if err := b.Infer(1); err != nil {
		t.Fatal(err)
	}
	b.Store(0)
	for _, c := range []interface{ Close() error }{b, net, e} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dst
}

// difference returns the largest difference of two planes' samples and how many differ.
func difference(a, b frame.Plane) (most, differing int) {
	at := func(p frame.Plane, i int) int {
		if p.Depth == 8 {
			return int(p.Data[i])
		}
		return int(p.Data[2*i]) | int(p.Data[2*i+1])<<8
	}
	for i := range a.Width * a.Height {
		d := at(a, i) - at(b, i)
		if d != 0 {
			differing++
		}
		most = max(most, d, -d)
	}
	return most, differing
}

// TestEqualsONNXRuntime holds the engine against ONNX Runtime on the same file: within one code value, and equal but for one
// sample in a thousand (what float32 rounds differently).
func TestEqualsONNXRuntime(t *testing.T) {
	for name, data := range testModels(t) {
		t.Run(name, func(t *testing.T) {
			n, err := Load(data)
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			rng := rand.New(rand.NewPCG(7, 7))
			for _, c := range [][3]int{{160, 90, 8}, {97, 61, 10}, {64, 48, 12}, {1, 1, 8}, {3, 50, 8}, {40, 40, 16}} {
				src := newPlane(c[0], c[1], c[2])
				noise(src, rng)
				got := newPlane(c[0]*n.Scale(), c[1]*n.Scale(), c[2])
				if err := n.Upscale(src, got); err != nil {
					t.Fatal(err)
				}
				most, differing := difference(got, upscaleONNX(t, data, src))
				total := got.Width * got.Height
				t.Logf("%dx%d, %d bits: %d of %d samples differ, by at most %d", c[0], c[1], c[2], differing, total, most)
				// In 16 bits float32's last digit is a tenth of a code value.
				if share := float64(differing) / float64(total); most > 1 || share > 0.001 && c[2] < 16 {
					t.Errorf("%dx%d, %d bits: %.4f of the samples differ, by at most %d", c[0], c[1], c[2], share, most)
				}
			}
		})
	}
}
