package native

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"upscaler/internal/frame"
	"upscaler/models"
	"upscaler/sr"
	"upscaler/sr/onnx"
)

func TestUpscaleRefusesWrongPlanes(t *testing.T) {
	n := loadNetwork(t, randomNetwork(rand.New(rand.NewPCG(1, 1)), 16, 1, 2))
	plane := func(w, h, depth, stride, bytes int) frame.Plane {
		return frame.Plane{Data: make([]byte, bytes), Stride: stride, Width: w, Height: h, Depth: depth}
	}
	good := plane(8, 4, 8, 8, 32)
	for _, c := range []struct {
		name     string
		src, dst frame.Plane
		want     string
	}{
		{"one byte short", plane(8, 4, 8, 8, 31), plane(16, 8, 8, 16, 128), "source"},
		{"output one byte short", good, plane(16, 8, 8, 16, 127), "destination"},
		{"no data", plane(8, 4, 8, 8, 0), plane(16, 8, 8, 16, 128), "source"},
		{"stride below width", plane(8, 4, 8, 7, 100), plane(16, 8, 8, 16, 128), "source"},
		{"negative stride", plane(8, 4, 8, -8, 100), plane(16, 8, 8, 16, 128), "source"},
		{"two bytes a sample do not fit", plane(8, 4, 10, 8, 32), plane(16, 8, 10, 32, 256), "source"},
		{"no pixels", plane(0, 4, 8, 8, 32), plane(0, 8, 8, 16, 128), "0x4"},
		{"seven bits", plane(8, 4, 7, 8, 32), plane(16, 8, 7, 16, 128), "7 bits"},
		{"seventeen bits", plane(8, 4, 17, 16, 64), plane(16, 8, 17, 32, 256), "17 bits"},
		{"depths differ", good, plane(16, 8, 10, 32, 256), "10 bits"},
		{"wrong scale", good, plane(24, 12, 8, 24, 288), "24x12"},
		{"huge", plane(maxWidth+1, 1, 8, maxWidth+1, maxWidth+1), plane(2*maxWidth+2, 2, 8, 2*maxWidth+2, 4*maxWidth+4), "larger"},
	} {
		if err := n.Upscale(c.src, c.dst); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
	dst := plane(16, 8, 8, 16, 128)
	for _, rows := range [][2]int{{-1, 4}, {0, 5}, {2, 2}, {3, 1}} {
		if err := n.UpscaleRows(good, dst, rows[0], rows[1]); err == nil {
			t.Errorf("rows %v of 4 were accepted", rows)
		}
	}
	if err := n.Upscale(good, dst); err != nil {
		t.Error(err)
	}
}

func TestUpscaleAfterClose(t *testing.T) {
	prog, err := lower(randomNetwork(rand.New(rand.NewPCG(1, 1)), 16, 1, 2))
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNetwork(prog)
	if err != nil {
		t.Fatal(err)
	}
	src, dst := newPlane(8, 8, 8), newPlane(16, 16, 8)
	if err := n.Upscale(src, dst); err != nil {
		t.Fatal(err)
	}
	n.Close()
	if err := n.Upscale(src, dst); err == nil {
		t.Error("a closed network upscaled")
	}
	n.Close()
}

// A code value beyond the depth's largest, as a damaged stream may hold, counts as the largest.
func TestCodesBeyondDepth(t *testing.T) {
	n := loadNetwork(t, randomNetwork(rand.New(rand.NewPCG(1, 1)), 16, 1, 2))
	src, most := newPlane(20, 10, 10), newPlane(20, 10, 10)
	noise(src, rand.New(rand.NewPCG(2, 2)))
	copy(most.Data, src.Data)
	for i := 0; i < len(src.Data); i += 14 {
		src.Data[i], src.Data[i+1] = 0xff, 0xff
		most.Data[i], most.Data[i+1] = 0xff, 0x03
	}
	for _, p := range append(vectorPaths(), scalarPath()) {
		a, err := n.upscaleWith(p, src)
		if err != nil {
			t.Fatal(err)
		}
		b, err := n.upscaleWith(p, most)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Data, b.Data) {
			t.Errorf("%s: 65535 in a 10-bit plane is not taken for 1023", p.name)
		}
	}
}

func TestUpscaleAllocatesNothing(t *testing.T) {
	n := loadNetwork(t, randomNetwork(rand.New(rand.NewPCG(1, 1)), 16, 1, 2))
	src, dst := newPlane(64, 48, 8), newPlane(128, 96, 8)
	if a := testing.AllocsPerRun(20, func() {
		if err := n.Upscale(src, dst); err != nil {
			t.Fatal(err)
		}
	}); a != 0 {
		t.Errorf("%v allocations a frame", a)
	}
	if len(n.idle) != 1 {
		t.Errorf("%d workspaces after calls one after the other, want 1", len(n.idle))
	}
}

// Goroutines share a network; each frame must come out as if it were alone, also when sizes change from frame to frame.
func TestConcurrentUpscale(t *testing.T) {
	n := loadNetwork(t, randomNetwork(rand.New(rand.NewPCG(1, 1)), 16, 1, 2))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(9, uint64(i)))
			for range 10 {
				src := newPlane(1+rng.IntN(200), 1+rng.IntN(30), 8+2*rng.IntN(2))
				noise(src, rng)
				want, err := n.upscaleWith(n.path, src)
				if err != nil {
					t.Error(err)
					return
				}
				got := newPlane(want.Width, want.Height, want.Depth)
				if err := n.Upscale(src, got); err != nil {
					t.Error(err)
				} else if !bytes.Equal(got.Data, want.Data) {
					t.Errorf("%dx%d differs when frames run side by side", src.Width, src.Height)
				}
			}
		})
	}
	wg.Wait()
	if len(n.idle) > 4 {
		t.Errorf("%d workspaces for 4 goroutines", len(n.idle))
	}
}

// A path that computes something else must not be chosen.
func TestSelfCheckRefuses(t *testing.T) {
	if len(vectorPaths()) == 0 {
		t.Skip("this CPU has no vector path")
	}
	prog, err := lower(randomNetwork(rand.New(rand.NewPCG(1, 1)), 16, 1, 2))
	if err != nil {
		t.Fatal(err)
	}
	n := &Network{prog: prog}
	n.net = n.mem.program(prog)
	defer n.Close()
	n.spoilVectorWeights()
	if err := n.choosePath(); err != nil {
		t.Fatal(err)
	}
	if n.Path() != "scalar" || len(n.Refused()) != len(paths())-1 {
		t.Errorf("chose %s, refused %v although one vector weight is wrong", n.Path(), n.Refused())
	}
}

func TestLoadRefuses(t *testing.T) {
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range files {
		_, err := Load(f.Data)
		var unsupported *UnsupportedError
		switch {
		case f.Precision == "int8" && err != nil:
			t.Errorf("%s: %v", f.Name, err)
		case f.Precision != "int8" && !errors.As(err, &unsupported):
			t.Errorf("%s: error %v, want an UnsupportedError", f.Name, err)
		case f.Precision != "int8":
			seen++
		}
		if Supports(f) != (err == nil) {
			t.Errorf("%s: Supports says %v", f.Name, Supports(f))
		}
	}
	if seen == 0 {
		t.Error("no float model to refuse")
	}
	for name, data := range map[string][]byte{"empty": nil, "text": []byte("hello, world"), "a tag only": {0x3a}} {
		if _, err := Load(data); err == nil {
			t.Errorf("%s was loaded", name)
		}
	}
	for name, data := range testModels(t) {
		// The last bytes are metadata, which the kernels do not read: a file cut between two entries of it is whole to them.
		const metadata = 2000
		for cut := 0; cut < len(data)-metadata; cut += 997 {
			if n, err := Load(data[:cut]); err == nil {
				n.Close()
				t.Errorf("%s cut at byte %d was loaded", name, cut)
			}
		}
	}
}

// The scheduler with this engine gives what the network alone gives, whole or where only a part of a tile is kept.
func TestEngine(t *testing.T) {
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		t.Fatal(err)
	}
	other, err := onnx.OpenCPU(onnx.CPUOptions{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	refused, told := map[string]error{}, 0
	e := NewEngine(Options{Workers: 2, Other: other, Refused: func(f sr.File, why error) { refused[f.Name] = why },
		Loaded: func(f sr.File, path string, refused []string) {
			if path != paths()[0].name || len(refused) > 0 {
				t.Errorf("%s runs as %s, refused %v", f.Name, path, refused)
			}
			told++
		}})
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	native, handed := 0, 0
	for _, f := range files {
		net, err := e.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		if l, ok := net.(loaded); ok {
			native++
			testWindows(t, l)
		} else {
			handed++
			if refused[f.Name] == nil {
				t.Errorf("%s was handed on and nobody was told why", f.Name)
			}
		}
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(refused) != handed || told != native {
		t.Errorf("%d models were told to be refused and %d to be loaded, but %d were handed on and %d not", len(refused), told, handed, native)
	}
	if native == 0 || handed == 0 {
		t.Errorf("%d models ran here, %d were handed on; want some of each", native, handed)
	}
	if _, err := NewEngine(Options{}).Open(sr.File{Data: []byte("no model")}); err == nil {
		t.Error("an engine of its own loaded something that is no model")
	}
}

func testWindows(t *testing.T, n loaded) {
	t.Helper()
	src := newPlane(45, 37, 10)
	noise(src, rand.New(rand.NewPCG(8, 8)))
	s := n.Scale()
	want := newPlane(45*s, 37*s, 10)
	if err := n.Upscale(src, want); err != nil {
		t.Fatal(err)
	}
	b, err := n.NewBatch(45, 37, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	whole, part := newPlane(45*s, 37*s, 10), newPlane(11*s, 9*s, 10)
	b.Load(0, sr.Window{Src: src, Dst: whole})
	b.Load(1, sr.Window{Src: src, Dst: part, SkipX: 20 * s, SkipY: 17*s + 1})
	if err := b.Infer(2); err != nil {
		t.Fatal(err)
	}
	b.Store(0)
	b.Store(1)
	if !bytes.Equal(whole.Data, want.Data) {
		t.Error("a whole window differs")
	}
	for y := range part.Height {
		got := part.Data[y*part.Stride:][:part.Stride]
		if !bytes.Equal(got, want.Data[(17*s+1+y)*want.Stride+2*20*s:][:part.Stride]) {
			t.Fatalf("row %d of a part differs", y)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzUpscale tries sizes, depths, strides and bands: every path must equal the scalar one and write nothing but its samples.
func FuzzUpscale(f *testing.F) {
	for _, c := range [][5]int{{1, 1, 0, 0, 0}, {70, 3, 1, 5, 1}, {13, 40, 2, 2, 7}, {24, 17, 8, 1, 3}, {97, 2, 4, 0, 0}} {
		f.Add(uint8(c[0]), uint8(c[1]), uint8(c[2]), uint8(c[3]), uint8(c[4]), uint64(1))
	}
	var nets []*Network
	for i, c := range [][3]int{{16, 1, 2}, {32, 1, 3}} {
		nets = append(nets, loadNetwork(f, randomNetwork(rand.New(rand.NewPCG(1, uint64(i))), c[0], c[1], c[2])))
	}
	f.Fuzz(func(t *testing.T, w, h, depth, pad, row uint8, seed uint64) {
		width, height, bits := 1+int(w)%130, 1+int(h)%60, 8+int(depth)%9
		rng := rand.New(rand.NewPCG(seed, 1))
		n := nets[int(seed%2)]
		comparePaths(t, n, width, height, bits, int(pad), rng)

		src := newPlane(width, height, bits)
		noise(src, rng)
		want := newPlane(width*n.Scale(), height*n.Scale(), bits)
		if err := n.Upscale(src, want); err != nil {
			t.Fatal(err)
		}
		got, check := padded(t, want.Width, want.Height, bits, int(pad))
		cut := int(row) % height
		for _, rows := range [][2]int{{cut, height}, {0, cut}} {
			if rows[0] < rows[1] {
				if err := n.UpscaleRows(src, got, rows[0], rows[1]); err != nil {
					t.Fatal(err)
				}
			}
		}
		check()
		if !bytes.Equal(samples(got), want.Data) {
			t.Fatalf("%dx%d in two bands, cut at row %d, differs", width, height, cut)
		}
	})
}

// FuzzLoad feeds damaged model files: they are refused, or run within their planes.
func FuzzLoad(f *testing.F) {
	for _, data := range testModels(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := Load(data)
		if err != nil {
			return
		}
		defer n.Close()
		if n.Path() == "scalar" && len(paths()) > 1 {
			t.Errorf("the vector paths were refused: %v", n.Refused())
		}
		src := newPlane(9, 5, 8)
		noise(src, rand.New(rand.NewPCG(1, 1)))
		dst, check := padded(t, 9*n.Scale(), 5*n.Scale(), 8, 3)
		if err := n.Upscale(src, dst); err != nil {
			t.Fatal(err)
		}
		check()
	})
}
