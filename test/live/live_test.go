// Package live tests live jobs from one end to the other: the real programs, a real media server between real connections, and a
// clip whose pictures carry their number and flash when it beeps.
package live

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/test/mediamtx"
)

// folder holds the programs and what the tests share.
var folder string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if folder, err = os.MkdirTemp("", "upscaler-live-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(folder)
		args := []string{"build", "-o", folder}
		if os.Getenv("UPSCALER_TEST_RACE") != "" {
			args = append(args, "-race")
		}
		if out, err := exec.Command("go", append(args, "upscaler/cmd/sr-server", "upscaler/cmd/sr-client")...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

func theClip(t *testing.T) string {
	t.Helper()
	path, err := clip()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// process is a program that runs beside the test.
type process struct {
	*exec.Cmd
	done chan struct{}
	err  error
	log  lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, done: make(chan struct{})}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.log
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.done
}

// camera publishes the clip on a path in real time, until it is killed. It does so by RTMP: by RTSP, ffmpeg collects sound in large
// packets, and mediamtx takes a track to begin when its first packet comes, so that the sound is a third of a second off
// before we see it.
func camera(t *testing.T, m *mediamtx.Server, path string) *process {
	t.Helper()
	p := start(t, exec.Command("ffmpeg", "-v", "error", "-nostdin", "-re", "-i", theClip(t), "-c", "copy", "-f", "flv", m.Address("rtmp", path, true)))
	m.Ready(t, path)
	return p
}

// record copies a stream into a file for some seconds of its time.
func record(t *testing.T, address string, seconds int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "recording.ts")
	args := []string{"-v", "error", "-nostdin"}
	if strings.HasPrefix(address, "rtsp:") {
		args = append(args, "-rtsp_transport", "tcp")
	}
	args = append(args, "-i", address, "-t", fmt.Sprint(seconds), "-map", "0", "-c", "copy", "-f", "mpegts", path)
	p := start(t, exec.Command("ffmpeg", args...))
	select {
	case <-p.done:
	case <-time.After(time.Duration(seconds)*time.Second + 30*time.Second):
		p.kill()
		t.Fatalf("recording %s took too long: %s", address, p.log.String())
	}
	if p.err != nil {
		t.Fatalf("recording %s: %v\n%s", address, p.err, p.log.String())
	}
	return path
}

// job is sr-client live at work.
type job struct {
	*process
	t      *testing.T
	events lineWriter

	mu       sync.Mutex
	progress *upscalev1.Progress
	notices  []*upscalev1.Notice
	summary  *upscalev1.Summary
	failure  string
}

// live starts sr-client live. What stdin gives is its standard input.
func live(t *testing.T, stdin io.Reader, args ...string) *job {
	t.Helper()
	cmd := exec.Command(filepath.Join(folder, "sr-client"), append([]string{"live", "--json"}, args...)...)
	j := &job{t: t}
	cmd.Stdin, cmd.Stdout = stdin, &j.events
	j.events.take = j.take
	j.process = start(t, cmd)
	t.Cleanup(func() {
		j.kill()
		if t.Failed() {
			for _, n := range j.notices {
				t.Logf("notice: %s", n.GetText())
			}
			t.Logf("last progress: %v\n%s", j.progress, j.log.String())
		}
	})
	return j
}

// lineWriter gives whole lines to take. A program has ended when all that it wrote has come here, which a pipe that is read
// beside it would not be sure of.
type lineWriter struct {
	rest []byte
	take func(line []byte)
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.take(line)
		l.rest = rest
	}
}

// take follows one event that sr-client prints.
func (j *job) take(line []byte) {
	var e struct {
		Event                     string
		Progress, Notice, Summary json.RawMessage
		Error                     *struct{ Text string }
	}
	if json.Unmarshal(line, &e) != nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	switch e.Event {
	case "progress":
		j.progress = &upscalev1.Progress{}
		_ = protojson.Unmarshal(e.Progress, j.progress)
	case "notice":
		n := &upscalev1.Notice{}
		_ = protojson.Unmarshal(e.Notice, n)
		j.notices = append(j.notices, n)
	case "done":
		j.summary = &upscalev1.Summary{}
		_ = protojson.Unmarshal(e.Summary, j.summary)
	case "failed":
		j.failure = e.Error.Text
	}
}

// said tells whether there was a notice with such a text.
func (j *job) said(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(j.notices, func(n *upscalev1.Notice) bool { return strings.Contains(n.GetText(), text) })
}

// now returns the last progress, an empty one when there is none yet.
func (j *job) now() *upscalev1.Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.progress == nil {
		return &upscalev1.Progress{}
	}
	return j.progress
}

// next waits for a progress that is later than this, and returns it: what it counts includes all that has happened until now.
func (j *job) next() *upscalev1.Progress {
	j.t.Helper()
	for range 2 { // the first may be on its way already
		old := j.now()
		j.until("another progress", func(p *upscalev1.Progress) bool { return p != old })
	}
	return j.now()
}

// until waits for a progress that is as wanted.
func (j *job) until(what string, ok func(*upscalev1.Progress) bool) {
	j.t.Helper()
	mediamtx.Until(j.t, what, func() bool {
		select {
		case <-j.done:
			j.t.Fatalf("sr-client ended while waiting: %s\n%s", what, j.log.String())
		default:
		}
		return ok(j.now())
	})
}

// stop is Ctrl+C, and returns the summary.
func (j *job) stop() *upscalev1.Summary {
	j.t.Helper()
	_ = j.Process.Signal(syscall.SIGINT)
	select {
	case <-j.done:
	case <-time.After(time.Minute):
		j.t.Fatal("sr-client does not end after Ctrl+C")
	}
	if j.summary == nil {
		j.t.Fatalf("no summary: %s", j.failure)
	}
	return j.summary
}

func dropped(p *upscalev1.Progress) uint64 {
	l := p.GetLive()
	return l.GetDroppedLate() + l.GetDroppedSink() + l.GetDroppedUndecoded()
}

func gaps(numbers []int) (missing int, ordered bool) {
	ordered = true
	for i := 1; i < len(numbers); i++ {
		if numbers[i] <= numbers[i-1] {
			ordered = false
		}
		missing += numbers[i] - numbers[i-1] - 1
	}
	return missing, ordered
}

// checkSkew compares beeps and flashes with those of the clip itself; there must be at least so many pairs of them.
func checkSkew(t *testing.T, r recording, atLeast int) {
	t.Helper()
	most, least, pairs := r.skew()
	want, _, _ := reference(t).skew()
	t.Logf("%d frames, beeps %.0f to %.0f ms after flashes (%d), in the clip %.0f ms", len(r.numbers), 1000*least, 1000*most, pairs, 1000*want)
	if pairs < atLeast {
		t.Errorf("%d flashes and %d beeps", len(r.flashes), len(r.beeps))
	}
	if pairs > 0 && (most-want > 0.04 || want-least > 0.04) {
		t.Errorf("beeps come %.0f to %.0f ms after flashes, in the clip %.0f ms", 1000*least, 1000*most, 1000*want)
	}
}

// reference is what the clip itself shows. Tests that wait more than they compute run side by side.
var reference = func() func(t *testing.T) recording {
	var once sync.Once
	var r recording
	return func(t *testing.T) recording {
		once.Do(func() {
			path, err := makeClip("reference.mp4", clipWidth, clipHeight, 5)
			if err != nil {
				t.Fatal(err)
			}
			r = watch(t, path, 1)
		})
		return r
	}
}()

// TestProtocols pulls by one protocol and pushes by another.
func TestProtocols(t *testing.T) {
	if testing.Short() {
		t.Skip("TestFile is the short form")
	}
	t.Parallel()
	m := mediamtx.Start(t)
	for _, c := range []struct{ from, to string }{{"rtsp", "rtmp"}, {"rtmp", "srt"}, {"srt", "rtsp"}} {
		t.Run(c.from+" to "+c.to, func(t *testing.T) {
			in, out := "in-"+c.from, "out-"+c.to
			camera(t, m, in)
			j := live(t, nil, m.Address(c.from, in, false), m.Address(c.to, out, true))
			m.Ready(t, out)
			j.until("frames go out", func(p *upscalev1.Progress) bool { return p.GetFramesEncoded() > 50 })
			before := dropped(j.now())
			path := record(t, m.Address("srt", out, false), 6)
			after := dropped(j.next())
			r := watch(t, path, 2)
			missing, ordered := gaps(r.numbers)
			if !ordered {
				t.Errorf("frames are out of order: %v", r.numbers)
			}
			if len(r.numbers) < 3*clipRate {
				t.Errorf("%d frames in six seconds", len(r.numbers))
			}
			if uint64(missing) > after-before {
				t.Errorf("%d frames are missing, %d were reported as dropped", missing, after-before)
			}
			checkSkew(t, r, 2)
			j.stop()
		})
	}
}

// TestPushed pushes what a camera sends in every container that can be read as it comes, MPEG-TS aside, which others push.
func TestPushed(t *testing.T) {
	if testing.Short() {
		t.Skip("TestClockWraps is the short form")
	}
	t.Parallel()
	clip, err := makeClip("five.mp4", clipWidth, clipHeight, 5)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		format, options, out string
		args                 []string
		fragments            int // of an MP4
	}{
		{"flv", "", "out.mp4", []string{"--fragment", "frame"}, 5 * clipRate},
		{"matroska", "-live 1", "out.mkv", nil, 0},
		{"mp4", "-movflags +frag_keyframe+empty_moov+default_base_moof", "out.mp4", []string{"--key-frames", "1s"}, 5},
	} {
		t.Run(c.format, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), c.out)
			j := live(t, pushed(t, clip, c.format, strings.Fields(c.options)...), append([]string{"-", path}, c.args...)...)
			<-j.done
			if j.summary == nil {
				t.Fatalf("no summary: %s", j.failure)
			}
			r := watch(t, path, 2)
			missing, ordered := gaps(r.numbers)
			lost := int(j.summary.GetFramesDecoded() - j.summary.GetFramesEncoded())
			if !ordered || missing > lost || len(r.numbers) != 5*clipRate-lost {
				t.Errorf("%d frames, %d missing, in order: %v; %d were dropped", len(r.numbers), missing, ordered, lost)
			}
			checkSkew(t, r, 0)
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			// One more may hold the sound that comes after the last picture.
			if n := bytes.Count(file, []byte("moof")); c.fragments > 0 && (n < c.fragments-lost || n > c.fragments+1) {
				t.Errorf("%d fragments, want %d", n, c.fragments)
			}
		})
	}
}

// TestFile records what three sources become in a file.
func TestFile(t *testing.T) {
	t.Parallel()
	m := mediamtx.Start(t)
	sources := []string{"srt", "rtsp", "rtmp", "http"} // http is HLS
	if testing.Short() {
		sources = sources[:1]
	}
	for _, from := range sources {
		t.Run(from, func(t *testing.T) {
			camera(t, m, "in-"+from)
			path := filepath.Join(t.TempDir(), "out.ts")
			j := live(t, nil, m.Address(from, "in-"+from, false), path)
			j.until("five seconds", func(p *upscalev1.Progress) bool { return p.GetFramesEncoded() > 5*clipRate })
			s := j.stop()
			r := watch(t, path, 2)
			missing, ordered := gaps(r.numbers)
			// Those missing before the first one cannot be told from those before the job began.
			if !ordered || uint64(len(r.numbers)) != s.GetFramesEncoded() || uint64(missing) > s.GetFramesDecoded()-s.GetFramesEncoded() {
				t.Errorf("%d frames, %d missing, in order: %v; %d were decoded and %d encoded", len(r.numbers), missing, ordered,
					s.GetFramesDecoded(), s.GetFramesEncoded())
			}
			checkSkew(t, r, 2)
		})
	}
}
