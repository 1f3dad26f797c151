// Package onnx runs networks with ONNX Runtime, on the CPU or on CUDA. It is the only importer of onnxruntime_go.
//
// The library is loaded once for the whole process and stays until it ends: ONNX Runtime's own threads and CUDA's state do not
// survive being unloaded. That is the package's one piece of global state.
package onnx

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	ort "github.com/yalue/onnxruntime_go"
)

// LibraryEnv names the environment variable that says where libonnxruntime.so lies.
const LibraryEnv = "UPSCALER_ONNXRUNTIME"

// systemFolders are where an installed ONNX Runtime is looked for, last.
var systemFolders = []string{"/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"}

var runtime struct {
	mu      sync.Mutex
	library string // absolute path; empty until loaded
}

// FindLibrary returns the absolute path of ONNX Runtime's shared library: explicit when that is not empty, else the environment's
// (LibraryEnv), else lib/libonnxruntime.so beside this program, else an installed one.
func FindLibrary(explicit string) (string, error) {
	for _, c := range []struct{ path, origin string }{{explicit, "the settings"}, {os.Getenv(LibraryEnv), LibraryEnv}} {
		if c.path == "" {
			continue
		}
		if !isFile(c.path) {
			return "", fmt.Errorf("%s names %s as ONNX Runtime's library, but there is no such file", c.origin, c.path)
		}
		return filepath.Abs(c.path)
	}
	var candidates []string
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		candidates = append(candidates, filepath.Join(filepath.Dir(exe), "lib", "libonnxruntime.so"))
	}
	for _, folder := range systemFolders {
		candidates = append(candidates, filepath.Join(folder, "libonnxruntime.so"), filepath.Join(folder, "libonnxruntime.so.1"))
	}
	for _, c := range candidates {
		if isFile(c) {
			return c, nil
		}
	}
	return "", fmt.Errorf("ONNX Runtime's library was not found: run `make build`, which puts it into lib/ beside the program, "+
		"or set %s to the path of libonnxruntime.so (1.24 or newer)", LibraryEnv)
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// load loads the library once and returns its path.
func load(explicit string) (string, error) {
	runtime.mu.Lock()
	defer runtime.mu.Unlock()
	if runtime.library != "" {
		return runtime.library, nil
	}
	path, err := FindLibrary(explicit)
	if err != nil {
		return "", err
	}
	ort.SetSharedLibraryPath(path)
	if err := ort.InitializeEnvironment(); err != nil {
		return "", fmt.Errorf("ONNX Runtime could not be loaded from %s (1.24 or newer is needed): %w", path, err)
	}
	if err := shareArena(); err != nil {
		return "", errors.Join(err, ort.DestroyEnvironment())
	}
	runtime.library = path
	return path, nil
}

// growAsRequested is ONNX Runtime's kSameAsRequested: the arena grows by what is asked for, not by powers of two.
const growAsRequested = 1

// shareArena gives all CPU sessions one arena. Each would otherwise keep the most it ever needed for itself, and with many models
// the sum, instead of the lanes' need, would be the process's size.
func shareArena() error {
	info, err := ort.GetMemoryInfo()
	if err != nil {
		return err
	}
	cfg, err := ort.NewArenaCfg(0, growAsRequested, -1, -1)
	if err != nil {
		return err
	}
	defer cfg.Destroy()
	return ort.CreateAndRegisterAllocator(info, cfg)
}

// Version returns the version of the loaded library, empty before the first engine was opened.
func Version() string {
	runtime.mu.Lock()
	defer runtime.mu.Unlock()
	if runtime.library == "" {
		return ""
	}
	return ort.GetVersion()
}
