package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBadInputs uploads what strangers might. Each must fail with one clear sentence, leave no output, and leave the server
// able to do a good job afterwards.
func TestBadInputs(t *testing.T) {
	s := startServer(t)
	good := shortClip(t, "good.mp4", 10, 96, 64, "-c:a", "aac")
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	// A file on the server's disk that no upload may make it open: opening shows in its access time and in the output.
	secret := filepath.Join(t.TempDir(), "secret.mkv")
	ffmpeg(t, "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=64x48:d=1", "-c:v", "ffv1", secret)

	table := []struct {
		name string
		data []byte
		want string // in the message
	}{
		{"empty", nil, "empty"},
		{"text", []byte(strings.Repeat("no video in here\n", 200)), ""},
		{"zeros", make([]byte, 1<<16), ""},
		{"noise", noise(1 << 16), ""},
		{"ffconcat", fmt.Appendf(nil, "ffconcat version 1.0\nfile '%s'\n", secret), ""},
		{"sdp", []byte("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"), ""},
		{"hls", fmt.Appendf(nil, "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://%s\n#EXT-X-ENDLIST\n", secret), ""},
		{"dash", fmt.Appendf(nil, `<?xml version="1.0"?><MPD type="static"><Period><BaseURL>file://%s</BaseURL></Period></MPD>`, secret), ""},
		{"half a header", data[:20], ""},
		{"mp4 without its index", data[:bytes.LastIndex(data, []byte("moov"))-4], ""},
		{"audio alone", audioOnly(t), "video"},
		{"gigantic", gigantic(t), "pixels"},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			in := filepath.Join(t.TempDir(), "in.mp4")
			if err := os.WriteFile(in, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "out.mp4")
			_, stderr, code := client(t, "upscale", in, "-o", out, "--server", s.addr)
			if code != 1 {
				t.Errorf("exit code %d, want 1; stderr: %s", code, stderr)
			}
			if !strings.Contains(stderr, c.want) || strings.TrimSpace(stderr) == "" {
				t.Errorf("stderr %q does not say %q", stderr, c.want)
			}
			if strings.Contains(stderr, "internal error") {
				t.Errorf("stderr %q blames the server", stderr)
			}
			left, err := os.ReadDir(filepath.Dir(out))
			if err != nil || len(left) != 0 {
				t.Errorf("%d files are left where the output would be (%v)", len(left), err)
			}
		})
	}
	upscale(t, good, "-o", filepath.Join(t.TempDir(), "out.mp4"), "--server", s.addr)
}

// TestBitFlips damages real files at random: the job may fail or succeed, but the server lives and ends.
func TestBitFlips(t *testing.T) {
	s := startServer(t)
	rng := rand.New(rand.NewPCG(1, 2)) // the same damage every time
	for _, name := range []string{"a.mp4", "a.mkv", "a.ts", "a.avi"} {
		in := shortClip(t, name, 10, 96, 64, "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac")
		good, err := os.ReadFile(in)
		if err != nil {
			t.Fatal(err)
		}
		for round := range 4 {
			t.Run(fmt.Sprintf("%s %d", name, round), func(t *testing.T) {
				bad := bytes.Clone(good)
				for range 4 << (2 * round) {
					bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
				}
				path := filepath.Join(t.TempDir(), name)
				if err := os.WriteFile(path, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				_, stderr, code := client(t, "upscale", path, "-o", filepath.Join(t.TempDir(), "out.mkv"), "--server", s.addr)
				if code != 0 && code != 1 {
					t.Errorf("exit code %d: %s", code, stderr)
				}
			})
		}
	}
	good := shortClip(t, "good.mp4", 4, 96, 64, "-an")
	upscale(t, good, "-o", filepath.Join(t.TempDir(), "out.mp4"), "--server", s.addr)
}

func noise(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b)
	return b
}

func audioOnly(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.m4a")
	ffmpeg(t, "-v", "error", "-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", path)
	return read(t, path)
}

// gigantic is a few KiB that decode to frames far beyond the limit.
func gigantic(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.mkv")
	ffmpeg(t, "-v", "error", "-f", "lavfi", "-i", "color=s=8192x4096:d=0.1:r=10", "-c:v", "libx264", "-preset", "ultrafast", path)
	return read(t, path)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
