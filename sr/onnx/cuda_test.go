package onnx

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"upscaler/sr"
)

// openCUDA returns the CUDA engine or skips the test, saying why.
func openCUDA(t *testing.T) *Engine {
	t.Helper()
	e, err := OpenCUDA(CUDAOptions{})
	if err != nil {
		t.Skipf("no CUDA here, so this is not tested: %v", err)
	}
	return e
}

func TestCUDAEqualsTheNetworkInItsFile(t *testing.T) {
	s := testScheduler(t, openCUDA(t))
	for _, f := range catalog(t) {
		ref := newReference(t, f)
		j := openJob(t, s, sr.Spec{Scale: f.Scale, Model: f.Name, Device: sr.CUDA})
		for _, depth := range []int{8, 10, 16} {
			src := picture(161, 91, depth, 1)
			// Sums in another order: the last bits of a float32, more with fp16 and int8.
			limit := 1 << max(0, depth-8)
			if d := maxDiff(upscale(t, j, src), ref.upscale(t, src)); d > limit {
				t.Errorf("%s at %d bits differs by up to %d code values", f.Name, depth, d)
			}
		}
	}
}

func TestCUDAKeepsGoSignals(t *testing.T) {
	openCUDA(t)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	defer signal.Stop(c)
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-c // a foreign handler would have ended the process
}

// TestMissingCUDASaysWhat checks the sentence that --device cuda fails with on a machine without the provider's library.
func TestMissingCUDASaysWhat(t *testing.T) {
	library, err := load("")
	if err != nil {
		t.Fatal(err)
	}
	if isFile(filepath.Join(filepath.Dir(library), "libonnxruntime_providers_cuda.so")) {
		t.Skip("this ONNX Runtime has the CUDA provider")
	}
	engines, missing, err := OpenAll(Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := sr.New(sr.Config{Models: catalog(t), Engines: engines, Missing: missing})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Open(t.Context(), sr.Spec{Scale: 2, Device: sr.CUDA})
	var device *sr.DeviceError
	if !errors.As(err, &device) || !strings.Contains(err.Error(), "libonnxruntime_providers_") {
		t.Errorf("got %v, want a DeviceError that names the missing library", err)
	}
	_, got, err := s.Choose(sr.Spec{Scale: 2})
	if err != nil || got != sr.CPU {
		t.Errorf("auto means %v, %v, want the CPU", got, err)
	}
}

// TestProbe runs the graph that proves a GPU, on the CPU: it must not be what fails.
func TestProbe(t *testing.T) {
	e, err := OpenCPU(CPUOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.probe(); err != nil {
		t.Error(err)
	}
}

// dropSIGTERM takes SIGTERM's handler away behind Go's back, as a C library could.
func dropSIGTERM() error {
	var action struct { // the kernel's struct sigaction; all zero is SIG_DFL: end the process
		handler, flags, restorer, mask uintptr
	}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGTERM),
		uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// TestKeepSignals lets something inside keepSignals take SIGTERM's handler away, in a process of its own.
func TestKeepSignals(t *testing.T) {
	if os.Getenv("UPSCALER_TEST_SIGNALS") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKeepSignals$", "-test.v")
		cmd.Env = append(os.Environ(), "UPSCALER_TEST_SIGNALS=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	defer signal.Stop(c)
	if err := keepSignals(dropSIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-c
}
