package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

var framesDone = regexp.MustCompile(`(?m)^(\d+) of (\d+) frames, (\d+) bytes$`)

// TestLiveExample: the camera of examples/go/live goes through the server, and a player can play what comes out.
func TestLiveExample(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "live")
	if out, err := exec.Command("go", "build", "-o", bin, "upscaler/examples/go/live").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := startServer(t)
	target := filepath.Join(t.TempDir(), "live.ts")
	_, stderr, code := run(t, nil, bin, "-server", s.addr, "-o", target, "-seconds", "3")
	m := framesDone.FindStringSubmatch(stderr)
	if code != 0 || m == nil {
		t.Fatalf("exit code %d:\n%s", code, stderr)
	}
	encoded, err := strconv.Atoi(m[1])
	if err != nil || encoded < 10 { // 75 come, and a slow machine drops some
		t.Errorf("the example says %q", m[0])
	}
	if got := len(framePTS(t, target)); got != encoded {
		t.Errorf("%d frames in the result, but %d were encoded", got, encoded)
	}
	if p := probe(t, target); len(p.Streams) != 2 || p.Streams[0].Width != 640 || p.Streams[0].Height != 360 || p.Streams[1].Codec != "aac" {
		t.Errorf("streams %+v, want 640x360 and the tone", p.Streams)
	}
	if !regexp.MustCompile(`(?m)^(lmswn-\S+|bicubic): [\d.]+ fps in, .* ms behind, \d+ frames dropped$`).MatchString(stderr) {
		t.Errorf("the progress of a live job was not told:\n%s", stderr)
	}

	_, stderr, code = run(t, nil, bin, "-server", "unix:"+filepath.Join(t.TempDir(), "none"), "-o", target, "-seconds", "3")
	if code != 1 {
		t.Errorf("without a server: exit code %d\n%s", code, stderr)
	}
}
