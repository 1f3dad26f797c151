package native

/*
#include "native.h"
*/
import "C"

import (
	"bytes"
	"math/rand/v2"
	"unsafe"

	"golang.org/x/sys/cpu"

	"upscaler/internal/frame"
)

// path is one implementation of the arithmetic.
type path struct {
	name string
	c    *C.nat_path
}

func newPath(p *C.nat_path) path { return path{C.GoString(p.name), p} }

// scalarPath returns the definition.
func scalarPath() path { return newPath(C.nat_scalar()) }

// vectorPaths returns every other path that this CPU can run, those included that exist for tests.
func vectorPaths() []path {
	all := paths()
	all = all[:len(all)-1]
	if len(all) > 0 && C.nat_quads_avx2() != nil {
		all = append(all, newPath(C.nat_quads_avx2()))
	}
	return all
}

// paths returns the implementations that this CPU can run, the fastest first; the last is always the scalar one.
func paths() []path {
	var out []path
	add := func(p *C.nat_path, has bool) {
		if p != nil && has {
			out = append(out, newPath(p))
		}
	}
	x := cpu.X86
	avx2 := x.HasAVX2 && x.HasFMA
	add(C.nat_avx512vnni(), avx2 && x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512VNNI)
	add(C.nat_avxvnni(), avx2 && x.HasAVXVNNI)
	add(C.nat_avx2(), avx2)
	add(C.nat_dotprod(), cpu.ARM64.HasASIMDDP)
	add(C.nat_scalar(), true)
	return out
}

// choosePath takes the first path whose results on pictures of noise equal the scalar path's bit for bit. The scalar path is
// slow, so the pictures are small: a few blocks of pixels and a rest, more rows than the network is deep at the top and not
// at the bottom, once with bytes and once with 16-bit samples.
func (n *Network) choosePath() error {
	all := paths()
	scalar := all[len(all)-1]
	pictures := [][3]int{{29, 7, 8}, {14, 3, 10}} // width, height, depth
	src, want := make([]frame.Plane, len(pictures)), make([]frame.Plane, len(pictures))
	rng := rand.New(rand.NewPCG(1, 2))
	if len(all) > 1 {
		for i, p := range pictures {
			src[i] = newPlane(p[0], p[1], p[2])
			noise(src[i], rng)
			var err error
			if want[i], err = n.upscaleWith(scalar, src[i]); err != nil {
				return err
			}
		}
	}
	for _, p := range all[:len(all)-1] {
		same := true
		for i := range pictures {
			got, err := n.upscaleWith(p, src[i])
			if err != nil {
				return err
			}
			same = same && bytes.Equal(got.Data, want[i].Data)
		}
		if same {
			n.path = p
			return nil
		}
		n.refused = append(n.refused, p.name)
	}
	n.path = scalar
	return nil
}

// upscaleWith upscales a whole plane with the given path and memory of its own.
func (n *Network) upscaleWith(p path, src frame.Plane) (frame.Plane, error) {
	dst := newPlane(src.Width*n.prog.scale, src.Height*n.prog.scale, src.Depth)
	w, err := newWorkspace(n.memory(p, src.Width))
	if err != nil {
		return dst, err
	}
	defer w.free()
	n.run(p, src, dst, 0, src.Height, w, nil)
	return dst, nil
}

func newPlane(w, h, depth int) frame.Plane {
	stride := w
	if depth > 8 {
		stride *= 2
	}
	return frame.Plane{Data: make([]byte, stride*h), Stride: stride, Width: w, Height: h, Depth: depth}
}

// noise fills a plane with code values in which every frequency occurs: steps, slopes and grain.
func noise(p frame.Plane, rng *rand.Rand) {
	most := 1<<p.Depth - 1
	v := rng.IntN(most + 1)
	for y := range p.Height {
		row := p.Data[y*p.Stride:]
		for x := range p.Width {
			switch rng.IntN(8) {
			case 0:
				v = rng.IntN(most + 1)
			case 1:
				v = rng.IntN(2) * most
			default:
				v = min(max(v+rng.IntN(most/16)-most/32, 0), most)
			}
			if p.Depth == 8 {
				row[x] = byte(v)
			} else {
				row[2*x], row[2*x+1] = byte(v), byte(v>>8)
			}
		}
	}
}

// spoilVectorWeights makes every vector path's first 3x3 convolution wrong, for the test of the self-check.
func (n *Network) spoilVectorWeights() {
	for _, o := range unsafe.Slice(n.net.op, n.net.ops) {
		if o.kind != C.NAT_INPUT && o.k == 3 {
			*o.winograd ^= 64
			*o.quads ^= 64
			return
		}
	}
}
