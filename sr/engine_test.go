package sr

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"upscaler/internal/frame"
)

// blurEngine is an engine in plain Go: its networks repeat the mean of the (2*halo+1)^2 samples around each sample, zeros outside,
// scale x scale times. So its results depend on all of the halo, on the padding and on the place, as a convolution's do. It
// reads and writes planes directly, as an engine with kernels of its own does.
type blurEngine struct {
	device    Device
	lanes     Lanes
	maxPixels int
	rows      bool              // ComputesRows
	infer     func(n int) error // called at each inference when not nil: a test's way to hold, count or fail it

	networks, batches atomic.Int64 // open now
	computed          atomic.Int64 // rows of output
}

func (e *blurEngine) Device() Device { return e.device }
func (e *blurEngine) Name() string   { return "plain Go" }
func (e *blurEngine) Lanes() Lanes   { return e.lanes }
func (e *blurEngine) Close() error   { return nil }

func (e *blurEngine) Open(f File) (Network, error) {
	if string(f.Data) == "broken" {
		return nil, errors.New("the file is broken")
	}
	e.networks.Add(1)
	return &blurNetwork{e, f.Model}, nil
}

type blurNetwork struct {
	engine *blurEngine
	model  Model
}

func (n *blurNetwork) MaxPixels() int     { return n.engine.maxPixels }
func (n *blurNetwork) ComputesRows() bool { return n.engine.rows }
func (n *blurNetwork) Close() error       { n.engine.networks.Add(-1); return nil }

func (n *blurNetwork) NewBatch(width, height, sampleBytes, slots int) (Batch, error) {
	n.engine.batches.Add(1)
	return &blurBatch{net: n, width: width, height: height, sampleBytes: sampleBytes, windows: make([]Window, slots)}, nil
}

type blurBatch struct {
	net                        *blurNetwork
	width, height, sampleBytes int
	windows                    []Window
}

func (b *blurBatch) Close() error { b.net.engine.batches.Add(-1); return nil }

func (b *blurBatch) Load(i int, w Window) {
	if w.Src.Width != b.width || w.Src.Height != b.height || sampleBytes(w.Src.Depth) != b.sampleBytes {
		panic("a tile of another shape than the batch's")
	}
	b.windows[i] = w
}

func (b *blurBatch) Infer(n int) error {
	if f := b.net.engine.infer; f != nil {
		if err := f(n); err != nil {
			return err
		}
	}
	for _, w := range b.windows[:n] {
		b.net.engine.computed.Add(int64(w.Dst.Height))
		blur(w, b.net.model.Scale, b.net.model.Halo)
	}
	return nil
}

func (b *blurBatch) Store(i int) { b.windows[i] = Window{} }

func blur(w Window, scale, halo int) {
	for y := range w.Dst.Height {
		for x := range w.Dst.Width {
			cx, cy := (x+w.SkipX)/scale, (y+w.SkipY)/scale
			sum := 0
			for sy := max(0, cy-halo); sy <= min(w.Src.Height-1, cy+halo); sy++ {
				for sx := max(0, cx-halo); sx <= min(w.Src.Width-1, cx+halo); sx++ {
					sum += get(w.Src, sx, sy)
				}
			}
			set1(w.Dst, x, y, sum/((2*halo+1)*(2*halo+1)))
		}
	}
}

func get(p frame.Plane, x, y int) int {
	if p.Depth > 8 {
		return int(p.Data[y*p.Stride+2*x]) | int(p.Data[y*p.Stride+2*x+1])<<8
	}
	return int(p.Data[y*p.Stride+x])
}

func set1(p frame.Plane, x, y, v int) {
	if p.Depth > 8 {
		p.Data[y*p.Stride+2*x], p.Data[y*p.Stride+2*x+1] = byte(v), byte(v>>8)
		return
	}
	p.Data[y*p.Stride+x] = byte(v)
}

func equalPlanes(a, b frame.Plane) bool {
	n := a.Width * sampleBytes(a.Depth)
	for y := range a.Height {
		if !bytes.Equal(a.Data[y*a.Stride:][:n], b.Data[y*b.Stride:][:n]) {
			return false
		}
	}
	return true
}

// noise returns a plane of random samples.
func noise(width, height, depth int, seed uint64) frame.Plane {
	r := rand.New(rand.NewPCG(seed, 2))
	p := newPlane(width, height, depth)
	for y := range height {
		for x := range width {
			set1(p, x, y, r.IntN(1<<depth))
		}
	}
	return p
}

// expected is what the blur network makes of a whole frame.
func expected(src frame.Plane, m Model) frame.Plane {
	dst := newPlane(src.Width*m.Scale, src.Height*m.Scale, src.Depth)
	blur(Window{Src: src, Dst: dst}, m.Scale, m.Halo)
	return dst
}

var testModels = []File{
	{Model: Model{Name: "blur-s-x2-clean", Scale: 2, Tier: "s", Flavour: "clean", Precision: "fp32", Halo: 2}},
	{Model: Model{Name: "blur-s-x2-video-int8", Scale: 2, Tier: "s", Flavour: "video", Precision: "int8", Halo: 2}},
	{Model: Model{Name: "blur-s-x2-video", Scale: 2, Tier: "s", Flavour: "video", Precision: "fp32", Halo: 2}},
	{Model: Model{Name: "blur-m-x2-clean", Scale: 2, Tier: "m", Flavour: "clean", Precision: "fp32", Halo: 3}},
	{Model: Model{Name: "blur-l-x2-video-fp16", Scale: 2, Tier: "l", Flavour: "video", Precision: "fp16", Halo: 3}},
	{Model: Model{Name: "blur-s-x4-clean", Scale: 4, Tier: "s", Flavour: "clean", Precision: "fp32", Halo: 1}},
	{Model: Model{Name: "broken-x8", Scale: 8, Tier: "s", Flavour: "clean", Precision: "fp32", Halo: 1}, Data: []byte("broken")},
}

// cpuEngine is an engine of two serial lanes without a need for tiles.
func cpuEngine() *blurEngine {
	return &blurEngine{device: CPU, lanes: Lanes{Count: 2, Batch: 1}, maxPixels: 1 << 30}
}

func newScheduler(t testing.TB, engines ...*blurEngine) *Scheduler {
	t.Helper()
	c := Config{Models: testModels}
	for _, e := range engines {
		c.Engines = append(c.Engines, e)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for _, e := range engines {
			if n, b := e.networks.Load(), e.batches.Load(); n != 0 || b != 0 {
				t.Errorf("%d networks and %d batches are still open after Close", n, b)
			}
		}
	})
	return s
}

func openJob(t testing.TB, s *Scheduler, spec Spec) *Job {
	t.Helper()
	j, err := s.Open(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

func submit(t testing.TB, j *Job, src frame.Plane) (*Ticket, frame.Plane) {
	t.Helper()
	s := j.Model().Scale
	dst := newPlane(src.Width*s, src.Height*s, src.Depth)
	ticket, err := j.Submit(context.Background(), src, dst)
	if err != nil {
		t.Fatal(err)
	}
	return ticket, dst
}

func wait(t testing.TB, ticket *Ticket) {
	t.Helper()
	if err := ticket.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// gate holds inferences until the test lets them go.
type gate struct {
	entered chan struct{} // receives a value for each inference that began
	pass    chan error    // each value lets one inference go on, or fail
	open    sync.Once
}

func newGate() *gate { return &gate{entered: make(chan struct{}, 1000), pass: make(chan error)} }

func (g *gate) infer(int) error {
	g.entered <- struct{}{}
	return <-g.pass
}

// release lets all inferences go from now on.
func (g *gate) release() { g.open.Do(func() { close(g.pass) }) }

// waitFor waits until something that other goroutines are about to do has happened.
func waitFor(t testing.TB, happened func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !happened() {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 10 s")
		}
		runtime.Gosched()
	}
}
