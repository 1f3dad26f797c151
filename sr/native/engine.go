package native

import (
	"errors"
	"fmt"
	goruntime "runtime"
	"strings"

	"upscaler/internal/frame"
	"upscaler/sr"
)

// Options are the settings of an Engine.
type Options struct {
	Workers int // frames upscaled side by side, one thread each; 0: one for each core
	// Other runs the models that this package cannot: float32 ones, say. Its device must be the CPU; the Engine closes it. nil:
	// such models are an *UnsupportedError.
	Other sr.Engine
	// Refused, when set, is told of a model that goes to Other, and why: once for each, as a model is opened once.
	Refused func(f sr.File, why error)
	// Loaded, when set, is told of a model that runs here, once: its path, and faster ones that its self-check refused because
	// they computed something else on this CPU.
	Loaded func(f sr.File, path string, refused []string)
}

// Engine runs quantized networks in this package's kernels and hands others on. It implements sr.Engine for the CPU.
type Engine struct {
	workers int
	other   sr.Engine
	refused func(sr.File, error)
	loaded  func(sr.File, string, []string)
}

// errNotInt8 is why float models are refused, in fewer words than the first node that is not as it should be.
var errNotInt8 = errors.New("it is not quantized to int8")

// NewEngine returns an engine; it takes over o.Other.
func NewEngine(o Options) *Engine {
	if o.Workers <= 0 {
		o.Workers = goruntime.GOMAXPROCS(0)
	}
	return &Engine{o.Workers, o.Other, o.Refused, o.Loaded}
}

// Device returns sr.CPU.
func (e *Engine) Device() sr.Device { return sr.CPU }

// Name tells what computes: the path the CPU is capable of (a network's self-check may still choose a slower one), and the
// other engine.
func (e *Engine) Name() string {
	cores := "1 CPU core"
	if e.workers > 1 {
		cores = fmt.Sprintf("%d CPU cores", e.workers)
	}
	name := fmt.Sprintf("native int8 kernels (%s) on %s", paths()[0].name, cores)
	if e.other != nil {
		name += ", else " + e.other.Name()
	}
	return name
}

// Lanes says how the scheduler is to feed the engine: frames, or parts of one, side by side, one a core.
func (e *Engine) Lanes() sr.Lanes { return sr.Lanes{Count: e.workers, Batch: 1} }

// Open prepares a network: in this package's kernels if it can, else with the other engine.
func (e *Engine) Open(f sr.File) (sr.Network, error) {
	n, err := Load(f.Data)
	var unsupported *UnsupportedError
	if errors.As(err, &unsupported) {
		if !strings.HasPrefix(f.Precision, "int8") {
			unsupported.Err = errNotInt8
		}
		if e.other != nil {
			if e.refused != nil {
				e.refused(f, unsupported.Err)
			}
			return e.other.Open(f)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", f.Name, err)
	}
	if n.Scale() != f.Scale {
		n.Close()
		return nil, fmt.Errorf("model %s: its network upscales by %d, its description says %d", f.Name, n.Scale(), f.Scale)
	}
	if n.Radius() > f.Halo {
		n.Close()
		return nil, fmt.Errorf("model %s: its network sees %d pixels around each, its description says %d", f.Name, n.Radius(), f.Halo)
	}
	if e.loaded != nil {
		e.loaded(f, n.Path(), n.Refused())
	}
	return loaded{n}, nil
}

// Close closes the other engine.
func (e *Engine) Close() error {
	if e.other == nil {
		return nil
	}
	return e.other.Close()
}

// Supports tells whether Load can read the model.
func Supports(f sr.File) bool {
	if !strings.HasPrefix(f.Precision, "int8") {
		return false
	}
	g, err := parseONNX(f.Data)
	if err != nil {
		return false
	}
	net, err := readNetwork(g)
	if err != nil {
		return false
	}
	_, err = lower(net)
	return err == nil
}

// loaded is a Network as the scheduler sees it.
type loaded struct{ *Network }

// MaxPixels allows every frame whole: memory grows with the width only, and tiles would only compute halos twice.
func (n loaded) MaxPixels() int { return maxWidth * maxHeight }

// ComputesRows returns true: the layers stream through the rows that are kept, and as many above and below as they depend on.
func (n loaded) ComputesRows() bool { return true }

// NewBatch returns room for slots tiles. Planes are read and written in place, so it takes no memory of its own, except for
// tiles whose result is kept only in part.
func (n loaded) NewBatch(width, height, sampleBytes, slots int) (sr.Batch, error) {
	return &batch{net: n.Network, windows: make([]sr.Window, slots)}, nil
}

// Close frees the network.
func (n loaded) Close() error {
	n.Network.Close()
	return nil
}

// batch remembers windows between Load and Infer.
type batch struct {
	net     *Network
	windows []sr.Window
	rows    []byte // whole rows of a result of which only a part is kept
}

// Load remembers the window.
func (b *batch) Load(i int, w sr.Window) { b.windows[i] = w }

// Infer upscales the first n windows.
func (b *batch) Infer(n int) error {
	for _, w := range b.windows[:n] {
		if err := b.infer(w); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) infer(w sr.Window) error {
	s := b.net.Scale()
	width := w.Src.Width * s
	// Rows of output that are not kept need not be computed.
	y0, y1 := w.SkipY/s, (w.SkipY+w.Dst.Height+s-1)/s
	if w.SkipX == 0 && w.Dst.Width == width && w.SkipY == y0*s && w.Dst.Height == (y1-y0)*s {
		return b.net.upscaleRows(w.Src, w.Dst, y0, y1, nil)
	}
	size := 1
	if w.Src.Depth > 8 {
		size = 2
	}
	rows := frame.Plane{Stride: width * size, Width: width, Height: (y1 - y0) * s, Depth: w.Src.Depth}
	if cap(b.rows) < rows.Stride*rows.Height {
		b.rows = make([]byte, rows.Stride*rows.Height)
	}
	rows.Data = b.rows[:rows.Stride*rows.Height]
	if err := b.net.upscaleRows(w.Src, rows, y0, y1, nil); err != nil {
		return err
	}
	for y := range w.Dst.Height {
		copy(w.Dst.Data[y*w.Dst.Stride:][:w.Dst.Width*size], rows.Data[(w.SkipY-y0*s+y)*rows.Stride+w.SkipX*size:])
	}
	return nil
}

// Store lets go of the window; its result is in place already.
func (b *batch) Store(i int) { b.windows[i] = sr.Window{} }

// Close lets go of the memory.
func (b *batch) Close() error {
	b.rows = nil
	return nil
}

var _ sr.Engine = (*Engine)(nil)
