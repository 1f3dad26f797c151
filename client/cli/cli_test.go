//go:build unix

package cli

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"upscaler/client/internal/scripted"
)

func TestExitCodes(t *testing.T) {
	server := startServer(t)
	files(t, "a.mp4", "b.mp4", "taken.mp4", "taken.x2.mp4", "bad.mp4", "unknown", "folder/c.mkv", "sub/a.mp4", "empty/readme.txt")
	if err := os.Link("a.mp4", "same.mp4"); err != nil {
		t.Fatal(err)
	}
	before := tree(t)
	tests := []struct {
		args string // separated by spaces; SERVER is --server with the server's address
		code int
		want string // in standard error, or in standard output when code is 0
	}{
		{"", 0, "Available Commands"},
		{"--help", 0, "Available Commands"},
		{"upscale --help", 0, "sr-client upscale video.mp4"},
		{"completion bash", 0, "bash completion"},
		{"version", 0, "sr-client "},
		{"bogus", 2, `unknown command "bogus"`},
		{"--bogus", 2, "unknown flag"},
		{"version x", 2, "unknown command"},
		{"upscale", 2, "at least 1 arg"},
		{"upscale a.mp4 --bogus", 2, "unknown flag"},
		{"upscale a.mp4 --codec mp3", 2, "must be one of auto, av1, ffv1, h264, hevc, prores, vp9"},
		{"upscale a.mp4 --device tpu", 2, "auto, cpu, cuda"},
		{"upscale a.mp4 --deinterlace maybe", 2, "auto, film, off, on"},
		{"upscale a.mp4 --scale 1", 2, "from 2 to 4"},
		{"upscale a.mp4 --scale 0", 2, "from 2 to 4"},
		{"upscale a.mp4 --scale 9", 2, "from 2 to 4"},
		{"upscale a.mp4 --crf -1", 2, "invalid argument"},
		{"upscale a.mp4 --bitrate fast", 2, "2500k or 8M"},
		{"upscale a.mp4 --bitrate 8M --crf 20", 2, "none of the others can be"},
		{"upscale a.mp4 --overwrite --skip-existing", 2, "none of the others can be"},
		{"upscale a.mp4 --encoder-option fast", 2, "NAME=VALUE"},
		{"upscale a.mp4 --format gif", 2, "m4v, mkv, mov"},
		{"upscale a.mp4 -o out.gif", 2, "does not say which container"},
		{"upscale a.mp4 -o out", 2, "does not say which container"},
		{"upscale a.mp4 b.mp4 -o -", 2, "several videos"},
		{"upscale a.mp4 -", 2, "together with files"},
		{"upscale a.mp4 b.mp4 -o taken.mp4", 2, "must be a folder"},
		{"upscale a.mp4 sub/a.mp4 -o out/", 2, "would both become out/a.x2.mp4"},
		{"upscale a.mp4 --server one:two:three", 2, "cannot be told apart"},
		{"upscale a.mp4 --server far:1 --token-file a.mp4", 2, "in plaintext"},
		{"upscale a.mp4 SERVER --token-file unknown.txt", 2, "no such file"},
		{"upscale a.mp4 SERVER --cert a.mp4", 2, "they must all be set"},
		{"upscale a.mp4 SERVER --cert a.mp4 --key a.mp4", 2, "--cert and --key"},
		{"upscale a.mp4 --server a:1 --private", 2, "none of the others can be"},
		{"upscale a.mp4 SERVER --ca missing.pem", 2, "missing.pem"},
		{"upscale a.mp4 SERVER --ca a.mp4", 2, "no PEM certificate"},
		{"upscale missing.mp4 SERVER", 1, "missing.mp4: no such file"},
		{"upscale empty SERVER", 1, "holds no videos"},
		{"upscale taken.mp4 SERVER", 1, "taken.x2.mp4 exists already; use --overwrite"},
		{"upscale a.mp4 -o taken.mp4 SERVER", 1, "exists already"},
		{"upscale a.mp4 -o a.mp4 --overwrite SERVER", 1, "is the input itself"},
		{"upscale a.mp4 -o same.mp4 --overwrite SERVER", 1, "is the input itself"},
		{"upscale bad.mp4 SERVER", 1, "This is not a video.\uFFFD"},
		{"upscale a.mp4 --server 127.0.0.1:1", 1, "no server answers at 127.0.0.1:1"},
		{"upscale a.mp4 SERVER --tls", 1, "first record does not look like a TLS handshake"},
		{"probe", 2, "accepts 1 arg"},
		{"probe folder SERVER", 1, "is a folder"},
		{"probe missing.mp4 SERVER", 1, "no such file"},
		{"models --server 127.0.0.1:1", 1, "no server answers"},
		{"models SERVER", 0, "lmswn-s-x2-video"},
		{"info SERVER", 0, "ONNX Runtime 1.27.0"},
		{"probe a.mp4 SERVER", 0, "upscaled to h264 640x360"},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			args := strings.Fields(strings.ReplaceAll(test.args, "SERVER", "--server "+server))
			got := run(t, call{args: args})
			text, other := got.stderr, got.stdout
			if test.code == 0 {
				text, other = got.stdout, got.stderr
			}
			if got.code != test.code || !strings.Contains(text, test.want) {
				t.Errorf("got exit code %d, want %d; it wrote\n%s\nwhich should hold %q", got.code, test.code, text, test.want)
			}
			if other != "" {
				t.Errorf("it also wrote %q", other)
			}
			if strings.Contains(text, "\x1b") {
				t.Errorf("it passed on a control character: %q", text)
			}
		})
	}
	if after := tree(t); after != before {
		t.Errorf("the folder now holds %s, before %s", after, before)
	}
}

func TestUpscaleNamesTheResult(t *testing.T) {
	server := startServer(t)
	tests := []struct {
		name  string
		files []string
		args  []string
		want  map[string]string // results and the inputs they come from
	}{
		{"default", []string{"a.mp4"}, []string{"a.mp4"}, map[string]string{"a.x2.mp4": "a.mp4"}},
		{"scale", []string{"a.mp4"}, []string{"a.mp4", "-s", "3"}, map[string]string{"a.x3.mp4": "a.mp4"}},
		{"scale of the model", []string{"a.mp4"}, []string{"a.mp4", "-m", "lmswn-s-x4-video"}, map[string]string{"a.x4.mp4": "a.mp4"}},
		{"given name", []string{"a.mp4"}, []string{"a.mp4", "-o", "b.mkv"}, map[string]string{"b.mkv": "a.mp4"}},
		{"new folder", []string{"a.mp4"}, []string{"a.mp4", "-o", "new/deep/"}, map[string]string{"new/deep/a.x2.mp4": "a.mp4"}},
		{"existing folder", []string{"a.mp4", "out/x"}, []string{"a.mp4", "-o", "out"}, map[string]string{"out/a.x2.mp4": "a.mp4"}},
		{"other container", []string{"a.avi"}, []string{"a.avi"}, map[string]string{"a.x2.mkv": "a.avi"}},
		{"format", []string{"a.mp4"}, []string{"a.mp4", "--format", "webm"}, map[string]string{"a.x2.webm": "a.mp4"}},
		{"format of an odd name", []string{"a.mp4"}, []string{"a.mp4", "--format", "mkv", "-o", "b.bin"}, map[string]string{"b.bin": "a.mp4"}},
		{"named like a flag", []string{"-a.mp4"}, []string{"--", "-a.mp4"}, map[string]string{"-a.x2.mp4": "-a.mp4"}},
		{"overwrite", []string{"a.mp4", "a.x2.mp4"}, []string{"a.mp4", "--overwrite"}, map[string]string{"a.x2.mp4": "a.mp4"}},
		{
			"several", []string{"a.mp4", "d/b.mkv"}, []string{"a.mp4", "d/b.mkv"},
			map[string]string{"a.x2.mp4": "a.mp4", "d/b.x2.mkv": "d/b.mkv"},
		},
		{
			"folder beside", []string{"d/a.mp4", "d/e/b.mkv", "d/a.x2.mp4", "d/.hidden.mp4", "d/.h/c.mp4", "d/notes.txt"},
			[]string{"d", "--overwrite"},
			map[string]string{"d/a.x2.mp4": "d/a.mp4", "d/e/b.x2.mkv": "d/e/b.mkv"},
		},
		{
			"folder to folder", []string{"d/a.mp4", "d/e/b.mkv", "c.ts"}, []string{"d", "c.ts", "-o", "out"},
			map[string]string{"out/a.x2.mp4": "d/a.mp4", "out/e/b.x2.mkv": "d/e/b.mkv", "out/c.x2.ts": "c.ts"},
		},
		{"null device", []string{"a.mp4"}, []string{"a.mp4", "-o", os.DevNull, "--overwrite"}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files(t, test.files...)
			got := run(t, call{args: append([]string{"upscale", "--server", server}, test.args...)})
			if got.code != 0 || got.stdout != "" {
				t.Fatalf("exit code %d, stdout %q, stderr %s", got.code, got.stdout, got.stderr)
			}
			for path, original := range test.want {
				wantUpscaled(t, path, original)
				if !strings.Contains(got.stderr, path+": ") {
					t.Errorf("no line tells of %s:\n%s", path, got.stderr)
				}
			}
			made := map[string]bool{}
			for _, name := range test.files {
				made[name] = true
			}
			for path := range test.want {
				made[path] = true
			}
			for _, name := range strings.Split(tree(t), " ") {
				if !made[name] {
					t.Errorf("%s was left in the folder", name)
				}
			}
		})
	}
}

func TestUpscaleLines(t *testing.T) {
	server := startServer(t)
	files(t, "noted.avi")
	got := run(t, call{args: []string{"upscale", "noted.avi", "--server", server}})
	lines := strings.Split(strings.TrimSuffix(got.stderr, "\n"), "\n")
	want := []string{
		"noted.avi: the result becomes .mkv: .avi cannot be written",
		"noted.avi: note: The index lies at the end.",
		"noted.avi: mpeg4 320x180 -> h264 640x360, lmswn-s-x2-video on CPU, 100 frames, about 9.0s",
		"noted.x2.mkv: 640x360, 100 frames, 19 B in ",
	}
	if len(lines) != len(want) {
		t.Fatalf("got %d lines, want %d:\n%s", len(lines), len(want), got.stderr)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("line %d is %q, want %q", i+1, lines[i], want[i])
		}
	}
}

func TestUpscaleStandardStreams(t *testing.T) {
	server := startServer(t)
	files(t, "a.mp4")
	result := string(scripted.Result([]byte("input")))
	for _, test := range []struct {
		name string
		call call
		want string
	}{
		{"both", call{args: []string{"-"}, stdin: "input"}, result},
		{"both named", call{args: []string{"-", "-o", "-", "--format", "ts"}, stdin: "input"}, result},
		{"only output", call{args: []string{"a.mp4", "-o", "-"}}, string(scripted.Result([]byte("a.mp4")))},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.call.args = append([]string{"upscale", "--server", server}, test.call.args...)
			if got := run(t, test.call); got.code != 0 || got.stdout != test.want {
				t.Errorf("exit code %d, stdout %q, want %q; stderr %s", got.code, got.stdout, test.want, got.stderr)
			}
		})
	}
	t.Run("only input", func(t *testing.T) {
		got := run(t, call{args: []string{"upscale", "--server", server, "-", "-o", "out.mp4"}, stdin: "input"})
		if got.code != 0 {
			t.Fatalf("exit code %d, stderr %s", got.code, got.stderr)
		}
		wantUpscaled(t, "out.mp4", "input")
	})
}

// events reads NDJSON.
func events(t *testing.T, text string) []jsonEvent {
	t.Helper()
	var list []jsonEvent
	for line := range strings.Lines(text) {
		var e jsonEvent
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			t.Fatalf("%v in the line %q", err, line)
		}
		list = append(list, e)
	}
	return list
}

func kinds(list []jsonEvent) string {
	var names []string
	for _, e := range list {
		names = append(names, e.Event)
	}
	return strings.Join(names, " ")
}

func TestUpscaleJSON(t *testing.T) {
	server := startServer(t)
	files(t, "noted.mp4", "bad.mp4", "taken.mp4", "taken.x2.mp4")

	got := run(t, call{args: []string{"upscale", "--server", server, "--json", "--skip-existing", "noted.mp4", "bad.mp4", "taken.mp4"}})
	list := events(t, got.stdout)
	if k := kinds(list); got.code != 1 || k != "begin notice accepted progress done begin failed skipped" {
		t.Fatalf("exit code %d, events %s", got.code, k)
	}
	done, failed := list[4], list[6]
	if done.Input != "noted.mp4" || done.Output != "noted.x2.mp4" || done.Size != 19 || done.Elapsed <= 0 || !strings.Contains(string(done.Summary), `"framesEncoded":"100"`) {
		t.Errorf("done is %+v with %s", done, done.Summary)
	}
	if e := failed.Error; failed.Input != "bad.mp4" || e == nil || e.Code != "InvalidArgument" || e.Reason != "NOT_VIDEO" || !strings.HasPrefix(e.Text, "This is not") {
		t.Errorf("failed is %+v with %+v", failed, failed.Error)
	}
	if !strings.Contains(got.stderr, "bad.mp4: This is not a video.") {
		t.Errorf("stderr does not tell of the failure: %q", got.stderr)
	}

	got = run(t, call{args: []string{"upscale", "--server", server, "--json", "-"}, stdin: "input"})
	if got.stdout != string(scripted.Result([]byte("input"))) {
		t.Errorf("stdout is %q, not the video", got.stdout)
	}
	if k := kinds(events(t, got.stderr)); k != "begin accepted done" {
		t.Errorf("stderr holds the events %s", k)
	}
}

func TestUpscaleGoesOnAfterAFailure(t *testing.T) {
	server := startServer(t)
	files(t, "a.mp4", "bad.mp4", "c.mp4", "d.mp4", "d.x2.mp4")
	got := run(t, call{args: []string{"upscale", "--server", server, "a.mp4", "bad.mp4", "c.mp4", "d.mp4", "--skip-existing"}})
	if got.code != 1 {
		t.Errorf("exit code %d, want 1", got.code)
	}
	wantUpscaled(t, "a.x2.mp4", "a.mp4")
	wantUpscaled(t, "c.x2.mp4", "c.mp4")
	if end := "2 of 4 videos upscaled, 1 left out because the result exists, 1 failed:\nsr-client: bad.mp4: This is not a video.\uFFFD[31m\n"; !strings.HasSuffix(got.stderr, end) {
		t.Errorf("it wrote\n%s\nwhich should end with\n%s", got.stderr, end)
	}
	if names := tree(t); strings.Contains(names, ".part-") || strings.Contains(names, "bad.x2") {
		t.Errorf("the folder holds %s", names)
	}
}

func TestProbeTable(t *testing.T) {
	server := startServer(t)
	files(t, "a.mp4")
	got := run(t, call{args: []string{"probe", "a.mp4", "-s", "2", "--server", server}})
	want := `input   a.mp4 (mov,mp4,m4a,3gp,3g2,mj2, 4.0s, 1 chapter)
output  a.x2.mp4 (mp4, 4.0s, 1 chapter)
model   lmswn-s-x2-video on CPU
frames  100
time    about 9.0s

STREAM  KIND      IS                            LANGUAGE  TITLE           BECOMES
0       video     mpeg4 320x180 yuv420p 25 fps                            upscaled to h264 640x360 yuv420p 25 fps
1       audio     aac 48000 Hz 2 channels       eng                       kept as it is
2       subtitle  hdmv_pgs_subtitle                       signs` + "\uFFFD" + ` & songs  dropped

note: Stream 2 cannot be kept in MP4; Matroska could.
`
	if got.code != 0 || got.stdout != want {
		t.Errorf("exit code %d, stderr %s, stdout\n%s\nwant\n%s", got.code, got.stderr, got.stdout, want)
	}
	for _, args := range [][]string{{"probe", "a.mp4", "--json"}, {"models", "--json"}, {"info", "--json"}} {
		got := run(t, call{args: append(args, "--server", server)})
		var any map[string]json.RawMessage
		if err := json.Unmarshal([]byte(got.stdout), &any); err != nil || len(any) == 0 {
			t.Errorf("%v printed %q, which is no JSON object: %v", args, got.stdout, err)
		}
	}
}

// started is a run of the program that goes on.
type started struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
}

// start runs the program without waiting for its end.
func start(t *testing.T, env []string, args ...string) *started {
	t.Helper()
	cmd := exec.Command(program, args...) //nolint:gosec // built above
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &started{cmd, bufio.NewReader(stdout)}
}

// awaitEvent reads NDJSON until an event of the kind.
func (s *started) awaitEvent(t *testing.T, kind string) {
	t.Helper()
	for {
		line, err := s.stdout.ReadString('\n')
		if err != nil {
			t.Fatalf("no event %s: %v", kind, err)
		}
		if events(t, line)[0].Event == kind {
			return
		}
	}
}

// alive makes a named pipe for a private server and returns it with a channel that closes once the server has opened it
// and is gone.
func alive(t *testing.T) (env string, gone <-chan struct{}) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	c := make(chan struct{})
	go func() {
		_, _ = os.ReadFile(path) // ends when the last writer closes it
		close(c)
	}()
	return aliveEnv + "=" + path, c
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s did not come", what)
	}
}

func TestInterrupt(t *testing.T) {
	for _, private := range []bool{false, true} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			t.Run(map[bool]string{false: "running server, ", true: "private server, "}[private]+signal.String(), func(t *testing.T) {
				files(t, "stall.mp4", "next.mp4")
				temp := t.TempDir()
				args := []string{"upscale", "stall.mp4", "next.mp4", "--json"}
				env := []string{"TMPDIR=" + temp}
				var gone <-chan struct{}
				if private {
					args = append(args, "--private")
					var e string
					e, gone = alive(t)
					env = append(env, e)
				} else {
					args = append(args, "--server", startServer(t))
				}
				s := start(t, env, args...)
				s.awaitEvent(t, "accepted")
				if !strings.Contains(tree(t), ".part-") {
					t.Errorf("the result does not grow under a temporary name: %s", tree(t))
				}
				if err := s.cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				s.awaitEvent(t, "failed")
				_ = s.cmd.Wait()
				if code := s.cmd.ProcessState.ExitCode(); code != 130 {
					t.Errorf("exit code %d, want 130", code)
				}
				if names := tree(t); names != "next.mp4 stall.mp4" {
					t.Errorf("the folder holds %s", names)
				}
				if private {
					await(t, gone, "the private server's end")
				}
				if left, _ := os.ReadDir(temp); len(left) > 0 {
					t.Errorf("%s was left behind", left[0].Name())
				}
			})
		}
	}
}

// While the private server takes its time to end, a second Ctrl+C does not wait for it.
func TestSecondInterruptKills(t *testing.T) {
	files(t, "stall.mp4")
	env, gone := alive(t)
	s := start(t, []string{env, modeEnv + "=stubborn", "TMPDIR=" + t.TempDir()}, "upscale", "stall.mp4", "--json", "--private")
	s.awaitEvent(t, "accepted")
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.awaitEvent(t, "failed")
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	if status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGINT {
		t.Errorf("it ended with %v, want by the signal itself", s.cmd.ProcessState)
	}
	await(t, gone, "the private server's end")
}

func TestPrivateServer(t *testing.T) {
	files(t, "a.mp4", "b.mp4")
	temp := t.TempDir()
	env, gone := alive(t)
	got := run(t, call{args: []string{"upscale", "a.mp4", "b.mp4", "--private"}, env: []string{env, "TMPDIR=" + temp}})
	if got.code != 0 {
		t.Fatalf("exit code %d, stderr %s", got.code, got.stderr)
	}
	wantUpscaled(t, "a.x2.mp4", "a.mp4")
	wantUpscaled(t, "b.x2.mp4", "b.mp4")
	await(t, gone, "the private server's end")
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("%s was left behind", left[0].Name())
	}
	if n := strings.Count(got.stderr, "starting a private server"); n != 1 {
		t.Errorf("%d servers were started for two videos", n)
	}
}

func TestPrivateServerDies(t *testing.T) {
	files(t, "a.mp4")
	got := run(t, call{args: []string{"upscale", "a.mp4", "--private"}, env: []string{modeEnv + "=crash"}})
	if got.code != 1 || !strings.Contains(got.stderr, "private server ended unexpectedly") || !strings.Contains(got.stderr, "  sr-server: out of luck") {
		t.Errorf("exit code %d, stderr %s", got.code, got.stderr)
	}
	if names := tree(t); names != "a.mp4" {
		t.Errorf("the folder holds %s", names)
	}
}

// A client that is killed takes its server with it.
func TestPrivateServerDoesNotOutliveItsClient(t *testing.T) {
	files(t, "stall.mp4")
	env, gone := alive(t)
	s := start(t, []string{env, "TMPDIR=" + t.TempDir()}, "upscale", "stall.mp4", "--json", "--private")
	s.awaitEvent(t, "accepted")
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	await(t, gone, "the private server's end")
}

// The end of the reader of `sr-client ... -o - | head` is an error like any other.
func TestClosedStandardOutput(t *testing.T) {
	server := startServer(t)
	files(t, "a.mp4")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	cmd := exec.Command(program, "upscale", "a.mp4", "-o", "-", "--server", server) //nolint:gosec // built above
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = w, &stderr
	_ = cmd.Run()
	_ = w.Close()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), "broken pipe") {
		t.Errorf("exit code %d, stderr %s", code, stderr.String())
	}
}
