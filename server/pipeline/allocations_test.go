package pipeline_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"upscaler/decode"
	"upscaler/encode"
	"upscaler/internal/frame"
	"upscaler/models"
	"upscaler/server/pipeline"
	"upscaler/sr"
	"upscaler/sr/native"
	"upscaler/sr/onnx"
)

// TestFramesAllocateNothing: once a job runs, a frame's way from the file through decoder, engine and encoder into the file makes no
// garbage in Go. A job of many frames may allocate as often as one of few, but for what it has under way at once.
func TestFramesAllocateNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector, which runs short tests, allocates itself")
	}
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sr.New(sr.Config{Models: files, Engines: []sr.Engine{native.NewEngine(native.Options{})}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pools := [2]*frame.Pool{frame.NewPool(64 << 20), frame.NewPool(64 << 20)}
	const few, many = 100, 1100
	short, long := allocationsOf(t, s, pools, few), allocationsOf(t, s, pools, many)
	if each := (float64(long) - float64(short)) / (many - few); each > 0.5 {
		t.Errorf("%d frames took %d allocations, %d frames %d: %.2f a frame", few, short, many, long, each)
	}
}

// allocationsOf upscales a clip of n frames, H.264 to H.264 in MP4, and returns how often Go memory was allocated meanwhile.
func allocationsOf(t *testing.T, s *sr.Scheduler, pools [2]*frame.Pool, n int) uint64 {
	t.Helper()
	path := filepath.Join(t.TempDir(), "in.mkv")
	if out, err := exec.Command("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=96x64:r=25", "-frames:v", strconv.Itoa(n),
		"-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	src, err := decode.Open(ctx, bytes.NewReader(data), decode.Options{Pool: pools[0]})
	if err != nil {
		t.Fatal(err)
	}
	m := src.Media()
	defer m.Free()
	defer src.Close()
	engine, err := s.Open(ctx, sr.Spec{Scale: 2, Model: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	options := encode.Options{Container: encode.ContainerMP4, Codec: encode.CodecH264, Scale: 2, Seekable: true}
	plan, err := encode.Plan(m, options)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := encode.Open(ctx, &file{data: make([]byte, 0, 1<<20)}, m, plan, options)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	fill(t, pools[0], m.Working, m.Width, m.Height)
	fill(t, pools[1], frame.Format{Depth: m.Working.Depth, Gray: true}, 2*m.Width, 2*m.Height)

	job := &pipeline.Job{Source: src, Engine: engine, Luma: pools[1], Sink: sink}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = job.Run(ctx)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	return after.Mallocs - before.Mallocs
}

// fill makes the pool hold as many frames as a job ever has under way: how many that are depends on which side is faster.
func fill(t *testing.T, pool *frame.Pool, format frame.Format, width, height int) {
	t.Helper()
	const most = 100
	var frames []*frame.Frame
	for range most {
		f, err := pool.Get(t.Context(), format, width, height)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
	}
	for _, f := range frames {
		f.Release()
	}
}
