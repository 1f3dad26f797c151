package encode

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// TestLiveAnswersEachFrame checks that nothing stays behind in the encoder or the muxer: each frame's packet is in the output when
// WriteFrame returns. Frames are missing now and then, as in a live job that drops some.
func TestLiveAnswersEachFrame(t *testing.T) {
	for _, c := range []struct {
		codec     Codec
		container Container
		lag       int64 // frames that the encoder may keep
	}{
		{CodecH264, ContainerMPEGTS, 0}, {CodecHEVC, ContainerMPEGTS, 0}, {CodecH264, ContainerMP4, 0}, {CodecH264, ContainerMatroska, 0},
		{CodecVP9, ContainerWebM, 0}, {CodecFFV1, ContainerMatroska, 0}, {CodecHEVC, ContainerMP4, 0},
		{CodecAV1, ContainerMatroska, 8}, // SVT-AV1 works in threads of its own and never waits for them
	} {
		name := fmt.Sprintf("%s in %s", encoderOf(c.codec).id, containerOf(c.container).name)
		t.Run(name, func(t *testing.T) {
			out := newFileOutput(t, "out")
			s, write := liveSink(t, out, Options{Codec: c.codec, Container: c.container,
				Live: &Live{KeyFrameInterval: time.Second, FragmentFrame: true}})
			var last int64
			for i := range 80 {
				if i%7 == 3 || i > 40 && i < 50 {
					continue
				}
				write(int64(i) * 3600)
				st := s.Stats()
				if st.Packets < st.Frames-c.lag {
					t.Fatalf("%d frames in, %d packets out", st.Frames, st.Packets)
				}
				if st.BytesOut <= last && c.lag == 0 {
					t.Errorf("frame %d is not in the output yet: %d bytes", st.Frames, st.BytesOut)
				}
				last = st.BytesOut
			}
			if err := s.Finish(context.Background()); err != nil {
				t.Fatal(err)
			}
			keys := keyTimes(t, out.Name())
			want := "0.00 1.00 2.00 3.00"
			switch c.codec {
			case CodecFFV1:
				return // knows nothing but key frames
			case CodecAV1:
				want = "0.00 1.16 2.72" // the 25th and the 50th that are left
			}
			if got := strings.Join(keys, " "); got != want {
				t.Errorf("key frames at %s, want %s", got, want)
			}
		})
	}
}

// liveSink opens a sink for a synthetic picture of 96x64 at 90 kHz, and returns it with a function that writes a frame of noise.
func liveSink(t *testing.T, out Output, o Options) (*Sink, func(pts int64)) {
	t.Helper()
	ctx := context.Background()
	m := syntheticMedia(t, yuv420, 96, 64, astiav.CodecIDH264, media.Rational{Num: 1, Den: 90_000}, av.Color{})
	o.Scale, o.Threads = 2, 2
	plan, err := Plan(m, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, out, m, plan, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	pool := frame.NewPool(1 << 22)
	f, luma := flatFrame(t, pool, yuv420, 96, 64, [4]int{100, 100, 100}), flatFrame(t, pool, gray, 192, 128, [4]int{})
	return s, func(pts int64) {
		t.Helper()
		for y := range luma.Height {
			for x := range luma.Width { // a ramp that moves
				luma.Planes[0].Data[y*luma.Planes[0].Stride+x] = byte(x + y + int(pts/3600))
			}
		}
		f.PTS, f.Duration = pts, 3600
		if err := s.WriteFrame(ctx, f, luma.Luma()); err != nil {
			t.Fatal(err)
		}
	}
}

// keyTimes returns the times of a file's key frames in seconds, from the first frame.
func keyTimes(t *testing.T, path string) []string {
	t.Helper()
	text, err := exec.Command("ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "packet=pts_time,flags", "-of", "csv=p=0", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var times []string
	for line := range strings.Lines(string(text)) {
		if line = strings.Trim(line, ",\n"); line == "" {
			continue
		}
		var at float64
		var flags string
		if _, err := fmt.Sscanf(strings.Replace(line, ",", " ", 1), "%f %s", &at, &flags); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if strings.HasPrefix(flags, "K") {
			times = append(times, fmt.Sprintf("%.2f", at))
		}
	}
	return times
}

// folder is an output of several files.
type folder struct {
	*fileOutput
	t         *testing.T
	done      []string
	durations []time.Duration
}

func (f *folder) EndFile(d time.Duration) error {
	f.done, f.durations = append(f.done, f.Name()), append(f.durations, d)
	f.Close()
	f.fileOutput = newFileOutput(f.t, fmt.Sprintf("%d.ts", len(f.done)))
	return nil
}

// TestLiveSegments cuts a stream into files and checks that each can be played alone and lasts as long as it says.
func TestLiveSegments(t *testing.T) {
	out := &folder{fileOutput: newFileOutput(t, "0.ts"), t: t}
	o := Options{Live: &Live{KeyFrameInterval: time.Second, Segment: 2 * time.Second}}
	s, write := liveSink(t, out, o)
	for i := range 115 {
		write(int64(i) * 3600)
	}
	if err := s.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(out.durations), "[2s 2s 600ms]"; got != want {
		t.Errorf("segments of %s, want %s", got, want)
	}
	for i, path := range out.done {
		p := probe(t, path)
		want := []int{50, 50, 15}[i]
		if n := len(p.times(0)); n != want {
			t.Errorf("segment %d has %d frames, want %d", i, n, want)
		}
		text, err := exec.Command("ffmpeg", "-v", "error", "-i", path, "-f", "null", "-").CombinedOutput()
		if err != nil || len(text) > 0 {
			t.Errorf("%s: %v %s", filepath.Base(path), err, text)
		}
	}
}

func TestLiveSegmentsNeedMPEGTS(t *testing.T) {
	m := syntheticMedia(t, yuv420, 96, 64, astiav.CodecIDH264, media.Rational{Num: 1, Den: 90_000}, av.Color{})
	o := Options{Scale: 2, Container: ContainerMP4, Live: &Live{Segment: time.Second}}
	plan, err := Plan(m, o)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(context.Background(), &folder{t: t}, m, plan, o)
	var option *OptionError
	if !errors.As(err, &option) || option.Field != "live.segment" {
		t.Errorf("segments of MP4: %v, want an OptionError for live.segment", err)
	}
}

// TestAACFromTransportStreamInPipedMatroska keeps sound whose header comes with each packet where it must be told at the beginning.
func TestAACFromTransportStreamInPipedMatroska(t *testing.T) {
	for _, args := range []string{"-c:a aac", "-c:a aac -ac 6", "-c:a aac -ar 22050 -ac 1"} {
		in := ffmpeg(t, "adts.ts", "-f lavfi -i testsrc2=size=96x64:rate=25:duration=2 -f lavfi -i sine=duration=2 "+args+x264)
		r := mustUpscale(t, in, "out.mkv", Options{Container: ContainerMatroska})
		p := probe(t, r.path)
		if len(p.Streams) != 2 || len(p.times(1)) < 40 {
			t.Errorf("%s: %d streams, want the sound too", args, len(p.Streams))
			continue
		}
		if text, err := exec.Command("ffmpeg", "-v", "error", "-i", r.path, "-f", "null", "-").CombinedOutput(); err != nil || len(text) > 0 {
			t.Errorf("%s: %v %s", args, err, text)
		}
	}
}
