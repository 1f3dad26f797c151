package sr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"upscaler/internal/frame"
)

// Config is what a Scheduler works with.
type Config struct {
	Models []File
	// Engines, at most one for a device. The Scheduler closes them.
	Engines []Engine
	// Missing says why a device has no engine; it becomes the text of the DeviceError for jobs that ask for it.
	Missing map[Device]error
}

// Scheduler shares the devices fairly among many jobs. It owns the engines and every goroutine that feeds them. Safe for
// concurrent use.
type Scheduler struct {
	files   []File
	devices []*device // CUDA first: the order in which AnyDevice chooses
	missing map[Device]error

	mu     sync.Mutex
	closed bool
	jobs   map[*Job]struct{}
}

// device is one engine with its queue and lanes.
type device struct {
	engine Engine
	lanes  Lanes
	share  int // pieces a job may have in flight
	queue  *queue
	stop   chan struct{}
	wg     sync.WaitGroup
	sets   []*set

	mu     sync.Mutex
	closed bool
	nets   map[string]*network

	frames, reused, tilesReused, pixels, pixelsReused, batches atomic.Uint64
	busy                                                       atomic.Int64 // nanoseconds
}

// network is a loaded model and its measured speed.
type network struct {
	Network
	file File

	mu     sync.Mutex
	runs   int
	second float64 // per megapixel of input, on one lane; a running mean
}

// New returns a Scheduler and starts its lanes. Networks are loaded when a job first asks for them.
func New(c Config) (*Scheduler, error) {
	s := &Scheduler{files: c.Models, missing: c.Missing, jobs: map[*Job]struct{}{}}
	for _, e := range c.Engines {
		if slices.ContainsFunc(s.devices, func(d *device) bool { return d.engine.Device() == e.Device() }) {
			return nil, fmt.Errorf("two engines for device %s", e.Device())
		}
		s.devices = append(s.devices, &device{engine: e, lanes: e.Lanes()})
	}
	if len(s.devices) == 0 {
		return nil, errors.New("no engine to upscale with")
	}
	slices.SortFunc(s.devices, func(a, b *device) int { return int(b.engine.Device()) - int(a.engine.Device()) })
	for _, d := range s.devices {
		d.start()
	}
	return s, nil
}

// start runs the device's lanes until stop is closed.
func (d *device) start() {
	d.queue, d.stop, d.nets = newQueue(d.lanes.Count), make(chan struct{}), map[string]*network{}
	// One batch in each lane and the next one waiting: more would only take memory, less would leave the device waiting.
	d.share = 2 * d.lanes.Count * d.lanes.Batch
	for _, changed := range d.queue.changed {
		a := &set{dev: d, changed: changed}
		d.sets = append(d.sets, a)
		if d.lanes.Overlap {
			b := &set{dev: d, changed: changed}
			d.sets = append(d.sets, b)
			d.wg.Go(func() { overlapped(a, b) })
		} else {
			d.wg.Go(func() { serial(a) })
		}
	}
}

// Close closes all jobs, stops the lanes, and frees the networks and the engines. Nothing of the Scheduler may be used after.
func (s *Scheduler) Close() error {
	s.mu.Lock()
	s.closed = true
	jobs := make([]*Job, 0, len(s.jobs))
	for j := range s.jobs {
		jobs = append(jobs, j)
	}
	s.mu.Unlock()
	for _, j := range jobs {
		j.Close()
	}
	var errs []error
	for _, d := range s.devices {
		close(d.stop)
		d.wg.Wait()
		for _, set := range d.sets {
			errs = append(errs, set.close())
		}
		d.mu.Lock()
		d.closed = true
		for _, n := range d.nets {
			errs = append(errs, n.Close())
		}
		d.mu.Unlock()
		errs = append(errs, d.engine.Close())
	}
	return errors.Join(errs...)
}

// Models returns the models, those of a scale in the order of preference on the device that jobs get when they name none.
func (s *Scheduler) Models() []Model {
	dev := s.devices[0].engine.Device()
	ms := make([]Model, 0, len(s.files))
	for _, f := range s.files {
		ms = append(ms, f.Model)
	}
	slices.SortFunc(ms, func(a, b Model) int {
		if a.Scale != b.Scale {
			return a.Scale - b.Scale
		}
		return compareModels(a, b, dev)
	})
	for i := range ms {
		ms[i].Default = i == 0 || ms[i].Scale != ms[i-1].Scale
	}
	return ms
}

// Devices returns the devices that jobs may ask for; the first is what AnyDevice means.
func (s *Scheduler) Devices() []Device {
	ds := make([]Device, len(s.devices))
	for i, d := range s.devices {
		ds[i] = d.engine.Device()
	}
	return ds
}

// Choose returns the model and device that a job with this spec gets, without loading anything. Its errors are *NoModelError and
// *DeviceError.
func (s *Scheduler) Choose(spec Spec) (Model, Device, error) {
	f, d, err := s.choose(spec)
	if err != nil {
		return Model{}, AnyDevice, err
	}
	return f.Model, d.engine.Device(), nil
}

func (s *Scheduler) choose(spec Spec) (File, *device, error) {
	d := s.device(spec.Device)
	if d == nil {
		return File{}, nil, &DeviceError{Device: spec.Device, Err: s.missing[spec.Device]}
	}
	f, err := choose(s.files, spec, d.engine.Device())
	if err != nil {
		return File{}, nil, err
	}
	return f, d, nil
}

// device returns the engine's side of a device, nil when there is none.
func (s *Scheduler) device(want Device) *device {
	for _, d := range s.devices {
		if want == AnyDevice || want == d.engine.Device() {
			return d
		}
	}
	return nil
}

// Open starts a job. The first job of a model loads its network and runs it once on a small frame, so that Estimate knows it; this
// takes from some 50 ms (CPU) to seconds (CUDA). Errors: *NoModelError, *DeviceError, ErrClosed, ctx's cause, the engine's.
func (s *Scheduler) Open(ctx context.Context, spec Spec) (*Job, error) {
	f, d, err := s.choose(spec)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	n, err := d.network(f)
	if err != nil {
		return nil, fmt.Errorf("model %s could not be loaded on %s: %w", f.Name, d.engine.Name(), err)
	}
	j := &Job{
		sched: s, dev: d, net: n, live: spec.Live,
		room: make(chan struct{}, 1), idle: make(chan struct{}), closing: make(chan struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	s.jobs[j] = struct{}{}
	return j, nil
}

func (s *Scheduler) forget(j *Job) {
	s.mu.Lock()
	delete(s.jobs, j)
	s.mu.Unlock()
}

// network returns the device's network for a model, loaded and warm.
func (d *device) network(f File) (*network, error) {
	d.mu.Lock() // a load holds up others: they would most often wait for the same model anyway
	defer d.mu.Unlock()
	if d.closed {
		return nil, ErrClosed
	}
	if n := d.nets[f.Name]; n != nil {
		return n, nil
	}
	net, err := d.engine.Open(f)
	if err != nil {
		return nil, err
	}
	n := &network{Network: net, file: f}
	if err := n.warm(); err != nil {
		return nil, errors.Join(err, net.Close())
	}
	d.nets[f.Name] = n
	return n, nil
}

// The frame that a fresh network is tried on: small enough to cost little, large enough to tell its speed.
const warmWidth, warmHeight = 160, 96

// warm runs the network on a gray frame: what is wrong with it shows before a job relies on it, and its speed is known. The
// first of two runs pays for what is done only once.
func (n *network) warm() error {
	b, err := n.NewBatch(warmWidth, warmHeight, 1, 1)
	if err != nil {
		return err
	}
	w := Window{Src: newPlane(warmWidth, warmHeight, 8), Dst: newPlane(warmWidth*n.file.Scale, warmHeight*n.file.Scale, 8)}
	b.Load(0, w)
	if err := b.Infer(1); err != nil {
		return errors.Join(err, b.Close())
	}
	start := time.Now()
	if err := b.Infer(1); err != nil {
		return errors.Join(err, b.Close())
	}
	n.measured(warmWidth*warmHeight, time.Since(start))
	b.Store(0)
	return b.Close()
}

func newPlane(width, height, depth int) frame.Plane {
	stride := width * sampleBytes(depth)
	return frame.Plane{Data: make([]byte, stride*height), Stride: stride, Width: width, Height: height, Depth: depth}
}

// speedMemory is how many batches the running mean of a network's speed looks back: some seconds of video, so that it follows
// the machine's load without jumping.
const speedMemory = 50

// measured takes a batch's inference time into the network's speed.
func (n *network) measured(pixels int, took time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.runs = min(n.runs+1, speedMemory)
	n.second += (took.Seconds()/(float64(pixels)/1e6) - n.second) / float64(n.runs)
}

// Estimate returns the time that a frame of width x height input pixels takes when the job has the device to itself, all lanes at
// work: the reciprocal of the frame rate. It is measured; false when the model has not run on the device yet.
func (s *Scheduler) Estimate(model string, dev Device, width, height int) (time.Duration, bool) {
	d := s.device(dev)
	if d == nil {
		return 0, false
	}
	d.mu.Lock()
	n := d.nets[model]
	d.mu.Unlock()
	if n == nil {
		return 0, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	seconds := n.second * float64(width) * float64(height) / 1e6 / float64(d.lanes.Count)
	return time.Duration(seconds * float64(time.Second)), n.runs > 0
}

// Stats is what the Scheduler has done so far and what waits.
type Stats struct {
	Jobs    int // open now
	Engines []EngineStats
}

// EngineStats is one device's part of Stats.
type EngineStats struct {
	Device      Device
	Name        string
	Lanes       int
	Queued      int    // tiles, or parts of them, waiting now
	Frames      uint64 // finished
	Reused      uint64 // of these, frames of which nothing had to be computed
	TilesReused uint64 // tiles whose whole result was copied from an equal one
	Pixels      uint64 // input pixels of the frames that were submitted
	// PixelsReused is how many of these were not computed, because nothing that their result depends on had changed.
	PixelsReused uint64
	Batches      uint64        // runs of a network
	Busy         time.Duration // inference time, summed over lanes
}

// Stats returns a snapshot.
func (s *Scheduler) Stats() Stats {
	s.mu.Lock()
	st := Stats{Jobs: len(s.jobs)}
	s.mu.Unlock()
	for _, d := range s.devices {
		st.Engines = append(st.Engines, EngineStats{
			Device: d.engine.Device(), Name: d.engine.Name(), Lanes: d.lanes.Count, Queued: d.queue.len(),
			Frames: d.frames.Load(), Reused: d.reused.Load(), TilesReused: d.tilesReused.Load(),
			Pixels: d.pixels.Load(), PixelsReused: d.pixelsReused.Load(), Batches: d.batches.Load(), Busy: time.Duration(d.busy.Load()),
		})
	}
	return st
}
