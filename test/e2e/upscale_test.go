package e2e

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// samePTS compares two lists of presentation times. tick is half of the coarser container's time base in seconds; relative
// says that only distances to the first frame count, for containers that cannot start where they are told to.
func samePTS(t *testing.T, got, want []float64, tick float64, relative bool) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	shift := 0.0
	if relative && len(want) > 0 {
		shift = got[0] - want[0]
	}
	for i := range want {
		if math.Abs(got[i]-shift-want[i]) > tick {
			t.Fatalf("frame %d is at %.6f s, want %.6f", i, got[i]-shift, want[i])
		}
	}
}

func TestUpscaleWithAPrivateServer(t *testing.T) {
	in := shortClip(t, "bunny.mp4", 12, 214, 120, "-c:a", "aac")
	upscale(t, in)
	out := strings.TrimSuffix(in, ".mp4") + ".x2.mp4"
	p := probe(t, out)
	if v := p.Streams[0]; v.Width != 428 || v.Height != 240 || v.Codec != "h264" || v.Frames != "12" {
		t.Errorf("video is %+v, want 12 frames of h264 at 428x240", v)
	}
	samePTS(t, framePTS(t, out), framePTS(t, in), 1e-6, false)
	if got, want := packetHashes(t, out, "a:0"), packetHashes(t, in, "a:0"); !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("audio packets differ: %d out, %d in", len(got), len(want))
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(in), "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("files beside the input: %v, want input and output alone (%v)", left, err)
	}

	// A second time the output is there, and is not overwritten unasked.
	before, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := client(t, "upscale", in); code != 1 && code != 2 || !strings.Contains(stderr, "--overwrite") {
		t.Errorf("exit code %d, stderr %q; want a failure that names --overwrite", code, stderr)
	}
	if after, _ := os.ReadFile(out); !slices.Equal(before, after) {
		t.Error("the existing output was changed")
	}
	upscale(t, in, "--overwrite")
}

// TestFormats sends every supported container and codec through the line.
func TestFormats(t *testing.T) {
	s := startServer(t)
	aac := []string{"-c:a", "aac"}
	h264 := []string{"-c:v", "libx264", "-preset", "ultrafast", "-bf", "2"}
	table := []struct {
		name    string
		in      string
		args    []string
		out     string // extension
		extra   []string
		codec   string
		pixFmt  string
		w, h    int
		tick    float64 // half the output's time base
		shifted bool    // the output container cannot start at 0
	}{
		{"mp4 moov last", "a.mp4", append(h264, aac...), "mp4", nil, "h264", "yuv420p", 96, 64, 1e-6, false},
		{"mp4 moov first", "a.mp4", append(append(h264, aac...), "-movflags", "+faststart"), "mkv", nil, "h264", "yuv420p", 96, 64, 6e-4, false},
		{"fragmented mp4", "a.mp4", append(append(h264, aac...), "-movflags", "frag_keyframe+empty_moov"), "mp4", nil, "h264", "yuv420p", 96, 64, 1e-6, false},
		{"mov 4:2:2", "a.mov", append(append(h264, aac...), "-pix_fmt", "yuv422p"), "mov", nil, "h264", "yuv422p", 96, 64, 1e-6, false},
		{"mkv 4:4:4 10 bit", "a.mkv", append(append(h264, aac...), "-pix_fmt", "yuv444p10"), "mkv", []string{"--codec", "hevc"}, "hevc", "yuv444p10le", 96, 64, 6e-4, false},
		{"odd size", "a.mkv", append(append(h264, aac...), "-pix_fmt", "yuv444p"), "mkv", nil, "h264", "yuv444p", 95, 63, 6e-4, false},
		{"odd size 4:2:0", "a.mkv", []string{"-c:v", "ffv1", "-c:a", "flac"}, "mkv", nil, "ffv1", "yuv420p", 95, 63, 6e-4, false},
		{"hevc 10 bit", "a.mp4", append([]string{"-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10", "-x265-params", "log-level=error", "-tag:v", "hvc1"}, aac...), "mp4", nil, "hevc", "yuv420p10le", 96, 64, 1e-6, false},
		{"webm vp9", "a.webm", []string{"-c:v", "libvpx-vp9", "-deadline", "realtime", "-c:a", "libopus"}, "webm", nil, "vp9", "yuv420p", 96, 64, 6e-4, false},
		{"webm vp8", "a.webm", []string{"-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libvorbis"}, "mkv", []string{"--codec", "h264"}, "h264", "yuv420p", 96, 64, 6e-4, false},
		{"mkv av1", "a.mkv", []string{"-c:v", "libsvtav1", "-preset", "12", "-c:a", "libopus"}, "mp4", []string{"--codec", "av1", "--preset", "12"}, "av1", "yuv420p", 96, 64, 1e-4, false},
		{"ts mpeg2", "a.ts", []string{"-c:v", "mpeg2video", "-c:a", "mp2"}, "ts", []string{"--codec", "h264"}, "h264", "yuv420p", 96, 64, 1e-5, true},
		{"ts h264", "a.ts", append(h264, aac...), "mp4", nil, "h264", "yuv420p", 96, 64, 1e-5, true},
		{"flv", "a.flv", append(h264, aac...), "mkv", nil, "h264", "yuv420p", 96, 64, 6e-4, false},
		{"avi mpeg4", "a.avi", []string{"-c:v", "mpeg4", "-c:a", "libmp3lame"}, "mp4", []string{"--codec", "h264"}, "h264", "yuv420p", 96, 64, 1e-6, false},
		{"gray", "a.mkv", []string{"-c:v", "ffv1", "-pix_fmt", "gray", "-c:a", "flac"}, "mkv", []string{"--codec", "ffv1"}, "ffv1", "gray", 96, 64, 6e-4, false},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			const frames = 10
			in := shortClip(t, c.in, frames, c.w, c.h, c.args...)
			out := filepath.Join(t.TempDir(), "out."+c.out)
			upscale(t, append([]string{in, "-o", out, "--server", s.addr}, c.extra...)...)
			v := probe(t, out).Streams[0]
			if v.Codec != c.codec || v.PixFmt != c.pixFmt || v.Width != 2*c.w || v.Height != 2*c.h || v.Frames != strconv.Itoa(frames) {
				t.Errorf("video is %s %s %dx%d, %s frames; want %s %s %dx%d, %d frames",
					v.Codec, v.PixFmt, v.Width, v.Height, v.Frames, c.codec, c.pixFmt, 2*c.w, 2*c.h, frames)
			}
			samePTS(t, framePTS(t, out), framePTS(t, in), c.tick, c.shifted)
			if filepath.Ext(c.in) == ".ts" {
				return // ADTS headers and PES splitting differ between containers; decode's and encode's own tests compare those
			}
			if got, want := packetHashes(t, out, "a:0"), packetHashes(t, in, "a:0"); !slices.Equal(got, want) || len(want) == 0 {
				t.Errorf("audio packets differ: %d out, %d in", len(got), len(want))
			}
		})
	}
}

// TestCloserThanBicubic shrinks the clip, upscales it back, and compares with the original.
func TestCloserThanBicubic(t *testing.T) {
	const (
		frames = 8
		// What the network is at least better than bicubic on this clip at this compression, in dB of luma PSNR. The clip is
		// grass, flowers and water, which gain more than the average video.
		margin = 0.8
	)
	dir := t.TempDir()
	original := filepath.Join(dir, "original.mkv")
	ffmpeg(t, "-v", "error", "-i", clip, "-frames:v", strconv.Itoa(frames), "-vf", "crop=848:480", "-an", "-c:v", "ffv1", original)
	small := filepath.Join(dir, "small.mp4")
	ffmpeg(t, "-v", "error", "-i", original, "-vf", "scale=424:240:flags=bicubic", "-c:v", "libx264", "-crf", "18", small)
	out := filepath.Join(dir, "out.mkv")
	upscale(t, small, "-o", out, "--codec", "ffv1")
	bicubic := psnr(t, small, original, "scale=848:480:flags=bicubic")
	ours := psnr(t, out, original, "")
	t.Logf("luma PSNR: bicubic %.2f dB, upscaled %.2f dB", bicubic, ours)
	if ours < bicubic+margin {
		t.Errorf("upscaled %.2f dB, bicubic %.2f dB: want at least %.1f dB more", ours, bicubic, margin)
	}
}

func TestPipes(t *testing.T) {
	s := startServer(t)
	in := shortClip(t, "in.mkv", 10, 96, 64, "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac")
	f, err := os.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stdout, stderr, code := run(t, f, filepath.Join(binDir, "sr-client"), "upscale", "-", "-o", "-", "--server", s.addr)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(out, []byte(stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := probe(t, out).Streams[0]; v.Width != 192 || v.Height != 128 || v.Frames != "10" {
		t.Errorf("video is %+v, want 10 frames at 192x128", v)
	}
	samePTS(t, framePTS(t, out), framePTS(t, in), 1e-6, false)
}

func TestJSONEvents(t *testing.T) {
	s := startServer(t)
	in := shortClip(t, "in.mp4", 10, 96, 64, "-c:a", "aac")
	stdout, stderr, code := client(t, "upscale", in, "--json", "--server", s.addr)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("not a JSON line: %q", line)
		}
	}
	if last := lines[len(lines)-1]; !strings.Contains(last, "ummary") && !strings.Contains(last, "done") {
		t.Errorf("the last event is %q, want the summary", last)
	}
}

func TestModelsAndProbe(t *testing.T) {
	s := startServer(t)
	if stdout, stderr, code := client(t, "models", "--server", s.addr); code != 0 || !strings.Contains(stdout, "lmswn-s-x2-video") {
		t.Errorf("models: exit code %d, printed %q %q", code, stdout, stderr)
	}
	in := shortClip(t, "in.mp4", 10, 96, 64, "-c:a", "aac")
	stdout, stderr, code := client(t, "probe", in, "--server", s.addr)
	if code != 0 {
		t.Fatalf("probe: exit code %d: %s", code, stderr)
	}
	for _, want := range []string{"h264", "aac", "192x128", "lmswn-s-x2-video"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("probe does not mention %s:\n%s", want, stdout)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	s := startServer(t)
	in := shortClip(t, "in.mp4", 4, 96, 64, "-an")
	table := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no input", []string{"upscale"}, 2, ""},
		{"unknown flag", []string{"upscale", in, "--sharpness", "9"}, 2, "sharpness"},
		{"missing file", []string{"upscale", filepath.Join(t.TempDir(), "none.mp4"), "--server", s.addr}, 1, "none.mp4"},
		{"no such model", []string{"upscale", in, "--model", "lmswn-xxl", "--server", s.addr}, 1, "lmswn-xxl"},
		{"no such scale", []string{"upscale", in, "--scale", "7", "--server", s.addr}, 2, "--scale"},
		{"no such preset", []string{"upscale", in, "--preset", "warp", "--server", s.addr}, 1, "warp"},
		{"no such encoder option", []string{"upscale", in, "--encoder-option", "warp=9", "--server", s.addr}, 1, "warp"},
		{"no server", []string{"upscale", in, "--server", "127.0.0.1:1"}, 1, "127.0.0.1:1"},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			_, stderr, code := client(t, c.args...)
			if code != c.code || !strings.Contains(stderr, c.want) {
				t.Errorf("exit code %d, stderr %q; want %d and %q", code, stderr, c.code, c.want)
			}
		})
	}
}

func TestCUDAMissingSaysWhat(t *testing.T) {
	if _, err := exec.LookPath("nvidia-smi"); err == nil {
		t.Skip("this machine has an NVIDIA driver; the test is about machines without")
	}
	s := startServer(t)
	in := shortClip(t, "in.mp4", 4, 96, 64, "-an")
	if _, stderr, code := client(t, "upscale", in, "--device", "cuda", "--server", s.addr); code != 1 || !strings.Contains(stderr, "libonnxruntime_providers_") {
		t.Errorf("exit code %d, stderr %q; want 1 and the missing library's name", code, stderr)
	}
}

// TestFieldRate: twice the frames, at half-way times, and the sound where it was.
func TestFieldRate(t *testing.T) {
	s := startServer(t)
	in := filepath.Join(t.TempDir(), "in.mp4")
	ffmpeg(t, "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=96x64:r=50", "-f", "lavfi", "-i", "sine", "-t", "1", "-vf", "interlace=scan=tff",
		"-c:v", "libx264", "-flags", "+ildct+ilme", "-x264opts", "tff=1", "-c:a", "aac", in)
	before := framePTS(t, in)
	for _, ext := range []string{"mp4", "mkv"} {
		out := filepath.Join(t.TempDir(), "out."+ext)
		upscale(t, in, "-o", out, "--field-rate", "--server", s.addr)
		var want []float64
		for _, at := range before {
			want = append(want, at, at+0.02)
		}
		samePTS(t, framePTS(t, out), want, 6e-4, false)
		if got, want := packetHashes(t, out, "a:0"), packetHashes(t, in, "a:0"); !slices.Equal(got, want) || len(want) == 0 {
			t.Errorf("audio packets differ: %d out, %d in", len(got), len(want))
		}
	}
}
