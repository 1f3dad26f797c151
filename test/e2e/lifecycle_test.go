package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	upscalev1 "upscaler/gen/upscale/v1"
)

func dial(t *testing.T, addr string) upscalev1.UpscaleServiceClient {
	t.Helper()
	return upscalev1.NewUpscaleServiceClient(connect(t, addr))
}

func connect(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// job is a job driven through the stubs, for what the real client never does: stopping to read, cancelling at a point.
type job struct {
	stream   grpc.BidiStreamingClient[upscalev1.UpscaleRequest, upscalev1.UpscaleResponse]
	cancel   context.CancelFunc
	uploaded chan struct{} // closed when all data has been sent
}

// begin starts a job and uploads data in the background.
func begin(t *testing.T, c upscalev1.UpscaleServiceClient, data []byte) *job {
	t.Helper()
	return start(t, c, data, true)
}

// beginOpen starts a job whose upload never ends, so that it cannot be done before the test has seen it at work.
func beginOpen(t *testing.T, c upscalev1.UpscaleServiceClient, data []byte) *job {
	t.Helper()
	return start(t, c, data, false)
}

func start(t *testing.T, c upscalev1.UpscaleServiceClient, data []byte, complete bool) *job {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	stream, err := c.Upscale(ctx)
	if err != nil {
		t.Fatal(err)
	}
	settings := &upscalev1.Start{Output: &upscalev1.Output{Container: upscalev1.Container_CONTAINER_MATROSKA, Preset: "ultrafast", Codec: upscalev1.VideoCodec_VIDEO_CODEC_H264}}
	if err := stream.Send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Start{Start: settings}}); err != nil {
		t.Fatal(err)
	}
	uploaded := make(chan struct{})
	go func() {
		defer close(uploaded)
		for len(data) > 0 {
			n := min(len(data), 31<<10)
			if stream.Send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Chunk{Chunk: &upscalev1.Chunk{Data: data[:n]}}}) != nil {
				return // the job has ended; Recv says how
			}
			data = data[n:]
		}
		if complete {
			_ = stream.CloseSend()
		}
	}()
	return &job{stream, cancel, uploaded}
}

// finish reads to the end and returns the summary, or the status that ended the job.
func (j *job) finish() (*upscalev1.Summary, error) {
	var summary *upscalev1.Summary
	for {
		m, err := j.stream.Recv()
		if err == io.EOF {
			return summary, nil
		}
		if err != nil {
			return nil, err
		}
		if summary != nil {
			return nil, fmt.Errorf("%v follows the summary", m)
		}
		summary = m.GetSummary()
	}
}

// untilFrames reads until the server reports encoded frames.
func (j *job) untilFrames(n uint64) error {
	for {
		m, err := j.stream.Recv()
		if err != nil {
			return err
		}
		if m.GetProgress().GetFramesEncoded() >= n {
			return nil
		}
	}
}

// synthetic makes n frames of moving test picture.
func synthetic(t *testing.T, n, w, h int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "synthetic.mkv")
	ffmpeg(t, "-v", "error", "-f", "lavfi", "-i", fmt.Sprintf("testsrc2=s=%dx%d:r=25", w, h), "-frames:v", strconv.Itoa(n),
		"-c:v", "libx264", "-preset", "ultrafast", path)
	return read(t, path)
}

func TestInterruptLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in.mkv")
	if err := os.WriteFile(in, synthetic(t, 3000, 320, 180), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binDir, "sr-client"), "upscale", in, "--json")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	buf := make([]byte, 1)
	if _, err := stdout.Read(buf); err != nil { // the first event: the private server is at work
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("sr-client does not end after an interrupt")
	}
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("files left: %v, want the input alone", left)
	}
}

func TestSIGTERMFinishesRunningJobs(t *testing.T) {
	s := startServer(t, "--grace", "1m")
	c := dial(t, s.addr)
	j := beginOpen(t, c, synthetic(t, 200, 320, 180))
	if err := j.untilFrames(1); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	health := healthgrpc.NewHealthClient(connect(t, s.addr))
	eventually(t, 10*time.Second, "health says NOT_SERVING", func() bool {
		res, err := health.Check(context.Background(), &healthgrpc.HealthCheckRequest{})
		return err != nil || res.GetStatus() == healthgrpc.HealthCheckResponse_NOT_SERVING
	})
	if _, err := begin(t, c, []byte("x")).finish(); status.Code(err) != codes.Unavailable {
		t.Errorf("a job sent after SIGTERM: %v, want UNAVAILABLE", err)
	}
	<-j.uploaded
	if err := j.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	summary, err := j.finish()
	if err != nil || summary.GetFramesEncoded() != 200 {
		t.Errorf("the running job: %v, %v; want all 200 frames", summary, err)
	}
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		t.Fatal("the server does not end after its last job")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestSIGTERMEndsJobsAfterTheGraceTime(t *testing.T) {
	s := startServer(t, "--grace", "200ms")
	j := beginOpen(t, dial(t, s.addr), synthetic(t, 100, 96, 64))
	if err := j.untilFrames(1); err != nil {
		t.Fatal(err)
	}
	if code := s.stop(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if _, err := j.finish(); status.Code(err) != codes.Unavailable {
		t.Errorf("the unfinished job ended with %v, want UNAVAILABLE", err)
	}
}

func TestTooManyJobsAreToldToWait(t *testing.T) {
	s := startServer(t, "--max-jobs", "1")
	c := dial(t, s.addr)
	j := beginOpen(t, c, synthetic(t, 100, 96, 64))
	if err := j.untilFrames(1); err != nil {
		t.Fatal(err)
	}
	_, err := begin(t, c, []byte("x")).finish()
	if status.Code(err) != codes.ResourceExhausted || len(status.Convert(err).Details()) < 2 {
		t.Errorf("got %v, want RESOURCE_EXHAUSTED with ErrorInfo and RetryInfo", err)
	}
	j.cancel()
	eventually(t, 10*time.Second, "the cancelled job's place is free", func() bool { return s.gauge(t, "upscale_jobs_running") == 0 })
}

// TestStoppedReaderSlowsOnlyItself: one client stops reading in the middle; another job runs to its end meanwhile, and the
// server's memory does not grow.
func TestStoppedReaderSlowsOnlyItself(t *testing.T) {
	s := startServer(t)
	// Noise does not compress: the output soon fills every window and queue on the way to a client that does not read.
	path := filepath.Join(t.TempDir(), "noise.mkv")
	ffmpeg(t, "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=160x90:r=25,noise=alls=100:allf=t", "-frames:v", "1500", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "10", path)
	stopped := begin(t, dial(t, s.addr), read(t, path))
	if err := stopped.untilFrames(1); err != nil {
		t.Fatal(err)
	}
	var frames float64
	eventually(t, time.Minute, "the job whose output nobody reads stands still", func() bool {
		time.Sleep(time.Second) // two looks a second apart
		last := frames
		frames = s.gauge(t, `upscale_engine_frames_total{device="cpu"}`)
		return frames == last
	})
	summary, err := begin(t, dial(t, s.addr), synthetic(t, 100, 96, 64)).finish()
	if err != nil || summary.GetFramesEncoded() != 100 {
		t.Errorf("the other job: %v, %v; want 100 frames", summary, err)
	}
	// Reading again, the first job goes on to its end.
	summary, err = stopped.finish()
	if err != nil || summary.GetFramesEncoded() != 1500 {
		t.Errorf("the job read again: %v, %v; want 1500 frames", summary, err)
	}
}

func TestStalledJobsEnd(t *testing.T) {
	s := startServer(t, "--stall-timeout", "1s")
	c := dial(t, s.addr)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	stream, err := c.Upscale(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Start{Start: &upscalev1.Start{}}}); err != nil {
		t.Fatal(err)
	}
	// Nothing follows.
	if _, err := (&job{stream: stream, cancel: cancel}).finish(); status.Code(err) != codes.Aborted {
		t.Errorf("got %v, want ABORTED", err)
	}
}

// TestNothingLeaks runs 200 jobs, of which half are cancelled or broken, and finds the server as it was.
func TestNothingLeaks(t *testing.T) {
	jobs := 200
	if testing.Short() {
		jobs = 24
	}
	s := startServer(t, "--max-jobs", "32") // a cancelled job holds its place for a moment longer than its client
	c := dial(t, s.addr)
	good := synthetic(t, 6, 64, 48)
	long := synthetic(t, 100, 64, 48)
	broken := append(append([]byte{}, good[:len(good)/3]...), noise(4096)...)

	round := func(i int) error {
		switch i % 4 {
		case 0: // cancelled in the middle
			j := beginOpen(t, c, long)
			if err := j.untilFrames(1); err != nil {
				return err
			}
			j.cancel()
			_, err := j.finish()
			if status.Code(err) != codes.Canceled {
				return fmt.Errorf("cancelled job ended with %v", err)
			}
		case 2: // broken
			_, _ = begin(t, c, broken).finish() // either end is right
		default:
			summary, err := begin(t, c, good).finish()
			if err != nil || summary.GetFramesEncoded() != 6 {
				return fmt.Errorf("good job: %v, %w", summary, err)
			}
		}
		return nil
	}
	idle := func() bool { return s.gauge(t, "upscale_jobs_running") == 0 }
	measure := func() (goroutines, fds, contexts, bytes float64) {
		eventually(t, 10*time.Second, "all jobs have ended", idle)
		return s.gauge(t, "go_goroutines"), float64(openFiles(t, s.cmd.Process.Pid)),
			s.gauge(t, "upscale_ffmpeg_contexts"), s.gauge(t, "upscale_frame_bytes")
	}
	// The first jobs load the model and open what stays open.
	for i := range 4 {
		if err := round(i); err != nil {
			t.Fatal(err)
		}
	}
	goroutines, fds, contexts, bytes := measure()
	if contexts != 0 || bytes != 0 {
		t.Errorf("an idle server has %v FFmpeg contexts and %v bytes of frames", contexts, bytes)
	}

	work := make(chan int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range work {
				if err := round(i); err != nil {
					t.Errorf("job %d: %v", i, err)
				}
			}
		})
	}
	for i := range jobs {
		work <- i
	}
	close(work)
	wg.Wait()

	eventually(t, 20*time.Second, fmt.Sprintf("the server is as before: %v goroutines, %v descriptors", goroutines, fds), func() bool {
		g, f, c, b := measure()
		// HTTP and gRPC keep a connection's goroutine or two alive for a while.
		ok := g <= goroutines+2 && f <= fds+1 && c == 0 && b == 0
		if !ok {
			t.Logf("%v goroutines, %v descriptors, %v FFmpeg contexts, %v bytes of frames", g, f, c, b)
		}
		return ok
	})
}

// TestMemoryDoesNotGrowWithLength: a long video takes no more memory at its end than when it was well under way.
func TestMemoryDoesNotGrowWithLength(t *testing.T) {
	frames := 6000
	if testing.Short() {
		frames = 1500
	}
	s := startServer(t)
	j := beginOpen(t, dial(t, s.addr), synthetic(t, frames, 64, 48)) // it must not be done before it was looked at
	if err := j.untilFrames(uint64(frames / 4)); err != nil {
		t.Fatal(err)
	}
	early := residentBytes(t, s.cmd.Process.Pid)
	if err := j.untilFrames(uint64(frames * 9 / 10)); err != nil {
		t.Fatal(err)
	}
	late := residentBytes(t, s.cmd.Process.Pid)
	<-j.uploaded
	if err := j.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if summary, err := j.finish(); err != nil || summary.GetFramesEncoded() != uint64(frames) {
		t.Fatalf("%v, %v; want %d frames", summary, err, frames)
	}
	// Go's collector lets its heap double between two runs; a leak of one 64x48 frame and its upscaled twin each time would be
	// far over this.
	const slack = 24 << 20
	t.Logf("resident: %d MiB after a quarter, %d MiB near the end", early>>20, late>>20)
	if late > early+slack {
		t.Errorf("resident memory grew from %d to %d bytes", early, late)
	}
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func residentBytes(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
