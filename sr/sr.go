// Package sr upscales luma planes: it chooses a network, cuts frames into tiles where memory asks for it, collects tiles of many
// jobs into batches, and keeps every device at work while each job gets its fair turn. How a network is computed is an Engine's
// business (sr/onnx); this package has no cgo and knows no file format.
//
// A frame's way: Job.Submit compares it with the job's last frame (unchanged bands are copied, not computed), queues the rest, whole
// or in parts for several lanes, and returns a Ticket. A lane of the device takes one tile of each waiting job in turn, loads it into a Batch, infers, and
// stores the result in the caller's output plane. Ticket.Wait returns when all tiles of the frame are there.
package sr

import (
	"errors"
	"fmt"
	"strings"

	"upscaler/internal/frame"
)

// Device is where a network runs. The values are those of upscale.v1.Device.
type Device int

// The devices.
const (
	AnyDevice Device = 0 // CUDA when there is an engine for it, else the CPU
	CPU       Device = 1
	CUDA      Device = 2
)

func (d Device) String() string {
	switch d {
	case AnyDevice:
		return "auto"
	case CPU:
		return "cpu"
	case CUDA:
		return "cuda"
	}
	return fmt.Sprintf("device %d", int(d))
}

// Model is what a network's file says about itself.
type Model struct {
	Name       string // lmswn-s-x2-video
	Version    string
	Scale      int    // output pixels per input pixel, each way
	Tier       string // s, m or l
	Flavour    string // clean or video
	Precision  string // fp32, fp16 or int8
	Halo       int    // input pixels around a pixel, each way, that its output depends on: the receptive field
	Parameters int64
	License    string
	Training   string // one line on how the weights were made
	Default    bool   // used when a job names no model at this scale; set by the Scheduler
}

// File is a model with its network in the form the engines read (for sr/onnx, the bytes of an .onnx file).
type File struct {
	Model
	Data []byte
}

// Engine runs networks on one device. Its methods are called by one goroutine at a time; what it returns may be used beside it.
type Engine interface {
	Device() Device
	// Name tells people what computes, as in "ONNX Runtime 1.27.0 on 2 CPU cores".
	Name() string
	// Lanes says how the scheduler is to feed the device.
	Lanes() Lanes
	// Open prepares a network. It may take seconds.
	Open(f File) (Network, error)
	// Close frees what the engine holds. Its networks are closed before.
	Close() error
}

// Lanes is how a device wants its work.
type Lanes struct {
	Count int // batches inferred at the same time; one a core on a CPU
	Batch int // most tiles in a batch
	// Overlap: load the next batch and store the last one while one infers, in goroutines of their own. Right for a device that
	// computes beside the CPU; on the CPU itself it would only take cores from inference.
	Overlap bool
}

// Network is a model ready to run on an engine's device. Safe for concurrent use.
type Network interface {
	// MaxPixels is how many input pixels a batch may hold, so that activations stay within the engine's memory budget.
	MaxPixels() int
	// ComputesRows tells whether a Window that keeps some rows only takes about its rows' part of the time.
	ComputesRows() bool
	// NewBatch makes room for up to slots tiles of width x height samples of sampleBytes (1 or 2) bytes each.
	NewBatch(width, height, sampleBytes, slots int) (Batch, error)
	// Close frees the network. Its batches are closed before.
	Close() error
}

// Batch is the memory for one run of a network, reused for many. One goroutine at a time uses it, in the order Load, Infer, Store.
// An engine that reads and writes planes directly keeps the Window in Load, does all in Infer, and nothing in Store.
type Batch interface {
	// Load puts a tile into slot i. The window's planes stay valid and untouched by others until Store(i) returns.
	Load(i int, w Window)
	// Infer runs the network on the first n slots.
	Infer(n int) error
	// Store writes slot i's result to its window's Dst.
	Store(i int)
	// Close frees the memory.
	Close() error
}

// Window is a tile: what the network sees of a frame and which part of its answer is kept.
type Window struct {
	Src frame.Plane // the batch's width x height samples of the source, halo included
	// Dst is where the kept part of the result goes, a view of the output frame. Sample (0,0) of Dst is sample (SkipX, SkipY) of
	// the network's output for Src. Both planes have the same depth d; a code value v stands for v/(2^d-1), and results are
	// clamped to 0..1 and rounded to the nearest code value.
	Dst          frame.Plane
	SkipX, SkipY int
}

// Spec is what a job wants.
type Spec struct {
	Scale  int
	Model  string // a model's full name, or a tier (s, m, l), or empty for the default
	Device Device
	Live   bool // the job's frames come before those of jobs that are not live
}

// ErrClosed is the error of work given to, or still queued in, a job or scheduler that was closed.
var ErrClosed = errors.New("the upscaling job was closed")

// NoModelError says that no network fits a Spec. Its text is one sentence for people.
type NoModelError struct {
	Spec      Spec
	Available []Model // all there are
}

func (e *NoModelError) Error() string {
	var here, scales []string
	seen := map[int]bool{}
	for _, m := range e.Available {
		if m.Scale == e.Spec.Scale {
			here = append(here, m.Name)
		}
		if !seen[m.Scale] {
			seen[m.Scale] = true
			scales = append(scales, fmt.Sprintf("x%d", m.Scale))
		}
	}
	if len(here) == 0 {
		have := "there are none at all"
		if len(scales) > 0 {
			have = "choose a scale of " + strings.Join(scales, ", ")
		}
		return fmt.Sprintf("there is no x%d model yet: %s", e.Spec.Scale, have)
	}
	return fmt.Sprintf("there is no x%d model %q: choose a tier or one of %s", e.Spec.Scale, e.Spec.Model, strings.Join(here, ", "))
}

// DeviceError says that the wanted device cannot be used. Its text is one sentence for people.
type DeviceError struct {
	Device Device
	Err    error // why
}

func (e *DeviceError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("device %s is not available on this server", e.Device)
	}
	return fmt.Sprintf("device %s is not available on this server: %v", e.Device, e.Err)
}

func (e *DeviceError) Unwrap() error { return e.Err }
