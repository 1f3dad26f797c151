package onnx

import (
	"errors"
	"fmt"
	goruntime "runtime"
	"strconv"
	"sync"

	ort "github.com/yalue/onnxruntime_go"

	"upscaler/sr"
)

// DefaultWorkerMemory is the most that the activations of one CPU worker take. Larger frames are cut into tiles. Measured for s:
// 640x360 and 1920x1080 run equally fast a pixel, so tiles cost what their halos cost: 10 % for 1080p with this budget.
// Seen of the whole process with two workers: 1.0 GB for 1080p alone, 1.9 GB after five sizes, two models and two depths in turn,
// because the arena keeps the gaps that tensors of other sizes left.
const DefaultWorkerMemory = 512 << 20

// CPUOptions are the settings of the CPU engine; the zero value is right for a machine that does nothing else.
type CPUOptions struct {
	Library      string // path of libonnxruntime.so; empty: see FindLibrary
	Workers      int    // frames (or tiles) upscaled side by side; 0: one for each core
	WorkerMemory int64  // bytes of activations a worker may need; 0: DefaultWorkerMemory
}

// Engine runs networks with ONNX Runtime on one device. It implements sr.Engine.
type Engine struct {
	device  sr.Device
	lanes   sr.Lanes
	memory  int64 // bytes of activations that one batch may need
	options func() (*ort.SessionOptions, error)
	guard   func(func() error) error // calls what loads and sets up the device, and undoes its side effects
}

// OpenCPU returns an engine for the CPU: single-threaded runs side by side, one a core. On two cores two frames side by side are a
// quarter faster than both cores on one frame, because no thread ever waits for another.
func OpenCPU(o CPUOptions) (*Engine, error) {
	if _, err := load(o.Library); err != nil {
		return nil, err
	}
	e := &Engine{
		device:  sr.CPU,
		lanes:   sr.Lanes{Count: o.Workers, Batch: 1},
		memory:  o.WorkerMemory,
		options: cpuOptions,
		guard:   func(f func() error) error { return f() },
	}
	if e.lanes.Count <= 0 {
		e.lanes.Count = goruntime.GOMAXPROCS(0)
	}
	if e.memory <= 0 {
		e.memory = DefaultWorkerMemory
	}
	return e, nil
}

// cpuOptions are the session options for the CPU. The caller destroys them.
func cpuOptions() (*ort.SessionOptions, error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		o.SetIntraOpNumThreads(1),
		o.SetInterOpNumThreads(1),
		o.SetExecutionMode(ort.ExecutionModeSequential),
		o.AddSessionConfigEntry("session.intra_op.allow_spinning", "0"),
		o.AddSessionConfigEntry("session.use_env_allocators", "1"), // see shareArena
		// Without it, on CPUs without VNNI, int8 convolutions saturate at 16 bits inside: fast, and wrong by up to 31 code values.
		o.AddSessionConfigEntry("session.x64quantprecision", "1"),
		// A memory pattern is one block for a whole run, allocated beside the blocks of the shape's first run: 1150 instead of 770
		// bytes a pixel for s, and no faster.
		o.SetMemPattern(false),
	)
	if err != nil {
		return nil, errors.Join(err, o.Destroy())
	}
	return o, nil
}

// Device returns where the engine's networks run.
func (e *Engine) Device() sr.Device { return e.device }

// Lanes says how the scheduler is to feed the engine.
func (e *Engine) Lanes() sr.Lanes { return e.lanes }

// Name tells what computes.
func (e *Engine) Name() string {
	name := "ONNX Runtime " + ort.GetVersion() + " on "
	if e.device == sr.CUDA {
		return name + "CUDA"
	}
	if e.lanes.Count == 1 {
		return name + "1 CPU core"
	}
	return name + strconv.Itoa(e.lanes.Count) + " CPU cores"
}

// Close does nothing: the library stays loaded for the life of the process.
func (e *Engine) Close() error { return nil }

// Open prepares a model.
func (e *Engine) Open(f sr.File) (sr.Network, error) {
	n := &network{engine: e, file: f, sessions: map[int]*ort.DynamicAdvancedSession{}}
	if _, err := n.session(1); err != nil {
		return nil, err
	}
	return n, nil
}

// network is a model with its sessions: one for planes of one byte a sample and one for those of two.
type network struct {
	engine *Engine
	file   sr.File

	mu       sync.Mutex
	sessions map[int]*ort.DynamicAdvancedSession
}

// activationBytes is the memory a run needs for each input pixel, by tier, measured with fp32 (s: 730 to 870). It follows C*(B+9)*4
// for a network of C channels and B blocks; int8 needs less.
var activationBytes = map[string]int64{"s": 800, "m": 1800, "l": 4000}

// MaxPixels is how many input pixels a batch may hold.
func (n *network) MaxPixels() int {
	bytes, ok := activationBytes[n.file.Tier]
	if !ok {
		bytes = activationBytes["l"]
	}
	return int(n.engine.memory / bytes)
}

// ComputesRows returns false: what is inferred has the batch's size, whatever is kept of it.
func (n *network) ComputesRows() bool { return false }

// session returns the session for samples of the given size, made when first asked for.
func (n *network) session(sampleBytes int) (*ort.DynamicAdvancedSession, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.sessions[sampleBytes]; s != nil {
		return s, nil
	}
	elem := uint64(elemUint8)
	if sampleBytes == 2 {
		elem = elemUint16
	}
	data, err := instrument(n.file.Data, elem)
	if err != nil {
		return nil, err
	}
	var s *ort.DynamicAdvancedSession
	err = n.engine.guard(func() error {
		options, err := n.engine.options()
		if err != nil {
			return err
		}
		s, err = ort.NewDynamicAdvancedSessionWithONNXData(data, []string{inLuma, inUnit, inPeak}, []string{outLuma}, options)
		return errors.Join(err, options.Destroy())
	})
	if err != nil {
		return nil, err
	}
	n.sessions[sampleBytes] = s
	return s, nil
}

// Close frees the sessions.
func (n *network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for size, s := range n.sessions {
		errs = append(errs, s.Destroy())
		delete(n.sessions, size)
	}
	return errors.Join(errs...)
}

// batch is the tensors of one shape. They lie in Go memory, pinned while ONNX Runtime knows their addresses.
type batch struct {
	session       *ort.DynamicAdvancedSession
	width, height int // of the input
	scale         int
	sampleBytes   int
	in, out       []byte // slots x height x width samples; slots x scale*height x scale*width samples
	unit, peak    []float32
	windows       []sr.Window
	runs          []run // runs[n-1] is for n pictures; a prefix of the memory above
	pin           goruntime.Pinner
}

// run is the tensors of a run with a certain number of pictures.
type run struct{ inputs, outputs []ort.Value }

// NewBatch makes tensors for up to slots pictures.
func (n *network) NewBatch(width, height, sampleBytes, slots int) (sr.Batch, error) {
	session, err := n.session(sampleBytes)
	if err != nil {
		return nil, err
	}
	pixels, scale := width*height, n.file.Scale
	b := &batch{
		session: session, width: width, height: height, scale: scale, sampleBytes: sampleBytes,
		in:   make([]byte, slots*pixels*sampleBytes),
		out:  make([]byte, slots*pixels*sampleBytes*scale*scale),
		unit: make([]float32, slots), peak: make([]float32, slots),
		windows: make([]sr.Window, slots), runs: make([]run, slots),
	}
	b.pin.Pin(&b.in[0])
	b.pin.Pin(&b.out[0])
	b.pin.Pin(&b.unit[0])
	b.pin.Pin(&b.peak[0])
	return b, nil
}

// Load copies the window's samples to slot i.
func (b *batch) Load(i int, w sr.Window) {
	b.windows[i] = w
	peak := float32(uint32(1)<<w.Src.Depth - 1)
	b.unit[i], b.peak[i] = 1/peak, peak
	row := b.width * b.sampleBytes
	copyRows(b.in[i*b.height*row:], row, w.Src.Data, w.Src.Stride, row, b.height)
}

// Infer runs the network on the first n slots.
func (b *batch) Infer(n int) error {
	r := &b.runs[n-1]
	if r.inputs == nil {
		if err := b.prepare(r, n); err != nil {
			return err
		}
	}
	return b.session.Run(r.inputs, r.outputs)
}

// prepare makes the tensors of a run with n pictures.
func (b *batch) prepare(r *run, n int) error {
	count, w, h, s := int64(n), int64(b.width), int64(b.height), int64(b.scale)
	elem := ort.TensorElementDataType(ort.TensorElementDataTypeUint8)
	if b.sampleBytes == 2 {
		elem = ort.TensorElementDataTypeUint16
	}
	size := n * b.width * b.height * b.sampleBytes
	in, err1 := ort.NewCustomDataTensor(ort.NewShape(count, 1, h, w), b.in[:size], elem)
	out, err2 := ort.NewCustomDataTensor(ort.NewShape(count, 1, s*h, s*w), b.out[:size*b.scale*b.scale], elem)
	unit, err3 := ort.NewTensor(ort.NewShape(count, 1, 1, 1), b.unit)
	peak, err4 := ort.NewTensor(ort.NewShape(count, 1, 1, 1), b.peak)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("tensors for %d pictures of %dx%d: %w", n, b.width, b.height, err) // out of memory: nothing worth saving
	}
	r.inputs, r.outputs = []ort.Value{in, unit, peak}, []ort.Value{out}
	return nil
}

// Store copies slot i's result to its window's Dst.
func (b *batch) Store(i int) {
	w := b.windows[i]
	b.windows[i] = sr.Window{}
	row := b.width * b.scale * b.sampleBytes
	from := b.out[(i*b.height*b.scale+w.SkipY)*row+w.SkipX*b.sampleBytes:]
	copyRows(w.Dst.Data, w.Dst.Stride, from, row, w.Dst.Width*b.sampleBytes, w.Dst.Height)
}

// Close frees the tensors.
func (b *batch) Close() error {
	var errs []error
	for _, r := range b.runs {
		for _, v := range append(r.inputs, r.outputs...) {
			errs = append(errs, v.Destroy())
		}
	}
	b.pin.Unpin()
	return errors.Join(errs...)
}

// copyRows copies rows of n bytes; strides are in bytes.
func copyRows(dst []byte, dstStride int, src []byte, srcStride, n, rows int) {
	if dstStride == n && srcStride == n {
		copy(dst, src[:n*rows])
		return
	}
	for y := range rows {
		copy(dst[y*dstStride:][:n], src[y*srcStride:][:n])
	}
}

var _ sr.Engine = (*Engine)(nil)
