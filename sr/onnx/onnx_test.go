package onnx

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	ort "github.com/yalue/onnxruntime_go"
	"go.uber.org/goleak"

	"upscaler/internal/frame"
	"upscaler/models"
	"upscaler/sr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testEngine returns a CPU engine with settings of the test's choice.
func testEngine(t testing.TB, o CPUOptions, lanes sr.Lanes) *Engine {
	t.Helper()
	o.Workers = lanes.Count
	e, err := OpenCPU(o)
	if err != nil {
		t.Fatal(err)
	}
	e.lanes = lanes
	return e
}

func testScheduler(t testing.TB, e sr.Engine) *sr.Scheduler {
	t.Helper()
	s, err := sr.New(sr.Config{Models: catalog(t), Engines: []sr.Engine{e}})
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

func catalog(t testing.TB) []sr.File {
	t.Helper()
	files, err := Catalog(models.FS)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func openJob(t testing.TB, s *sr.Scheduler, spec sr.Spec) *sr.Job {
	t.Helper()
	j, err := s.Open(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

// picture returns a plane with smooth parts, edges and noise. Its rows are padded, with bytes that must not matter.
func picture(width, height, depth int, seed uint64) frame.Plane {
	r := rand.New(rand.NewPCG(seed, 1))
	p := emptyPlane(width, height, depth)
	for i := range p.Data {
		p.Data[i] = byte(r.Uint32())
	}
	peak := 1<<depth - 1
	for y := range height {
		for x := range width {
			v := (x + y) * peak / (width + height)
			if (x/5+y/7+int(seed))%3 == 0 {
				v = peak - v
			}
			v = min(max(v+r.IntN(peak/16+1)-peak/32, 0), peak)
			setSample(p, x, y, v)
		}
	}
	return p
}

func emptyPlane(width, height, depth int) frame.Plane {
	bytes := 1
	if depth > 8 {
		bytes = 2
	}
	stride := (width*bytes + 63) &^ 63
	return frame.Plane{Data: make([]byte, stride*height), Stride: stride, Width: width, Height: height, Depth: depth}
}

func sample(p frame.Plane, x, y int) int {
	if p.Depth > 8 {
		return int(p.Data[y*p.Stride+2*x]) | int(p.Data[y*p.Stride+2*x+1])<<8
	}
	return int(p.Data[y*p.Stride+x])
}

func setSample(p frame.Plane, x, y, v int) {
	if p.Depth > 8 {
		p.Data[y*p.Stride+2*x], p.Data[y*p.Stride+2*x+1] = byte(v), byte(v>>8)
		return
	}
	p.Data[y*p.Stride+x] = byte(v)
}

// upscale runs one frame through a job.
func upscale(t testing.TB, j *sr.Job, src frame.Plane) frame.Plane {
	t.Helper()
	s := j.Model().Scale
	dst := emptyPlane(src.Width*s, src.Height*s, src.Depth)
	ticket, err := j.Submit(context.Background(), src, dst)
	if err != nil {
		t.Fatal(err)
	}
	if err := ticket.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	return dst
}

// maxDiff returns the largest difference between two planes in code values.
func maxDiff(a, b frame.Plane) int {
	worst := 0
	for y := range a.Height {
		for x := range a.Width {
			d := sample(a, x, y) - sample(b, x, y)
			worst = max(worst, d, -d)
		}
	}
	return worst
}

// countDiff returns how many samples of two planes differ.
func countDiff(a, b frame.Plane) int {
	n := 0
	for y := range a.Height {
		for x := range a.Width {
			if sample(a, x, y) != sample(b, x, y) {
				n++
			}
		}
	}
	return n
}

// destroyAfter destroys what belongs to ONNX Runtime at the test's end.
func destroyAfter(t testing.TB, v interface{ Destroy() error }) {
	t.Cleanup(func() {
		if err := v.Destroy(); err != nil {
			t.Error(err)
		}
	})
}

// reference upscales with the network as it is in its file: float tensors in and out, converted here, one sample at a time.
type reference struct {
	session *ort.DynamicAdvancedSession
	scale   int
}

func newReference(t testing.TB, f sr.File) *reference {
	t.Helper()
	s, err := ort.NewDynamicAdvancedSessionWithONNXData(f.Data, []string{"x"}, []string{"y"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	destroyAfter(t, s)
	return &reference{s, f.Scale}
}

func (r *reference) upscale(t testing.TB, src frame.Plane) frame.Plane {
	t.Helper()
	in := make([]float32, src.Width*src.Height)
	peak := float64(int(1)<<src.Depth - 1)
	for y := range src.Height {
		for x := range src.Width {
			in[y*src.Width+x] = float32(float64(sample(src, x, y)) / peak)
		}
	}
	w, h := src.Width*r.scale, src.Height*r.scale
	x, err := ort.NewTensor(ort.NewShape(1, 1, int64(src.Height), int64(src.Width)), in)
	if err != nil {
		t.Fatal(err)
	}
	destroyAfter(t, x)
	y, err := ort.NewEmptyTensor[float32](ort.NewShape(1, 1, int64(h), int64(w)))
	if err != nil {
		t.Fatal(err)
	}
	destroyAfter(t, y)
	if err := r.session.Run([]ort.Value{x}, []ort.Value{y}); err != nil {
		t.Fatal(err)
	}
	dst := emptyPlane(w, h, src.Depth)
	for i, v := range y.GetData() {
		setSample(dst, i%w, i/w, int(min(max(float64(v), 0), 1)*peak+0.5))
	}
	return dst
}

func TestEqualsTheNetworkInItsFile(t *testing.T) {
	s := testScheduler(t, testEngine(t, CPUOptions{}, sr.Lanes{Count: 2, Batch: 1}))
	sizes := [][2]int{{1, 1}, {2, 3}, {1, 40}, {33, 17}, {64, 48}}
	for _, f := range catalog(t) {
		ref := newReference(t, f)
		j := openJob(t, s, sr.Spec{Scale: f.Scale, Model: f.Name})
		for _, depth := range []int{8, 9, 10, 12, 14, 16} {
			for _, size := range sizes {
				t.Run(fmt.Sprintf("%s/%d bits/%dx%d", f.Name, depth, size[0], size[1]), func(t *testing.T) {
					src := picture(size[0], size[1], depth, 1)
					got, want := upscale(t, j, src), ref.upscale(t, src)
					// Both round a float32 that may differ in its last bits: rarely to the neighbouring code value.
					d, n := maxDiff(got, want), countDiff(got, want)
					if all := got.Width * got.Height; d > 1 || n > 1+all/20 {
						t.Errorf("%d of %d samples differ, by up to %d code values", n, all, d)
					}
				})
			}
		}
	}
}

func TestTilesEqualTheWholeFrame(t *testing.T) {
	whole := testScheduler(t, testEngine(t, CPUOptions{}, sr.Lanes{Count: 1, Batch: 1}))
	for _, f := range catalog(t) {
		// Room for a few thousand pixels: many tiles, halos wider than what they surround.
		memory := activationBytes[f.Tier] * int64(6*f.Halo*6*f.Halo)
		tiled := testScheduler(t, testEngine(t, CPUOptions{WorkerMemory: memory}, sr.Lanes{Count: 2, Batch: 1}))
		spec := sr.Spec{Scale: f.Scale, Model: f.Name}
		a, b := openJob(t, whole, spec), openJob(t, tiled, spec)
		for _, depth := range []int{8, 10} {
			src := picture(211, 163, depth, 2)
			want, got := upscale(t, a, src), upscale(t, b, src)
			if d := maxDiff(got, want); d != 0 {
				t.Errorf("%s at %d bits: tiles differ from the whole frame by up to %d code values", f.Name, depth, d)
			}
		}
		if n := b.Stats().Tiles / 2; n < 4 {
			t.Errorf("%s: %d tiles a frame: the test means nothing", f.Name, n)
		}
	}
}

// TestBatchesMixJobs checks that frames of several jobs, of several depths, may lie in one batch without touching each other.
func TestBatchesMixJobs(t *testing.T) {
	s := testScheduler(t, testEngine(t, CPUOptions{}, sr.Lanes{Count: 1, Batch: 4, Overlap: true}))
	f := catalog(t)[0]
	ref := newReference(t, f)
	var wg sync.WaitGroup
	for i, depth := range []int{8, 8, 10, 10, 12, 16} {
		j := openJob(t, s, sr.Spec{Scale: f.Scale, Model: f.Name})
		wg.Go(func() {
			for n := range uint64(6) {
				src := picture(48, 40, depth, n+uint64(100*i))
				got := upscale(t, j, src)
				if d := maxDiff(got, ref.upscale(t, src)); d > 1 {
					t.Errorf("job %d at %d bits, frame %d: differs by up to %d code values", i, depth, n, d)
				}
			}
		})
	}
	wg.Wait()
	if st := s.Stats().Engines[0]; st.Batches >= st.Frames {
		t.Errorf("%d batches for %d frames: nothing was ever batched", st.Batches, st.Frames)
	}
}

func TestSteadyFramesAllocateLittle(t *testing.T) {
	s := testScheduler(t, testEngine(t, CPUOptions{}, sr.Lanes{Count: 1, Batch: 1}))
	j := openJob(t, s, sr.Spec{Scale: 2})
	srcs := []frame.Plane{picture(64, 48, 8, 1), picture(64, 48, 8, 2)}
	dst := emptyPlane(128, 96, 8)
	n := 0
	allocs := testing.AllocsPerRun(50, func() {
		ticket, err := j.Submit(context.Background(), srcs[n%2], dst)
		if err != nil {
			t.Fatal(err)
		}
		n++
		if err := ticket.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
	// The ticket, its channel and its pieces; the queue's wake-up channel; two slices in onnxruntime_go's Run. No planes.
	if allocs > 12 {
		t.Errorf("%v allocations a frame", allocs)
	}
	if st := j.Stats(); st.Reused != 0 {
		t.Errorf("%d frames were reused, but each differed from the one before", st.Reused)
	}
}

func TestFindLibrary(t *testing.T) {
	if _, err := FindLibrary("/no/such/libonnxruntime.so"); err == nil || !strings.Contains(err.Error(), "/no/such/") {
		t.Errorf("a named file that is missing: %v, want an error that names it", err)
	}
	t.Setenv(LibraryEnv, "/nowhere/lib.so")
	if _, err := FindLibrary(""); err == nil || !strings.Contains(err.Error(), LibraryEnv) {
		t.Errorf("%s names a missing file: %v, want an error that names the variable", LibraryEnv, err)
	}
	here := t.TempDir() + "/libonnxruntime.so"
	if err := os.WriteFile(here, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(LibraryEnv, here)
	if got, err := FindLibrary(""); err != nil || got != here {
		t.Errorf("got %q, %v, want %q", got, err, here)
	}
}
