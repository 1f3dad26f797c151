package e2e

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestPart upscales a piece of a video from within and compares pictures, sound, times and chapters with the original's.
func TestPart(t *testing.T) {
	s := startServer(t)
	dir := t.TempDir()
	chapters := filepath.Join(dir, "chapters.txt")
	text := ";FFMETADATA1\n"
	for i, end := range []int{700, 1600, 2900} {
		text += "[CHAPTER]\nTIMEBASE=1/1000\nSTART=" + strconv.Itoa([]int{0, 700, 1600}[i]) + "\nEND=" + strconv.Itoa(end) + "\ntitle=part " + strconv.Itoa(i) + "\n"
	}
	if err := os.WriteFile(chapters, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// B-frames make the decoder late, the offset makes the clock begin elsewhere than at zero.
	table := []struct {
		name   string
		offset string
		extra  []string
	}{
		{"in.mp4", "0", []string{"-movflags", "+faststart"}},
		{"last.mp4", "0", nil}, // index last: spooled
		{"in.mkv", "0", nil},
		{"in.ts", "100", nil},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			in := filepath.Join(t.TempDir(), c.name)
			args := []string{"-v", "error", "-i", clip, "-i", chapters, "-map", "0:v", "-map", "0:a", "-map_chapters", "1",
				"-vf", "scale=96:64", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "12", "-c:a", "ac3", "-output_ts_offset", c.offset}
			ffmpeg(t, append(append(args, c.extra...), in)...)
			out := filepath.Join(t.TempDir(), "out.mkv")
			upscale(t, in, "-o", out, "--codec", "ffv1", "--start", "1", "--duration", "0:00.5", "--server", s.addr)

			all := framePTS(t, in)
			var want []float64
			first := 0
			for i, at := range all {
				if at-all[0] > 0.9995 && at-all[0] < 1.4995 {
					if want == nil {
						first = i
					}
					want = append(want, at-all[first])
				}
			}
			samePTS(t, framePTS(t, out), want, 1.1e-3, false)
			if len(want) != 12 {
				t.Fatalf("the original has %d frames in the part, want 12", len(want))
			}
			// The pictures are those of that time: a shift by one frame costs far more than this bound.
			trim := "trim=start_frame=" + strconv.Itoa(first) + ":end_frame=" + strconv.Itoa(first+len(want)) + ",scale=192:128:flags=bicubic"
			if v := psnr(t, in, out, trim); v < 27 {
				t.Errorf("luma PSNR against the original's pictures is %.1f dB", v)
			}
			samePart(t, in, out, all[first])
			if strings.HasSuffix(c.name, ".ts") {
				return
			}
			stdout, stderr, code := run(t, nil, "ffprobe", "-v", "error", "-show_entries", "chapter=start_time,end_time:chapter_tags=title", "-of", "csv=p=0", out)
			if want := "0.000000,0.500000,part 1"; code != 0 || strings.TrimSpace(stdout) != want {
				t.Errorf("chapters are %q %s, want %q", stdout, stderr, want)
			}
		})
	}
}

// samePart checks that the sound of out is that of in from the time zero on, packet by packet, each at its place.
func samePart(t *testing.T, in, out string, zero float64) {
	t.Helper()
	inHash, outHash := packetHashes(t, in, "a:0"), packetHashes(t, out, "a:0")
	inTime, outTime := packetTimes(t, in, "a:0"), packetTimes(t, out, "a:0")
	if len(outHash) < 14 || len(outHash) > 16 { // half a second of AC-3 frames of 32 ms
		t.Fatalf("%d packets of sound in half a second", len(outHash))
	}
	at := slices.Index(inHash, outHash[0])
	if at < 0 || at+len(outHash) > len(inHash) || !slices.Equal(inHash[at:at+len(outHash)], outHash) {
		t.Fatalf("the sound is not a piece of the original's")
	}
	for i, got := range outTime {
		if want := inTime[at+i] - zero; math.Abs(got-want) > 2e-3 {
			t.Errorf("packet %d of the sound is at %.4f s, want %.4f", i, got, want)
		}
	}
	if inTime[at-1]-zero >= 0 || inTime[at+len(outHash)]-zero < 0.4995 {
		t.Error("sound of the part is missing")
	}
}

// packetTimes returns the presentation time of every packet of a stream in seconds.
func packetTimes(t *testing.T, path, stream string) []float64 {
	t.Helper()
	stdout, stderr, code := run(t, nil, "ffprobe", "-v", "error", "-select_streams", stream, "-show_entries", "packet=pts_time", "-of", "csv=p=0", path)
	if code != 0 {
		t.Fatalf("ffprobe %s: %s", path, stderr)
	}
	var times []float64
	for line := range strings.Lines(stdout) {
		field := strings.Trim(line, ",\r\n ")
		if field == "" {
			continue // ffprobe ends sections of side data with an empty line
		}
		v, err := strconv.ParseFloat(field, 64)
		if err != nil {
			t.Fatalf("%s: packet time %q", path, line)
		}
		times = append(times, v)
	}
	return times
}

// TestPartEndsTheUpload asks for the first pictures of an input that would go on for ever.
func TestPartEndsTheUpload(t *testing.T) {
	s := startServer(t)
	in := shortClip(t, "in.ts", 48, 96, 64, "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "mp2")
	data, err := os.ReadFile(in)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.mkv")
	_, stderr, code := run(t, &endless{data: data}, filepath.Join(binDir, "sr-client"), "upscale", "-", "-o", out,
		"--duration", "500ms", "--server", s.addr)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if n := len(framePTS(t, out)); n != 12 {
		t.Errorf("%d frames, want 12", n)
	}
	eventually(t, deadline, "the job's frames are given back", func() bool { return s.gauge(t, "upscale_frame_bytes") == 0 })
}

// endless repeats data for ever.
type endless struct {
	data []byte
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.data[e.at:])
	e.at = (e.at + n) % len(e.data)
	return n, nil
}

func TestPartErrors(t *testing.T) {
	s := startServer(t)
	in := shortClip(t, "in.mp4", 10, 96, 64, "-an")
	table := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"after the end", []string{"--start", "1:00"}, 1, "1m0s"},
		{"no time", []string{"--start", "noon"}, 2, "1:30"},
		{"nothing", []string{"--duration", "0"}, 2, "--duration"},
		{"negative", []string{"--start", "-5"}, 2, "1:30"},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			_, stderr, code := client(t, append([]string{"upscale", in, "--server", s.addr}, c.args...)...)
			if code != c.code || !strings.Contains(stderr, c.want) {
				t.Errorf("exit code %d, stderr %q; want %d and %q", code, stderr, c.code, c.want)
			}
		})
	}
}
