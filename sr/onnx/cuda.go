package onnx

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	ort "github.com/yalue/onnxruntime_go"

	"upscaler/sr"
)

// DefaultCUDAMemory is the GPU memory ONNX Runtime may take: batches of two 1080p frames of s. Servers with a GPU of their own
// give more.
const DefaultCUDAMemory = 4 << 30

// cudaBatch is the most frames in a batch. Beyond it nothing is gained (a single 360p frame of s fills a GPU), and a frame of a
// lone job waits longer.
const cudaBatch = 8

// CUDAOptions are the settings of the CUDA engine; the zero value is usable.
type CUDAOptions struct {
	Library string // path of libonnxruntime.so; empty: see FindLibrary
	ID      int    // the GPU's number
	Memory  int64  // bytes of GPU memory to take at most; 0: DefaultCUDAMemory
}

// OpenCUDA returns an engine for an NVIDIA GPU, after a run on it that proves that it works. The error is one sentence that says what
// is missing.
func OpenCUDA(o CUDAOptions) (*Engine, error) {
	library, err := load(o.Library)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"} {
		if !isFile(filepath.Join(filepath.Dir(library), name)) {
			return nil, fmt.Errorf("%s is missing beside %s: set %s to the libonnxruntime.so of ONNX Runtime's GPU build "+
				"(the capi folder of the Python package onnxruntime-gpu holds all three)", name, library, LibraryEnv)
		}
	}
	if o.Memory <= 0 {
		o.Memory = DefaultCUDAMemory
	}
	e := &Engine{
		device:  sr.CUDA,
		lanes:   sr.Lanes{Count: 1, Batch: cudaBatch, Overlap: true},
		memory:  o.Memory / 2, // the other half is for cuDNN's workspaces and the arena's gaps
		options: func() (*ort.SessionOptions, error) { return cudaOptions(o) },
		guard:   keepSignals,
	}
	if err := e.guard(e.probe); err != nil {
		return nil, fmt.Errorf("ONNX Runtime cannot use the GPU, it says %q (needed: an NVIDIA driver, and CUDA and cuDNN of the "+
			"versions that this ONNX Runtime was built for, where the dynamic linker finds them)", reason(err))
	}
	return e, nil
}

// reason returns an error's text without the place in ONNX Runtime's source that it begins with.
func reason(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, "[ONNXRuntimeError] : "); ok {
		if parts := strings.SplitN(after, " : ", 3); len(parts) == 3 { // number, name, text
			return strings.TrimSpace(parts[2])
		}
	}
	return text
}

// cudaOptions are the session options for CUDA. The caller destroys them.
func cudaOptions(o CUDAOptions) (*ort.SessionOptions, error) {
	cuda, err := ort.NewCUDAProviderOptions()
	if err != nil {
		return nil, err
	}
	err = cuda.Update(map[string]string{
		"device_id":     strconv.Itoa(o.ID),
		"gpu_mem_limit": strconv.FormatInt(o.Memory, 10),
		// Powers of two would take twice what is used.
		"arena_extend_strategy": "kSameAsRequested",
		// The default tries every algorithm for every new shape: a second of standstill whenever a video of another size begins.
		"cudnn_conv_algo_search": "HEURISTIC",
		// TF32 rounds inputs to 10 bits, which a 10-bit video would show.
		"use_tf32": "0",
	})
	if err != nil {
		return nil, errors.Join(err, cuda.Destroy())
	}
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, errors.Join(err, cuda.Destroy())
	}
	err = errors.Join(
		options.SetIntraOpNumThreads(1),
		options.SetInterOpNumThreads(1),
		options.AddSessionConfigEntry("session.intra_op.allow_spinning", "0"),
		options.AppendExecutionProviderCUDA(cuda),
		cuda.Destroy(),
	)
	if err != nil {
		return nil, errors.Join(err, options.Destroy())
	}
	return options, nil
}

// probe runs a graph of one node. Loading the provider, finding a GPU and launching a kernel may each fail on a machine that has
// all the files.
func (e *Engine) probe() (err error) {
	options, err := e.options()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, options.Destroy()) }()
	s, err := ort.NewDynamicAdvancedSessionWithONNXData(probeModel(), []string{"a"}, []string{"b"}, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Destroy()) }()
	in, err := ort.NewTensor(ort.NewShape(1, 1, 1, 1), []float32{3})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Destroy()) }()
	out, err := ort.NewEmptyTensor[float32](ort.NewShape(1, 1, 1, 1))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Destroy()) }()
	if err := s.Run([]ort.Value{in}, []ort.Value{out}); err != nil {
		return err
	}
	if got := out.GetData()[0]; got != 9 {
		return fmt.Errorf("it says that 3 times 3 is %v", got)
	}
	return nil
}

// probeModel is b = a*a as an ONNX file.
func probeModel() []byte {
	g := node("Mul", []string{"a", "a"}, "b", 0)
	g = appendBytes(g, graphName, []byte("probe"))
	g = append(g, declare(graphInput, "a", elemFloat, "", "")...)
	g = append(g, declare(graphOutput, "b", elemFloat, "", "")...)
	m := appendVarint(nil, modelIRVersion, 7)
	m = appendBytes(m, modelGraph, g)
	return appendBytes(m, modelOpset, appendVarint(nil, opsetVersion, 13))
}

// Options are the settings of all engines; the zero value is usable.
type Options struct {
	CPU  CPUOptions
	CUDA CUDAOptions
}

// OpenAll returns the engines that this machine has: always the CPU's, and CUDA's when it can be used. Missing says why not.
func OpenAll(o Options) (engines []sr.Engine, missing map[sr.Device]error, err error) {
	cpu, err := OpenCPU(o.CPU)
	if err != nil {
		return nil, nil, err
	}
	engines = []sr.Engine{cpu}
	cuda, why := OpenCUDA(o.CUDA)
	if why == nil {
		engines = append(engines, cuda)
	} else {
		missing = map[sr.Device]error{sr.CUDA: why}
	}
	return engines, missing, nil
}
