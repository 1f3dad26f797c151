package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"upscaler/decode"
	"upscaler/encode"
	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/notice"
	"upscaler/server/pipeline"
	"upscaler/sr"
)

// feed is a live source in the hands of a test: connections, each of which is what the test writes to it.
type feed struct {
	conns   chan io.ReadCloser
	pool    *frame.Pool
	mu      sync.Mutex
	current io.Closer
}

func (f *feed) interrupt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current.Close()
}

func (f *feed) open(ctx context.Context, like *av.Media, unread []byte) (*decode.Source, error) {
	select {
	case r := <-f.conns:
		f.mu.Lock()
		f.current = r
		f.mu.Unlock()
		return decode.Open(ctx, io.MultiReader(bytes.NewReader(unread), r), decode.Options{Pool: f.pool, Live: true, Like: like})
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// camera writes a clip to a new connection in real time, for the time given, and then closes
// it; hang leaves it open and silent instead.
func (f *feed) camera(t *testing.T, clip string, duration time.Duration, hang bool) {
	t.Helper()
	r, w := io.Pipe()
	f.conns <- r
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "ffmpeg", "-v", "error", "-re", "-i", clip, "-map", "0", "-c", "copy", "-f", "mpegts", "-flush_packets", "1", "-")
	cmd.Stdout = &firstWrite{Writer: w, then: func() { time.AfterFunc(duration, cancel) }} // a busy machine starts it late
	go func() {
		defer cancel()
		_ = cmd.Run() // ends with the context, or with the clip
		if !hang {
			w.Close()
		}
	}()
}

// firstWrite calls then before its first write.
type firstWrite struct {
	io.Writer
	once sync.Once
	then func()
}

func (f *firstWrite) Write(p []byte) (int, error) {
	f.once.Do(f.then)
	return f.Writer.Write(p)
}

// patience is longer than anything here takes, on a machine that may be busy.
const patience = 30 * time.Second

var clips = struct {
	sync.Mutex
	made map[string]bool
}{made: map[string]bool{}}

// clipOf makes a video of pictures that tell their number, with a beep every second, once for all tests.
func clipOf(t *testing.T, name, args string) string {
	t.Helper()
	clips.Lock()
	defer clips.Unlock()
	path := filepath.Join(folder, name)
	if clips.made[name] {
		return path
	}
	command := "-v error -y -f lavfi -i testsrc2=s=96x64:r=25 -f lavfi -i sine=beep_factor=4 -t 20 -c:a aac " + args + " " + path
	if out, err := exec.Command("ffmpeg", strings.Fields(command)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	clips.made[name] = true
	return path
}

const zeroLatency = "-c:v libx264 -preset ultrafast -tune zerolatency -g 25"

type liveRun struct {
	out     file
	err     error
	notices []notice.Notice
	final   pipeline.Progress
}

func (r *liveRun) has(code notice.Code, text string) bool {
	for _, n := range r.notices {
		if n.Code == code && strings.Contains(n.Text, text) {
			return true
		}
	}
	return false
}

// runLive runs a live job on the feed until it ends or ctx does, and checks that nothing is held afterwards.
func runLive(t *testing.T, ctx context.Context, f *feed, change func(*pipeline.LiveConfig)) *liveRun {
	t.Helper()
	s := scheduler(t)
	f.pool = frame.NewPool(1 << 22)
	planes := frame.NewPool(1 << 22)
	r := &liveRun{}
	src, err := f.open(ctx, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := s.Open(ctx, sr.Spec{Scale: 2, Live: true})
	if err != nil {
		t.Fatal(err)
	}
	options := encode.Options{Container: encode.ContainerMPEGTS, Scale: 2, Live: &encode.Live{KeyFrameInterval: time.Second}}
	plan, err := encode.Plan(src.Media(), options)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := encode.Open(ctx, &r.out, src.Media(), plan, options)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	c := pipeline.LiveConfig{
		Source: src, Reopen: f.open, Interrupt: f.interrupt, Sink: sink, Frames: f.pool, Luma: planes, Scale: 2,
		Levels:   []pipeline.Level{{Name: engine.Model().Name, Engine: engine}, {Name: pipeline.Bicubic}},
		Estimate: func(int) (time.Duration, bool) { return 0, false },
		Latency:  500 * time.Millisecond, Hold: 3 * time.Second,
		Notify: func(n notice.Notice) {
			mu.Lock()
			defer mu.Unlock()
			r.notices = append(r.notices, n)
		},
	}
	if change != nil {
		change(&c)
	}
	job := pipeline.NewLive(c)
	r.err = job.Run(ctx)
	r.final = job.Progress()
	if n := f.pool.InUse() + planes.InUse(); n != 0 {
		t.Errorf("%d bytes of frames are still held", n)
	}
	sink.Close()
	engine.Close()
	m := src.Media()
	src.Close()
	m.Free()
	for _, n := range r.notices {
		t.Logf("notice %d: %s", n.Code, n.Text)
	}
	t.Logf("%+v %+v", r.final, *r.final.Live)
	return r
}

// times returns the presentation times in seconds of the output's pictures (stream "v") or sound ("a").
func (r *liveRun) times(t *testing.T, stream string) []float64 {
	t.Helper()
	cmd := exec.Command("ffprobe", "-v", "error", "-select_streams", stream, "-show_entries", "packet=pts_time", "-of", "csv=p=0", "-f", "mpegts", "-")
	cmd.Stdin = bytes.NewReader(r.out.data)
	text, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []float64
	for line := range strings.Lines(string(text)) {
		if line = strings.Trim(line, ",\n"); line != "" {
			d, err := time.ParseDuration(line + "s")
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, d.Seconds())
		}
	}
	return all
}

func TestLivePassesAFeed(t *testing.T) {
	t.Parallel()
	f := &feed{conns: make(chan io.ReadCloser, 1)}
	f.camera(t, clipOf(t, "plain.ts", zeroLatency), 4*time.Second, false)
	r := runLive(t, t.Context(), f, func(c *pipeline.LiveConfig) { c.Reopen = nil })
	if r.err != nil {
		t.Fatal(r.err)
	}
	video, audio := r.times(t, "v"), r.times(t, "a")
	if n := len(video); n < 80 || uint64(n) != r.final.Encoded || r.final.Decoded != r.final.Encoded+r.final.Live.DroppedLate {
		t.Errorf("%d frames in the output, %+v", n, r.final)
	}
	if len(audio) < 100 {
		t.Errorf("%d packets of sound in 4 s", len(audio))
	}
	if r.final.Live.P50 <= 0 || r.final.Live.P50 > 500*time.Millisecond {
		t.Errorf("median latency %v", r.final.Live.P50)
	}
}

// TestLiveSourceComesBack takes the source away and brings it back, with other timestamps and another size.
func TestLiveSourceComesBack(t *testing.T) {
	t.Parallel()
	f := &feed{conns: make(chan io.ReadCloser, 1)}
	other := clipOf(t, "other.ts", "-vf scale=128:96 -output_ts_offset 5000 "+zeroLatency)
	f.camera(t, clipOf(t, "plain.ts", zeroLatency), 2*time.Second, false)
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("the test is over")
	start := time.Now()
	r := runLive(t, ctx, f, func(c *pipeline.LiveConfig) {
		c.Reconnect, c.Hold = true, patience
		notify := c.Notify
		c.Notify = func(n notice.Notice) {
			notify(n)
			// Two seconds of the first connection, one of silence and one of the last picture, four of the second connection.
			switch {
			case strings.Contains(n.Text, "No picture has come"):
				time.AfterFunc(time.Second, func() { f.camera(t, other, 5*time.Second, true) })
			case strings.Contains(n.Text, "is back"):
				time.AfterFunc(4*time.Second, func() { cancel(over) })
			}
		}
	})
	if !errors.Is(r.err, over) {
		t.Fatal(r.err)
	}
	if r.final.Live.SourceReconnects != 1 || r.final.Live.Held < 5 {
		t.Errorf("%+v, want one reconnect and the last picture held for a second", *r.final.Live)
	}
	if !r.has(notice.Connection, "gone") || !r.has(notice.Connection, "back") {
		t.Errorf("notices %v", r.notices)
	}
	video := r.times(t, "v")
	for i := 1; i < len(video); i++ {
		if gap := video[i] - video[i-1]; gap <= 0 || gap > 1.5 {
			t.Errorf("frame %d comes %.3f s after the one before", i, gap)
		}
	}
	end := video[len(video)-1]
	// ffmpeg begins with half a second at once.
	if length, wall := end-video[0], time.Since(start).Seconds(); length < 5 || length > wall+1 {
		t.Errorf("the output lasts %.1f s, want more than 5 and not much more than the %.1f s on the wall", length, wall)
	}
	audio := r.times(t, "a")
	if last := audio[len(audio)-1]; last < end-1 || last > end+1 {
		t.Errorf("the last sound comes at %.2f s, the last picture at %.2f s", last, end)
	}
}

// TestLiveLosesPatience holds the picture of a source that fell silent only for so long.
func TestLiveLosesPatience(t *testing.T) {
	t.Parallel()
	f := &feed{conns: make(chan io.ReadCloser, 1)}
	f.camera(t, clipOf(t, "plain.ts", zeroLatency), 1500*time.Millisecond, true)
	r := runLive(t, t.Context(), f, func(c *pipeline.LiveConfig) { c.Hold = 2 * time.Second })
	var gone *pipeline.SourceGoneError
	if !errors.As(r.err, &gone) || gone.After < 2*time.Second || gone.After > patience {
		t.Errorf("%v, want a SourceGoneError after 2 s", r.err)
	}
	if r.final.Live.Held < 5 {
		t.Errorf("%d frames held, want a second of them", r.final.Live.Held)
	}
}

// TestLiveCodecChanges sends H.264 and then HEVC of another size within one stream, as a broadcast does at the hour.
func TestLiveCodecChanges(t *testing.T) {
	t.Parallel()
	var data []byte
	for _, c := range []struct{ name, args string }{
		{"short-avc.ts", "-t 3 -b:v 3M -vf noise=alls=50:allf=t " + zeroLatency},
		{"short-hevc.ts", "-t 3 -b:v 3M -vf scale=128:96,noise=alls=50:allf=t -c:v libx265 -tune zerolatency -x265-params log-level=none -g 25"},
		{"short-small.ts", "-t 5 -b:v 3M -vf scale=64:48,noise=alls=50:allf=t " + zeroLatency},
	} {
		b, err := os.ReadFile(clipOf(t, c.name, c.args))
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, b...)
	}
	f := &feed{conns: make(chan io.ReadCloser, 1)}
	in := io.NopCloser(bytes.NewReader(data))
	f.conns <- in
	r := runLive(t, t.Context(), f, func(c *pipeline.LiveConfig) {
		c.Paced = true
		c.Reopen = func(ctx context.Context, like *av.Media, unread []byte) (*decode.Source, error) {
			f.conns <- in // it goes on where it was
			return f.open(ctx, like, unread)
		}
	})
	if r.err != nil {
		t.Fatal(r.err)
	}
	video := r.times(t, "v")
	if len(video) < 130 { // of 275: after each change about two seconds are lost
		t.Errorf("%d frames", len(video))
	}
	for i := 1; i < len(video); i++ {
		if gap := video[i] - video[i-1]; gap <= 0 || gap > 3.5 {
			t.Errorf("frame %d comes %.3f s after the one before", i, gap)
		}
	}
	told := 0
	for _, n := range r.notices {
		if n.Code == notice.SizeChanged {
			told++
		}
	}
	if told != 2 {
		t.Errorf("told of %d changes, want 2", told)
	}
}
