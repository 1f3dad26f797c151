package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestEngineFlag runs a quantized and a float model with each --engine: it must be what computes, and the log must say so.
func TestEngineFlag(t *testing.T) {
	clip := shortClip(t, "in.mp4", 2, 64, 48)
	const kernels, portable = `name="native int8 kernels (`, "ONNX Runtime"
	const loaded, handedOn = `msg="model loaded" model=lmswn-s-x2-video-int8 kernels=`, `msg="model left to another engine" model=lmswn-s-x2-video `
	for _, c := range []struct {
		engine     string
		float      bool // the float model runs
		logged     []string
		notLogged  []string
		sameKernel bool // the engine and the model's kernels are the same
	}{
		{"auto", true, []string{kernels, portable, loaded, handedOn}, nil, true},
		{"native", false, []string{kernels, loaded}, []string{portable}, true},
		{"onnx", true, []string{`name="` + portable}, []string{"kernels"}, false},
	} {
		t.Run(c.engine, func(t *testing.T) {
			s := startServer(t, "--engine", c.engine)
			out := filepath.Join(t.TempDir(), "out.mp4")
			upscale(t, "--server", s.addr, "--model", "lmswn-s-x2-video-int8", clip, "-o", out)
			_, stderr, code := client(t, "upscale", "--server", s.addr, "--model", "lmswn-s-x2-video", clip, "-o", out, "--overwrite")
			if c.float != (code == 0) || !c.float && !strings.Contains(stderr, `there is no x2 model "lmswn-s-x2-video"`) {
				t.Errorf("the float model: exit code %d\n%s", code, stderr)
			}
			if code := s.stop(t); code != 0 {
				t.Errorf("sr-server's exit code is %d", code)
			}
			log := s.log.String()
			for _, text := range c.logged {
				if !strings.Contains(log, text) {
					t.Errorf("the log lacks %q", text)
				}
			}
			for _, text := range c.notLogged {
				if strings.Contains(log, text) {
					t.Errorf("the log has %q", text)
				}
			}
			if c.sameKernel {
				_, after, _ := strings.Cut(log, kernels)
				able, _, _ := strings.Cut(after, ")")
				if !strings.Contains(log, loaded+able+"\n") {
					t.Errorf("the CPU is capable of %q, the model runs otherwise", able)
				}
			}
		})
	}
	_, stderr, code := run(t, nil, filepath.Join(binDir, "sr-server"), "--engine", "fast")
	if code == 0 || !strings.Contains(stderr, "--engine fast: want auto, native or onnx") {
		t.Errorf("--engine fast: exit code %d\n%s", code, stderr)
	}
}
