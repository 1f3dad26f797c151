// Package e2e tests the real programs: it builds sr-server and sr-client, runs them on real video over real sockets, and
// checks the results with FFmpeg's own programs.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// clip is three seconds of real video in the repository, see testdata/README.md.
const clip = "../../testdata/big-buck-bunny-3s.mp4"

// deadline bounds every single program a test starts, so that a hang is a failure with output and not a timeout of all.
const deadline = 3 * time.Minute

var binDir string // where TestMain put the programs

func TestMain(m *testing.M) {
	os.Exit(func() int {
		for _, p := range []string{"ffmpeg", "ffprobe"} {
			if _, err := exec.LookPath(p); err != nil {
				fmt.Fprintf(os.Stderr, "e2e: %s is missing; run scripts/packages.sh test\n", p)
				return 1
			}
		}
		dir, err := os.MkdirTemp("", "upscaler-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
		defer os.RemoveAll(dir)
		binDir = dir
		args := []string{"build", "-o", dir}
		if os.Getenv("UPSCALER_TEST_RACE") != "" {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "upscaler/cmd/sr-server", "upscaler/cmd/sr-client")...)
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: build the programs: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// run starts a program and returns what it printed and its exit code.
func run(t *testing.T, stdin io.Reader, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %s did not end within %v; stderr:\n%s", filepath.Base(name), strings.Join(args, " "), deadline, errOut.String())
	}
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("start %s: %v", name, err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// client runs sr-client.
func client(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return run(t, nil, filepath.Join(binDir, "sr-client"), args...)
}

// upscale runs sr-client upscale and fails the test unless it succeeds.
func upscale(t *testing.T, args ...string) {
	t.Helper()
	if _, stderr, code := client(t, append([]string{"upscale"}, args...)...); code != 0 {
		t.Fatalf("sr-client upscale %s: exit code %d\n%s", strings.Join(args, " "), code, stderr)
	}
}

// ffmpeg runs FFmpeg's program to make or change test media.
func ffmpeg(t *testing.T, args ...string) string {
	t.Helper()
	_, stderr, code := run(t, nil, "ffmpeg", append([]string{"-hide_banner", "-nostdin", "-y"}, args...)...)
	if code != 0 {
		t.Fatalf("ffmpeg %s: %s", strings.Join(args, " "), stderr)
	}
	return stderr
}

// shortClip makes n frames of the real clip at w x h, and audio, in the container that the name's extension says.
func shortClip(t *testing.T, name string, n, w, h int, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	base := []string{"-v", "error", "-i", clip, "-frames:v", strconv.Itoa(n), "-t", fmt.Sprint(float64(n) / 24),
		"-vf", fmt.Sprintf("scale=%d:%d:flags=bicubic", w, h)}
	ffmpeg(t, append(append(base, args...), path)...)
	return path
}

// server is a running sr-server.
type server struct {
	addr    string // host:port
	metrics string // URL
	cmd     *exec.Cmd
	log     *bytes.Buffer
	exited  chan error
}

var listening = regexp.MustCompile(`msg=listening.* addr=(\S+)`)
var metricsAt = regexp.MustCompile(`msg="serving metrics".* addr=(\S+)`)

// startServer starts sr-server on a free port, waits until it listens, and ends it with the test.
func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{log: &bytes.Buffer{}, exited: make(chan error, 1)}
	s.cmd = exec.Command(filepath.Join(binDir, "sr-server"),
		append([]string{"--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-format", "text"}, args...)...)
	pipe, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	read := make(chan struct{})
	go func() {
		defer close(read)
		waiting := true
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			s.log.WriteString(lines.Text() + "\n")
			if m := metricsAt.FindStringSubmatch(lines.Text()); m != nil {
				s.metrics = "http://" + m[1] + "/metrics"
			}
			if m := listening.FindStringSubmatch(lines.Text()); m != nil && waiting {
				s.addr, waiting = m[1], false
				close(ready)
			}
		}
	}()
	go func() {
		<-read // Wait closes the pipe, so everything must have been read before
		s.exited <- s.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-read
		if t.Failed() {
			t.Logf("sr-server's log:\n%s", s.log.String())
		}
	})
	select {
	case <-ready:
	case err := <-s.exited:
		t.Fatalf("sr-server ended at once: %v\n%s", err, s.log.String())
	case <-time.After(30 * time.Second):
		t.Fatal("sr-server does not listen after 30 s")
	}
	return s
}

// stop asks the server to end and returns its exit code.
func (s *server) stop(t *testing.T) int {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.exited:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(time.Minute):
		t.Fatal("sr-server does not end after SIGTERM")
		return -1
	}
}

// gauge reads one metric without labels.
func (s *server) gauge(t *testing.T, name string) float64 {
	t.Helper()
	res, err := http.Get(s.metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
	t.Fatalf("metric %s is missing", name)
	return 0
}

// eventually polls until ok holds or the time is over; what says what is waited for.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); ; {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not so after %v", what, within)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// probed is what ffprobe tells about a file.
type probed struct {
	Streams []struct {
		Index     int               `json:"index"`
		Type      string            `json:"codec_type"`
		Codec     string            `json:"codec_name"`
		Width     int               `json:"width"`
		Height    int               `json:"height"`
		PixFmt    string            `json:"pix_fmt"`
		TimeBase  string            `json:"time_base"`
		Frames    string            `json:"nb_read_packets"`
		FrameRate string            `json:"avg_frame_rate"`
		Tags      map[string]string `json:"tags"`
	} `json:"streams"`
	Format struct {
		Name     string `json:"format_name"`
		Duration string `json:"duration"`
	} `json:"format"`
}

func probe(t *testing.T, path string) probed {
	t.Helper()
	stdout, stderr, code := run(t, nil, "ffprobe", "-v", "error", "-show_streams", "-show_format", "-count_packets", "-of", "json", path)
	if code != 0 {
		t.Fatalf("ffprobe %s: %s", path, stderr)
	}
	var p probed
	if err := json.Unmarshal([]byte(stdout), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// framePTS returns the presentation times of all decoded video frames in seconds.
func framePTS(t *testing.T, path string) []float64 {
	t.Helper()
	stdout, stderr, code := run(t, nil, "ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "frame=pts_time", "-of", "json", path)
	if code != 0 {
		t.Fatalf("ffprobe %s: %s", path, stderr)
	}
	var frames struct {
		Frames []struct {
			PTS string `json:"pts_time"`
		} `json:"frames"`
	}
	if err := json.Unmarshal([]byte(stdout), &frames); err != nil {
		t.Fatal(err)
	}
	var pts []float64
	for i, f := range frames.Frames {
		v, err := strconv.ParseFloat(f.PTS, 64)
		if err != nil {
			t.Fatalf("%s: frame %d has no presentation time", path, i)
		}
		pts = append(pts, v)
	}
	return pts
}

var dataHash = regexp.MustCompile(`MD5:[0-9a-f]{32}`)

// packetHashes returns the digest of every packet of a stream, in order.
func packetHashes(t *testing.T, path, stream string) []string {
	t.Helper()
	stdout, stderr, code := run(t, nil, "ffprobe", "-v", "error", "-select_streams", stream, "-show_packets", "-show_data_hash", "md5",
		"-show_entries", "packet=data_hash", "-of", "csv=p=0", path)
	if code != 0 {
		t.Fatalf("ffprobe %s: %s", path, stderr)
	}
	return dataHash.FindAllString(stdout, -1)
}

var psnrY = regexp.MustCompile(`PSNR y:([0-9.]+|inf)`)

// psnr returns the luma PSNR of a, sent through a filter, against b in dB, as FFmpeg measures it over all frames.
func psnr(t *testing.T, a, b, filter string) float64 {
	t.Helper()
	if filter != "" {
		filter += ","
	}
	log := ffmpeg(t, "-i", a, "-i", b, "-lavfi", "[0:v]"+filter+"settb=1/24,setpts=N[a];[1:v]settb=1/24,setpts=N[b];[a][b]psnr", "-f", "null", "-")
	m := psnrY.FindStringSubmatch(log)
	if m == nil {
		t.Fatalf("ffmpeg printed no PSNR:\n%s", log)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
