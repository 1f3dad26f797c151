package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"upscaler/decode"
	"upscaler/encode"
	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/models"
	"upscaler/server/pipeline"
	"upscaler/sr"
	"upscaler/sr/onnx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(&contextsChecked{m}) }

// contextsChecked fails when tests have left FFmpeg's contexts open.
type contextsChecked struct{ *testing.M }

// folder holds what the tests share.
var folder string

func (m *contextsChecked) Run() int {
	var err error
	if folder, err = os.MkdirTemp("", "pipeline-"); err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(folder)
	code := m.M.Run()
	if n := av.LiveContexts(); n != 0 {
		fmt.Printf("%d FFmpeg contexts are still open\n", n)
		return 1
	}
	return code
}

const frames = 200

// media makes a small video with sound once for all tests.
var media = sync.OnceValues(func() ([]byte, error) {
	path := filepath.Join(folder, "in.mkv")
	out, err := exec.Command("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=96x64:r=25", "-f", "lavfi", "-i", "sine",
		"-frames:v", "200", "-t", "8", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-c:a", "aac", path).CombinedOutput()
	if err != nil {
		return nil, errors.Join(err, errors.New(string(out)))
	}
	return os.ReadFile(path)
})

func scheduler(t *testing.T) *sr.Scheduler {
	t.Helper()
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		t.Fatal(err)
	}
	cpu, err := onnx.OpenCPU(onnx.CPUOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := sr.New(sr.Config{Models: files, Engines: []sr.Engine{cpu}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// run sends input through a pipeline into out, and checks that nothing is held afterwards.
func run(t *testing.T, ctx context.Context, input io.Reader, out encode.Output) (pipeline.Progress, error) {
	t.Helper()
	s := scheduler(t)
	pool, planes := frame.NewPool(1<<18), frame.NewPool(1<<18) // a dozen frames: both pools run empty
	src, err := decode.Open(ctx, input, decode.Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := s.Open(ctx, sr.Spec{Scale: 2})
	if err != nil {
		t.Fatal(err)
	}
	options := encode.Options{Container: encode.ContainerMatroska, Codec: encode.CodecFFV1, Scale: 2, Seekable: true}
	plan, err := encode.Plan(src.Media(), options)
	if err != nil {
		t.Fatal(err)
	}
	job := &pipeline.Job{Source: src, Engine: engine, Luma: planes}
	sink, err := encode.Open(ctx, out, src.Media(), plan, options)
	if err == nil {
		job.Sink = sink
		err = job.Run(ctx)
		defer func() {
			if n := pool.InUse() + planes.InUse(); n != 0 {
				t.Errorf("%d bytes of frames are still held", n)
			}
			if n := av.LiveContexts(); n != 0 {
				t.Errorf("%d FFmpeg contexts are still open", n)
			}
		}()
	}
	var pr pipeline.Progress
	if sink != nil {
		pr = job.Progress()
		sink.Close()
	}
	engine.Close()
	m := src.Media()
	src.Close()
	m.Free()
	return pr, err
}

// file is an Output in memory that fails, blocks or calls back where a test wants it to.
type file struct {
	data    []byte
	onWrite func(written int) error
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if f.onWrite != nil {
		if err := f.onWrite(len(f.data)); err != nil {
			return 0, err
		}
	}
	if need := int(off) + len(p); need > len(f.data) {
		f.data = append(f.data, make([]byte, need-len(f.data))...)
	}
	return copy(f.data[off:], p), nil
}

func input(t *testing.T) []byte {
	t.Helper()
	b, err := media()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRun(t *testing.T) {
	var out file
	pr, err := run(t, t.Context(), bytes.NewReader(input(t)), &out)
	if err != nil {
		t.Fatal(err)
	}
	if pr.Decoded != frames || pr.Encoded != frames {
		t.Errorf("%d frames decoded, %d encoded, want %d", pr.Decoded, pr.Encoded, frames)
	}
	if want := 7960 * time.Millisecond; pr.Position != want { // the last frame's time: 199 x 40 ms
		t.Errorf("position %v, want %v", pr.Position, want)
	}
	if pr.BytesIn != uint64(len(input(t))) || pr.BytesOut != uint64(len(out.data)) {
		t.Errorf("%d bytes in and %d out, want %d and %d", pr.BytesIn, pr.BytesOut, len(input(t)), len(out.data))
	}
	// What came out is a video again, twice as large.
	src, err := decode.Open(t.Context(), bytes.NewReader(out.data), decode.Options{Pool: frame.NewPool(1 << 20)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		m := src.Media()
		src.Close()
		m.Free()
	}()
	if m := src.Media(); m.Width != 192 || m.Height != 128 || len(m.Streams) != 2 {
		t.Errorf("%dx%d and %d streams, want 192x128 and 2", m.Width, m.Height, len(m.Streams))
	}
}

func TestOutputErrorEndsTheJob(t *testing.T) {
	full := errors.New("disk full")
	for _, at := range []int{0, 1, 1_000_000} {
		out := file{onWrite: func(written int) error {
			if written >= at {
				return full
			}
			return nil
		}}
		if _, err := run(t, t.Context(), bytes.NewReader(input(t)), &out); !errors.Is(err, full) {
			t.Errorf("output fails after %d bytes: got %v, want %v", at, err, full)
		}
	}
}

func TestInputErrorEndsTheJob(t *testing.T) {
	broken := errors.New("connection lost")
	b := input(t)
	r := io.MultiReader(bytes.NewReader(b[:len(b)*9/10]), &failing{broken})
	if _, err := run(t, t.Context(), r, &file{}); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

// TestCancel cancels while the input is being read, and while the output waits for a slow reader.
func TestCancel(t *testing.T) {
	why := errors.New("the user left")
	t.Run("while the input stands still", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		r, w := io.Pipe()
		b := input(t)
		go func() {
			_, _ = w.Write(b[:len(b)*9/10])
			cancel(why)
			w.CloseWithError(why) // as the server does: Read returns the context's cause
		}()
		if _, err := run(t, ctx, r, &file{}); !errors.Is(err, why) {
			t.Errorf("got %v, want %v", err, why)
		}
	})
	t.Run("while the output is not read", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		out := file{onWrite: func(written int) error {
			if written == 0 {
				return nil
			}
			cancel(why)
			<-ctx.Done()
			return context.Cause(ctx)
		}}
		if _, err := run(t, ctx, bytes.NewReader(input(t)), &out); !errors.Is(err, why) {
			t.Errorf("got %v, want %v", err, why)
		}
	})
}
