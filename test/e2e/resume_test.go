package e2e

import (
	"bufio"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// event is a line of sr-client's --json.
type event struct {
	Event    string `json:"event"`
	Progress struct {
		FramesEncoded string `json:"framesEncoded"`
	} `json:"progress"`
	Notice struct {
		Code string `json:"code"`
		Text string `json:"text"`
	} `json:"notice"`
	Error struct {
		Text string `json:"text"`
		Kept int64  `json:"kept"`
	} `json:"error"`
}

// keptPictures finds how many pictures of an interrupted output are used.
var keptPictures = regexp.MustCompile(`its first (\d+) pictures`)

// slow makes a server that takes some seconds for a few hundred small pictures on any machine, so that there is something to
// interrupt.
var slow = []string{"--cpu-workers", "1"}

// follow runs sr-client upscale --json and calls on with each event. It returns the exit code, -1 when a signal ended it.
func follow(t *testing.T, args []string, on func(cmd *exec.Cmd, e event)) int {
	t.Helper()
	cmd := exec.Command(filepath.Join(binDir, "sr-client"), append([]string{"upscale", "--json"}, args...)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Errorf("not an event: %s", lines.Text())
		}
		on(cmd, e)
	}
	_ = cmd.Wait() // its exit code tells
	return cmd.ProcessState.ExitCode()
}

// decoded returns the digest of each picture of a video.
func decoded(t *testing.T, path string) []string {
	t.Helper()
	stdout, stderr, code := run(t, nil, "ffmpeg", "-v", "error", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-")
	if code != 0 {
		t.Fatalf("ffmpeg: %s", stderr)
	}
	var all []string
	for line := range strings.Lines(stdout) {
		if f := strings.Split(line, ","); len(f) == 6 {
			all = append(all, strings.TrimSpace(f[5]))
		}
	}
	return all
}

// TestResumeAfterKill ends the client, the server, and the client again without a warning at random places, goes on each time, and
// compares the result with that of a run that was left alone.
func TestResumeAfterKill(t *testing.T) {
	const frames = 300
	kinds := []string{"mp4", "mkv"}
	if testing.Short() {
		kinds = kinds[:1]
	}
	for n, ext := range kinds {
		t.Run(ext, func(t *testing.T) {
			random := rand.New(rand.NewPCG(7, uint64(n)))
			dir := t.TempDir()
			in := filepath.Join(dir, "in.mkv")
			ffmpeg(t, "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=128x72:r=25", "-f", "lavfi", "-i", "sine=r=48000", "-map", "0", "-map", "1",
				"-t", strconv.Itoa(frames/25), "-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-c:a", "aac", in)
			s := startServer(t, slow...)
			command := func(out string, more ...string) []string {
				return append([]string{in, "-o", out, "--server", s.addr, "--model", "lmswn-s-x2-video", "--encoder-option", "g=12"}, more...)
			}
			whole, out := filepath.Join(dir, "whole."+ext), filepath.Join(dir, "out."+ext)
			upscale(t, command(whole)...)

			journal := filepath.Join(dir, ".out."+ext+".resume.json")
			resumed, least := 0, frames // least is how many pictures were kept each time
			for round, victim := range []string{"client", "server", "client", ""} {
				more := []string{}
				if round > 0 {
					more = append(more, "--resume")
				}
				// At least a quarter of the whole goes on between two interruptions, and one more keeps.
				at := frames*(round+1)/5 + random.IntN(frames/8)
				var failure event
				killed := false
				code := follow(t, command(out, more...), func(cmd *exec.Cmd, e event) {
					switch {
					case e.Event == "failed":
						failure = e
					case e.Event == "notice" && e.Notice.Code == "NOTICE_CODE_RESUMED":
						resumed++
						t.Log(e.Notice.Text)
						if m := keptPictures.FindStringSubmatch(e.Notice.Text); m != nil {
							n, _ := strconv.Atoi(m[1])
							least = min(least, n)
						}
					}
					encoded, _ := strconv.Atoi(e.Progress.FramesEncoded)
					if _, err := os.Stat(journal); err != nil || killed || encoded < at {
						return
					}
					killed = true
					switch victim {
					case "client":
						_ = cmd.Process.Kill()
					case "server":
						_ = s.cmd.Process.Kill()
					}
				})
				switch {
				case victim == "" && code != 0:
					t.Fatalf("the last run failed: %s", failure.Error.Text)
				case victim == "server" && killed:
					if code != 1 || failure.Error.Kept == 0 || !strings.Contains(failure.Error.Text, "--resume") {
						t.Errorf("after the server's end: exit code %d, kept %d, %q; want 1 and a way to go on", code, failure.Error.Kept, failure.Error.Text)
					}
					s = startServer(t, slow...)
				case code == 0 && victim != "":
					t.Logf("the run was done before the %s could be ended", victim)
				}
			}
			if resumed == 0 {
				t.Error("no run went on with another")
			}

			if g, w := framePTS(t, out), framePTS(t, whole); !slices.Equal(g, w) || len(w) != frames {
				t.Errorf("%d pictures at %v..., want %d at %v...", len(g), g[:min(3, len(g))], len(w), w[:3])
			}
			if g, w := packetHashes(t, out, "a:0"), packetHashes(t, whole, "a:0"); !slices.Equal(g, w) || len(w) == 0 {
				t.Errorf("%d audio packets, want the %d of an uninterrupted run", len(g), len(w))
			}
			if g, w := decoded(t, out), decoded(t, whole); len(g) != len(w) || !slices.Equal(g[:least], w[:least]) {
				t.Errorf("the first %d pictures are not those of an uninterrupted run", least)
			}
			left, _ := filepath.Glob(filepath.Join(dir, "*"))
			for _, name := range left {
				if base := filepath.Base(name); strings.HasSuffix(base, ".json") {
					t.Errorf("%s is left behind", base)
				}
			}
		})
	}
}

// TestResumeRefuses: another input and other settings are told in a sentence, and without --resume the work begins anew.
func TestResumeRefuses(t *testing.T) {
	s := startServer(t, slow...)
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.mkv"), filepath.Join(dir, "out.mp4")
	if err := os.WriteFile(in, synthetic(t, 300, 128, 72), 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(more ...string) []string {
		return append([]string{in, "-o", out, "--server", s.addr, "--model", "lmswn-s-x2-video", "--encoder-option", "g=12"}, more...)
	}
	journal := filepath.Join(dir, ".out.mp4.resume.json")
	interrupt := func(cmd *exec.Cmd, e event) {
		if _, err := os.Stat(journal); err == nil && e.Event == "progress" {
			_ = cmd.Process.Signal(os.Interrupt)
		}
	}
	var failure event
	if code := follow(t, command(), func(cmd *exec.Cmd, e event) {
		if interrupt(cmd, e); e.Event == "failed" {
			failure = e
		}
	}); code != 130 || failure.Error.Kept == 0 {
		t.Fatalf("exit code %d, %d bytes kept, want 130 and some", code, failure.Error.Kept)
	}
	for _, c := range []struct {
		name, want string
		more       []string
	}{
		{"settings", "output.crf was 18 and is 30", []string{"--resume", "--crf", "30"}},
		{"scale", "scale was 2 and is 3", []string{"--resume", "--scale", "3"}},
	} {
		if _, stderr, code := client(t, append([]string{"upscale"}, command(c.more...)...)...); code != 1 || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit code %d, stderr %q, want 1 and %q", c.name, code, stderr, c.want)
		}
	}
	changed := read(t, in)
	original := slices.Clone(changed)
	changed[len(changed)/100] ^= 1
	if err := os.WriteFile(in, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := client(t, append([]string{"upscale"}, command("--resume")...)...); code != 1 || !strings.Contains(stderr, "not the one that was interrupted") {
		t.Errorf("another input: exit code %d, stderr %q", code, stderr)
	}
	if err := os.WriteFile(in, original, 0o600); err != nil {
		t.Fatal(err)
	}
	// None of that has harmed what was kept; a run without --resume says that it is there.
	told := false
	code := follow(t, command(), func(cmd *exec.Cmd, e event) {
		told = told || e.Event == "message"
		if e.Event == "accepted" {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	})
	if _, err := os.Stat(journal); code != 130 || !told || err != nil {
		t.Errorf("exit code %d, told %v, journal %v; want 130, true, nil", code, told, err)
	}
	resumed := false
	if code := follow(t, command("--resume"), func(_ *exec.Cmd, e event) {
		resumed = resumed || e.Notice.Code == "NOTICE_CODE_RESUMED"
	}); code != 0 || !resumed {
		t.Errorf("exit code %d, resumed %v", code, resumed)
	}
	if p := probe(t, out); p.Streams[0].Frames != "300" {
		t.Errorf("%s frames, want 300", p.Streams[0].Frames)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
		t.Errorf("files left: %v", left)
	}
}
