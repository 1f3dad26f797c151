package live

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"upscaler/test/mediamtx"
)

// TestHLSFolder reads a file at the speed it plays into a folder that a player can follow.
func TestHLSFolder(t *testing.T) {
	t.Parallel()
	clip, err := makeClip("seven.mp4", clipWidth, clipHeight, 7)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "hls")
	j := live(t, nil, clip, folder+"/")
	// While it runs, players find a playlist without an end.
	playlist := filepath.Join(folder, "index.m3u8")
	mediamtx.Until(t, "a playlist", func() bool { _, err := os.Stat(playlist); return err == nil })
	if text, _ := os.ReadFile(playlist); strings.Contains(string(text), "ENDLIST") {
		t.Errorf("the playlist has an end already:\n%s", text)
	}
	<-j.done
	if j.summary == nil {
		t.Fatalf("no summary: %s", j.failure)
	}
	text, err := os.ReadFile(playlist)
	if err != nil || !strings.Contains(string(text), "#EXT-X-ENDLIST") || strings.Count(string(text), ".ts") != 4 {
		t.Errorf("%v, want a playlist of four segments with an end:\n%s", err, text)
	}
	r := watch(t, playlist, 2)
	if missing, ordered := gaps(r.numbers); !ordered || missing > 0 && j.summary.GetFramesDecoded() == j.summary.GetFramesEncoded() {
		t.Errorf("%d frames, %d missing, in order: %v", len(r.numbers), missing, ordered)
	}
	checkSkew(t, r, 2)
}

// TestAddressesAreRefused asks a server for what its operator has not allowed, and for what is no address.
func TestAddressesAreRefused(t *testing.T) {
	address := "unix:" + filepath.Join(t.TempDir(), "socket")
	start(t, exec.Command(filepath.Join(folder, "sr-server"), "--listen", address, "--allow-source", "rtsp://127.0.0.1:8554"))
	mediamtx.Until(t, "the server answers", func() bool {
		return exec.Command(filepath.Join(folder, "sr-client"), "info", "--server", address).Run() == nil
	})
	for _, c := range []struct {
		src, dst, want string
		code           int
	}{
		{"rtsp://127.0.0.1:8555/stream", "out.ts", "not allowed", 1},
		{"rtmp://127.0.0.1:8554/stream", "out.ts", "not allowed", 1},
		{"rtsp://169.254.169.254:8554/stream", "out.ts", "not allowed", 1},
		{"http://127.0.0.1:8554/index.m3u8", "out.ts", "not allowed", 1},
		{"file:///etc/passwd", "out.ts", "address", 2},
		{"concat://a", "out.ts", "port", 2},
		{theClip(t), "rtmp://127.0.0.1:8554/stream", "not allowed", 1},
	} {
		j := live(t, nil, "--server", address, c.src, strings.Replace(c.dst, "out.ts", filepath.Join(t.TempDir(), "out.ts"), 1))
		<-j.done
		if code := j.ProcessState.ExitCode(); code != c.code || !strings.Contains(j.log.String(), c.want) {
			t.Errorf("%s to %s: exit code %d, want %d; %q, want %q", c.src, c.dst, code, c.code, j.log.String(), c.want)
		}
	}
}
