package encode

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"upscaler/decode"
	"upscaler/internal/av"
	"upscaler/internal/frame"
)

// interrupted returns what a file held after some of its writes, cut to size bytes; size -1 cuts nothing.
func interrupted(t *testing.T, log []piece, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "interrupted"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for _, w := range log {
		if _, err := f.WriteAt(w.data, w.off); err != nil {
			t.Fatal(err)
		}
	}
	if size >= 0 {
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// keep opens an interrupted output.
func keep(t *testing.T, f *os.File, plan *Layout) *decode.Interrupted {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	k, err := decode.OpenInterrupted(t.Context(), f, info.Size(), decode.EncodedVideo{
		Codec: plan.CodecName(), Width: plan.Width, Height: plan.Height, Order: plan.VideosBefore}, decode.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// pictures returns the digest of each decoded picture.
func pictures(t *testing.T, path string) []string {
	t.Helper()
	var all []string
	sums, err := os.ReadFile(ffmpeg(t, "sums.md5", "-i "+path+" -map 0:v:0 -fps_mode passthrough -f framemd5"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sums)) {
		if fields := strings.Split(line, ","); len(fields) == 6 {
			all = append(all, strings.TrimSpace(fields[5]))
		}
	}
	return all
}

// TestResume interrupts jobs at random places, goes on with what is there, twice in a row, and compares the result with that
// of a job that was left alone.
func TestResume(t *testing.T) {
	const sound = " -f lavfi -i sine=r=48000 -map 0 -map 1 -c:a aac -b:a 32k -t 6"
	const picture = "-f lavfi -i testsrc2=s=96x64:r=25"
	h264 := map[string]string{"g": "12", "bf": "2"}
	table := []struct {
		name, in, args, out string
		o                   Options
	}{
		{"mp4", "in.mp4", picture + sound, "out.mp4", Options{Preset: "ultrafast", EncoderOptions: h264}},
		{"mp4, late and of uneven pace", "in.mkv", "-itsoffset 0.7 " + picture + sound + " -vf select='not(eq(mod(n,5),3))' -fps_mode vfr", "out.mp4",
			Options{Preset: "ultrafast", EncoderOptions: h264}},
		{"mov", "in.mov", picture + sound, "out.mov", Options{Preset: "ultrafast", EncoderOptions: h264}},
		{"mkv", "in.mkv", picture + sound, "out.mkv", Options{Preset: "veryfast", EncoderOptions: map[string]string{"g": "12"}}},
		{"ts", "in.ts", picture + sound, "out.ts", Options{Preset: "ultrafast", EncoderOptions: h264}},
		{"hevc mp4", "in.mp4", picture + sound, "out.mp4", Options{Codec: CodecHEVC, Preset: "ultrafast", EncoderOptions: map[string]string{"g": "12"}}},
		{"hevc mkv", "in.mp4", picture + sound, "out.mkv", Options{Codec: CodecHEVC, Preset: "ultrafast", EncoderOptions: map[string]string{"g": "12"}}},
		{"hevc ts", "in.mp4", picture + sound, "out.ts", Options{Codec: CodecHEVC, Preset: "ultrafast", EncoderOptions: map[string]string{"g": "12"}}},
		{"vp9 webm", "in.webm", picture + " -t 6 -c:v libvpx-vp9 -deadline realtime -cpu-used 8", "out.webm", Options{Preset: "8", EncoderOptions: map[string]string{"g": "12"}}},
		{"av1 mp4", "in.mp4", picture + sound, "out.mp4", Options{Codec: CodecAV1, Preset: "12", EncoderOptions: map[string]string{"g": "12"}}},
		{"ffv1 mkv", "in.mkv", picture + sound, "out.mkv", Options{Codec: CodecFFV1}},
		{"prores mov", "in.mov", picture + sound, "out.mov", Options{Codec: CodecProRes}},
	}
	if testing.Short() {
		table = table[:5]
	}
	for n, c := range table {
		t.Run(c.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, uint64(n)))
			in := ffmpeg(t, c.in, c.args)
			c.o.Seekable = true
			c.o.Container = map[string]Container{".mp4": ContainerMP4, ".mov": ContainerMOV, ".mkv": ContainerMatroska, ".ts": ContainerMPEGTS, ".webm": ContainerWebM}[filepath.Ext(c.out)]
			whole := mustUpscale(t, in, c.out, c.o)
			want, wantPictures := probe(t, whole.path), pictures(t, whole.path)
			// FFmpeg's muxers write in large pieces: cut within them, too.
			last, lastPictures, previous := whole, wantPictures, 0
			for round := 1; round <= 2; round++ {
				upTo := len(last.out.log)*round/3 + random.IntN(len(last.out.log)/3+1)
				size := int64(0)
				for _, w := range last.out.log[:upTo] {
					size = max(size, w.off+int64(len(w.data)))
				}
				size -= random.Int64N(min(size, 20_000) + 1)
				k := keep(t, interrupted(t, last.out.log[:upTo], size), last.plan)
				kept := k.Frames()
				t.Logf("%d of %d pictures are kept of %d bytes", kept, len(wantPictures), size)
				if round == 2 && kept == 0 || kept < 0 {
					t.Errorf("%d pictures of %d bytes could be used, %d the time before", kept, size, previous)
				}
				previous = kept
				o := c.o
				o.Kept = k
				r := mustResume(t, in, c.out, o)
				k.Close()
				got := probe(t, r.path)
				if g, w := len(got.Streams), len(want.Streams); g != w {
					t.Fatalf("%d streams, want %d", g, w)
				}
				for i := range want.Streams {
					// Sound whose times are uneven in the input may be moved by a millisecond where the fragments begin that MP4 grows by.
					if g, w := got.times(i), want.times(i); !sameTimes(g, w, want.Streams[i].CodecType) {
						at := 0
						for at < min(len(g), len(w)) && g[at] == w[at] {
							at++
						}
						t.Errorf("stream %d has %d packets, want %d; from %d on their times are %v, want %v", i, len(g), len(w), at,
							g[at:min(at+3, len(g))], w[at:min(at+3, len(w))])
					}
					if g, w := got.hashes(i), want.hashes(i); want.Streams[i].CodecType == "audio" && !slices.Equal(g, w) {
						t.Errorf("%d packets of stream %d differ from the %d of an uninterrupted job", len(g), i, len(w))
					}
				}
				gotPictures := pictures(t, r.path)
				if len(gotPictures) != len(wantPictures) || !slices.Equal(gotPictures[:kept], lastPictures[:kept]) {
					t.Errorf("the %d pictures that were kept have changed", kept)
				}
				for _, n := range r.notices {
					if n.Code == 4 {
						t.Errorf("notice %q", n.Text)
					}
				}
				last, lastPictures = r, gotPictures
			}
		})
	}
}

// sameTimes compares lists of times in seconds.
func sameTimes(got, want []string, kind string) bool {
	if kind == "video" {
		return slices.Equal(got, want)
	}
	return slices.EqualFunc(got, want, func(a, b string) bool {
		x, errX := strconv.ParseFloat(a, 64)
		y, errY := strconv.ParseFloat(b, 64)
		return errX == nil && errY == nil && math.Abs(x-y) < 0.0015
	})
}

// mustResume is mustUpscale for a job that goes on with another's output.
func mustResume(t *testing.T, in, out string, o Options) result {
	t.Helper()
	r, err := upscale(t, in, out, o)
	if err != nil {
		t.Fatal(err)
	}
	if r.stats.Frames != r.stats.Packets || r.stats.Frames == 0 {
		t.Errorf("%d frames in, %d packets out", r.stats.Frames, r.stats.Packets)
	}
	return r
}

// TestResumeRefuses: an output that does not belong to the job is not gone on with.
func TestResumeRefuses(t *testing.T) {
	before := av.LiveContexts()
	o := Options{Seekable: true, Container: ContainerMP4, Preset: "ultrafast", EncoderOptions: map[string]string{"g": "12"}}
	in := ffmpeg(t, "in.mp4", "-f lavfi -i testsrc2=s=96x64:r=25 -t 4")
	whole := mustUpscale(t, in, "out.mp4", o)
	most := whole.out.log[:len(whole.out.log)*3/4]
	other := o
	other.EncoderOptions = map[string]string{"g": "12", "refs": "4"}
	for _, c := range []struct {
		name, in string
		o        Options
		want     string
	}{
		{"other settings", in, other, "header"},
		{"other pace", ffmpeg(t, "in.mp4", "-f lavfi -i testsrc2=s=96x64:r=24 -t 4 -video_track_timescale 12800"), o, "times"},
		{"shorter", ffmpeg(t, "in.mp4", "-f lavfi -i testsrc2=s=96x64:r=25 -t 0.4"), o, "fewer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := keep(t, interrupted(t, most, -1), whole.plan)
			defer k.Close()
			if k.Frames() < 12 {
				t.Fatalf("%d pictures can be used", k.Frames())
			}
			c.o.Kept = k
			_, err := upscale(t, c.in, "again.mp4", c.o)
			var resume *ResumeError
			if !errors.As(err, &resume) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a *ResumeError about %q", err, c.want)
			}
		})
	}
	// An MP4 whose first index has just been made media data, and whose last has not been written yet.
	k := keep(t, interrupted(t, whole.out.log[:len(whole.out.log)-1], -1), whole.plan)
	if n := k.Frames(); n < 80 || n > 84 {
		t.Errorf("%d pictures of an output of 100 that lacks but its index can be used, want all but the last 16 or so", n)
	}
	k.Close()
	for size := range 40 {
		f := interrupted(t, most, int64(size*size*size))
		k := keep(t, f, whole.plan)
		k.Close()
	}
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	k = keep(t, interrupted(t, []piece{{0, noise}}, -1), whole.plan)
	if k.Frames() != 0 {
		t.Errorf("%d pictures of noise can be used", k.Frames())
	}
	k.Close()
	if n := av.LiveContexts(); n != before {
		t.Errorf("%d FFmpeg contexts are open, %d before", n, before)
	}
}

// TestCloseBeforeTheFirstPicture: SVT-AV1 would wait for ever.
func TestCloseBeforeTheFirstPicture(t *testing.T) {
	data, err := os.ReadFile(ffmpeg(t, "in.mkv", "-f lavfi -i testsrc2=s=96x64:r=25 -frames:v 2"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range encoders {
		if e.still {
			continue
		}
		src, err := decode.Open(t.Context(), bytes.NewReader(data), decode.Options{Pool: frame.NewPool(1 << 20)})
		if err != nil {
			t.Fatal(err)
		}
		m := src.Media()
		o := Options{Codec: e.codec, Scale: 2, Threads: 2, Seekable: true}
		plan, err := Plan(m, o)
		if err != nil {
			t.Fatal(err)
		}
		sink, err := Open(t.Context(), newFileOutput(t, "out"), m, plan, o)
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			sink.Close()
		}()
		select {
		case <-closed:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s is not closed after 20 s", e.name)
		}
		src.Close()
		m.Free()
	}
}

// TestResumeDamaged: an output that has suffered is gone on with, or refused, and nothing else.
func TestResumeDamaged(t *testing.T) {
	before := av.LiveContexts()
	rounds := 24
	if testing.Short() {
		rounds = 6
	}
	in := ffmpeg(t, "in.mp4", "-f lavfi -i testsrc2=s=64x48:r=25 -f lavfi -i sine=r=48000 -t 2 -c:a aac -b:a 32k")
	random := rand.New(rand.NewPCG(3, 3))
	refused, resumed := 0, 0
	for _, c := range []struct {
		name      string
		container Container
	}{{"out.mp4", ContainerMP4}, {"out.mkv", ContainerMatroska}, {"out.ts", ContainerMPEGTS}} {
		o := Options{Seekable: true, Container: c.container, Preset: "ultrafast", EncoderOptions: map[string]string{"g": "8"}}
		whole := mustUpscale(t, in, c.name, o)
		sound, err := os.ReadFile(interrupted(t, whole.out.log[:len(whole.out.log)*4/5+1], -1).Name())
		if err != nil {
			t.Fatal(err)
		}
		for range rounds {
			bad := slices.Clone(sound)
			for range 1 + random.IntN(8) {
				switch at := random.IntN(len(bad)); random.IntN(3) {
				case 0:
					bad[at] ^= 1 << random.IntN(8)
				case 1:
					clear(bad[at:min(at+4096, len(bad))]) // a block that never reached the disk
				default:
					copy(bad[at:], bad[random.IntN(len(bad)):])
				}
			}
			k := keep(t, interrupted(t, []piece{{0, bad}}, -1), whole.plan)
			o.Kept = k
			_, err := upscale(t, in, c.name, o)
			k.Close()
			var resume *ResumeError
			switch {
			case err == nil:
				resumed++
			case errors.As(err, &resume):
				refused++
			default:
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	t.Logf("%d gone on with, %d refused", resumed, refused)
	if resumed == 0 {
		t.Error("none was gone on with")
	}
	if n := av.LiveContexts(); n != before {
		t.Errorf("%d FFmpeg contexts are open, %d before", n, before)
	}
}
