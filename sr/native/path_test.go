package native

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"upscaler/internal/frame"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testModels returns the quantized networks of models/ by file name.
func testModels(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("../../models/*-int8.onnx")
	if err != nil || len(names) == 0 {
		t.Fatalf("no quantized models: %v", err)
	}
	out := map[string][]byte{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(name)] = data
	}
	return out
}

// randomNetwork makes a network of LMSWN's shape with weights, scales and zero points of every kind, the extreme ones included:
// what the vector paths must survive is more than what training makes. Results neither vanish nor all saturate.
func randomNetwork(rng *rand.Rand, channels, blocks, scale int) *network {
	net := &network{scale: scale, input: quant{1.0 / 255, rng.IntN(3)}}
	add := func(r root) tensor {
		net.roots = append(net.roots, r)
		return tensor{root: len(net.roots) - 1, n: r.channels}
	}
	newConv := func(src []tensor, k, cout int, in quant, relu bool) (*conv, quant) {
		c := &conv{k: k, cout: cout, src: src, in: in, relu: relu}
		for _, t := range src {
			c.cin += t.n
		}
		out := quant{in.scale, 0}
		if !relu || rng.IntN(3) == 0 {
			out.zero = 60 + rng.IntN(130)
		}
		size := math.Sqrt(float64(c.cin * k * k))
		for range cout {
			c.scales = append(c.scales, float32((0.5+rng.Float64())*0.03/size))
			c.bias = append(c.bias, float32(rng.NormFloat64()*20)*in.scale)
		}
		for range cout * c.cin * k * k {
			w := int8(rng.IntN(256) - 128)
			switch rng.IntN(8) {
			case 0:
				w = -128
			case 1:
				w = 127
			}
			c.weights = append(c.weights, w)
		}
		return c, out
	}
	requantize := func(t tensor, from quant) (tensor, quant) {
		if rng.IntN(2) == 0 {
			return t, from
		}
		to := quant{from.scale * float32(0.7+0.6*rng.Float64()), from.zero}
		table := &lut{}
		for b := range table {
			table[b] = to.byteOf(from.real(b))
		}
		t.steps = append(t.steps[:len(t.steps):len(t.steps)], table)
		return t, to
	}

	x := add(root{channels: 1, out: net.input})
	c, q := newConv([]tensor{x}, 3+2*rng.IntN(4), channels, net.input, true)
	c, q = newConv([]tensor{add(root{channels: channels, out: q, conv: c})}, 1, channels, q, false)
	f0, f0q := add(root{channels: channels, out: q, conv: c}), q
	o, oq := f0, f0q
	var all []tensor
	for range blocks {
		r, rq := o, oq
		var kept []tensor
		var keptq quant
		for range 3 {
			c, q := newConv([]tensor{r}, 3, channels, rq, true)
			y := add(root{channels: channels, out: q, conv: c})
			d := y
			d.n = channels / 4
			if keptq.scale == 0 {
				d, keptq = requantize(d, q)
			}
			kept = append(kept, d)
			y.first, y.n = channels/4, channels-channels/4
			r, rq = requantize(y, q)
		}
		c, q := newConv([]tensor{r}, 3, channels/4, rq, false)
		kept = append(kept, add(root{channels: channels / 4, out: q, conv: c}))
		c, q = newConv(kept, 1, channels, keptq, false)
		fused := add(root{channels: channels, out: q, conv: c})
		b, bq := requantize(o, oq)
		sum := quant{q.scale * 1.5, 100 + rng.IntN(50)}
		o = add(root{channels: channels, out: sum, sum: &[2]realTensor{
			{tensor: fused, quant: q}, {tensor: b, quant: bq, factors: []float32{0.9}},
		}})
		oq = sum
		all = append(all, o)
	}
	c, q = newConv(all, 1, channels, oq, true)
	c, q = newConv([]tensor{add(root{channels: channels, out: q, conv: c})}, 3, channels, q, false)
	g := add(root{channels: channels, out: q, conv: c})
	sum := quant{q.scale * 1.5, 120}
	f := add(root{channels: channels, out: sum, sum: &[2]realTensor{{tensor: f0, quant: f0q}, {tensor: g, quant: q}}})
	net.last, _ = newConv([]tensor{f}, 3, scale*scale, sum, false)
	return net
}

func loadNetwork(t testing.TB, net *network) *Network {
	t.Helper()
	prog, err := lower(net)
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNetwork(prog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// padded returns a plane whose rows have a stride of their own and whose data begins and ends with guard bytes; check fails
// the test when a byte outside the samples changed.
func padded(t testing.TB, w, h, depth, pad int) (p frame.Plane, check func()) {
	size := 1
	if depth > 8 {
		size = 2
	}
	stride := w*size + pad
	all := make([]byte, 64+stride*(h-1)+w*size+64)
	for i := range all {
		all[i] = 0xa5
	}
	p = frame.Plane{Data: all[64 : len(all)-64], Stride: stride, Width: w, Height: h, Depth: depth}
	return p, func() {
		t.Helper()
		for i, b := range all {
			at := i - 64
			inside := at >= 0 && at < len(p.Data) && at%stride < w*size
			if !inside && b != 0xa5 {
				t.Fatalf("%dx%d, %d bits, stride %d: byte %d outside the plane was written", w, h, depth, stride, at)
			}
		}
	}
}

func samples(p frame.Plane) []byte {
	size := 1
	if p.Depth > 8 {
		size = 2
	}
	var out []byte
	for y := range p.Height {
		out = append(out, p.Data[y*p.Stride:][:p.Width*size]...)
	}
	return out
}

// comparePaths upscales a picture of noise with every path this CPU has and compares the results with the scalar path's.
func comparePaths(t testing.TB, n *Network, w, h, depth, pad int, rng *rand.Rand) {
	t.Helper()
	src, checkSrc := padded(t, w, h, depth, pad)
	noise(src, rng)
	comparePathsOn(t, n, src, pad)
	checkSrc()
}

// comparePathsOn does so with a picture of the caller's. pad: bytes between rows of the results.
func comparePathsOn(t testing.TB, n *Network, src frame.Plane, pad int) {
	t.Helper()
	w, h, depth := src.Width, src.Height, src.Depth
	want, err := n.upscaleWith(scalarPath(), src)
	if err != nil {
		t.Fatal(err)
	}
	wantSamples := samples(want)
	for _, p := range vectorPaths() {
		dst, check := padded(t, w*n.Scale(), h*n.Scale(), depth, pad)
		work, err := newWorkspace(n.memory(p, w))
		if err != nil {
			t.Fatal(err)
		}
		n.run(p, src, dst, 0, h, work, nil)
		work.free()
		check()
		if !bytes.Equal(samples(dst), wantSamples) {
			t.Fatalf("%s differs from scalar: %dx%d, %d bits, scale %d", p.name, w, h, depth, n.Scale())
		}
	}
}

// photograph returns a real picture, 64x48, with the given depth: its 8 bits in front, noise behind them.
func photograph(t testing.TB, depth int) frame.Plane {
	t.Helper()
	file, err := os.Open("../../models/golden/input.png")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	decoded, err := png.Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	gray, ok := decoded.(*image.Gray)
	if !ok {
		t.Fatalf("%s holds %T", file.Name(), decoded)
	}
	p := newPlane(gray.Rect.Dx(), gray.Rect.Dy(), depth)
	rng := rand.New(rand.NewPCG(1, 1))
	for i, v := range gray.Pix {
		if depth == 8 {
			p.Data[i] = v
		} else {
			binary.LittleEndian.PutUint16(p.Data[2*i:], uint16(int(v)<<(depth-8)+rng.IntN(1<<(depth-8))))
		}
	}
	return p
}

func TestVectorPathsEqualScalar(t *testing.T) {
	if len(vectorPaths()) == 0 {
		t.Skip("this CPU has no vector path")
	}
	for _, p := range vectorPaths() {
		t.Log(p.name)
	}
	// Every width and every height from 1 on, past several blocks of every path.
	small := loadNetwork(t, randomNetwork(rand.New(rand.NewPCG(1, 1)), 16, 1, 2))
	larger := loadNetwork(t, randomNetwork(rand.New(rand.NewPCG(1, 2)), 32, 1, 3))
	t.Run("sizes", func(t *testing.T) {
		rng := rand.New(rand.NewPCG(2, 2))
		for i := 1; i <= 70; i++ {
			comparePaths(t, small, i, 1+i%9, 8, i%5, rng)
			comparePaths(t, small, 1+i%23, i, 8+i%9, 2*(i%3), rng)
			comparePaths(t, larger, i, 1+i%4, 8+i%2, 0, rng)
		}
		for w := 1; w <= 6; w++ {
			for h := 1; h <= 6; h++ {
				comparePaths(t, small, w, h, 8, 0, rng)
			}
		}
		comparePaths(t, small, 397, 5, 8, 0, rng) // several strips and chunks of what is turned or widened at once
		comparePaths(t, larger, 209, 3, 16, 0, rng)
	})
	for seed, c := range []struct{ channels, blocks, scale int }{
		{16, 2, 2}, {16, 1, 3}, {16, 3, 4}, {32, 1, 2}, {32, 2, 3}, {64, 1, 4}, {64, 1, 2}, {48, 1, 1}, {16, 1, 8},
	} {
		t.Run(fmt.Sprintf("c%d-b%d-x%d", c.channels, c.blocks, c.scale), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(3, uint64(seed)))
			n := loadNetwork(t, randomNetwork(rng, c.channels, c.blocks, c.scale))
			comparePaths(t, n, 13, 11, 8, 0, rng)
			comparePaths(t, n, 26, 3, 10, 2, rng)
			comparePaths(t, n, 5, 14, 16, 1, rng)
		})
	}
	for name, data := range testModels(t) {
		t.Run(name, func(t *testing.T) {
			n, err := Load(data)
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			rng := rand.New(rand.NewPCG(4, 4))
			comparePaths(t, n, 67, 21, 8, 3, rng)
			comparePaths(t, n, 33, 10, 12, 0, rng)
			for _, depth := range []int{8, 10, 12, 16} {
				comparePathsOn(t, n, photograph(t, depth), 0)
			}
		})
	}
}

// The test above could not fail if the random networks gave the same answer whatever they are fed.
func TestRandomNetworksDepend(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, channels := range []int{16, 32, 64} {
		n := loadNetwork(t, randomNetwork(rng, channels, 1, 2))
		values := map[byte]bool{}
		src := newPlane(40, 20, 8)
		noise(src, rng)
		a, err := n.upscaleWith(n.path, src)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range a.Data {
			values[v] = true
		}
		src.Data[10*40+20] ^= 0x80
		b, err := n.upscaleWith(n.path, src)
		if err != nil {
			t.Fatal(err)
		}
		changed := 0
		for i := range a.Data {
			if a.Data[i] != b.Data[i] {
				changed++
			}
		}
		if len(values) < 100 || changed < 50 {
			t.Errorf("%d channels: %d different values, %d samples depend on one of the input", channels, len(values), changed)
		}
	}
}

// What one output row depends on must reach as far as Radius says and no further; bands of one picture give what the whole
// picture gives.
func TestBandsEqualWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	n := loadNetwork(t, randomNetwork(rng, 16, 1, 2))
	for _, h := range []int{1, 2, 5, 31, 64} {
		src := newPlane(37, h, 8)
		noise(src, rng)
		whole, banded := newPlane(74, 2*h, 8), newPlane(74, 2*h, 8)
		if err := n.Upscale(src, whole); err != nil {
			t.Fatal(err)
		}
		for y := 0; y < h; {
			next := min(h, y+1+rng.IntN(9))
			if err := n.UpscaleRows(src, banded, y, next); err != nil {
				t.Fatal(err)
			}
			y = next
		}
		if !bytes.Equal(whole.Data, banded.Data) {
			t.Errorf("%d rows in bands differ from the whole picture", h)
		}
	}
}
