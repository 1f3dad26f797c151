package encode

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"upscaler/decode"
	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/notice"
)

// ffmpeg makes a file with the system's ffmpeg; args are one string, split at blanks, without input quoting.
func ffmpeg(t *testing.T, name, args string, more ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	all := append([]string{"-v", "error", "-nostdin", "-y"}, strings.Fields(args)...)
	all = append(append(all, more...), path)
	if out, err := exec.Command("ffmpeg", all...).CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg %s: %v\n%s", strings.Join(all, " "), err, out)
	}
	return path
}

// spoolFile is a decode.Spool.
type spoolFile struct{ *os.File }

func newSpool(t *testing.T) func() (decode.Spool, error) {
	return func() (decode.Spool, error) {
		f, err := os.CreateTemp(t.TempDir(), "spool")
		return spoolFile{f}, err
	}
}

// result is what a job left behind.
type result struct {
	path    string
	plan    *Layout
	stats   Stats
	notices []notice.Notice
	out     *fileOutput
}

// upscale runs a whole job with nearest-neighbour luma in place of the network.
func upscale(t *testing.T, in, out string, o Options) (result, error) {
	t.Helper()
	return upscaleWith(t, in, out, o, func(*av.Packet) {})
}

// upscaleWith is upscale with a hand on each packet that passes through.
func upscaleWith(t *testing.T, in, out string, o Options, touch func(*av.Packet)) (result, error) {
	t.Helper()
	ctx := context.Background()
	data, err := os.ReadFile(in)
	if err != nil {
		t.Fatal(err)
	}
	if o.Scale == 0 {
		o.Scale = 2
	}
	o.Threads = 2
	r := result{out: newFileOutput(t, out)}
	r.path = r.out.Name()
	o.Notify = func(n notice.Notice) { r.notices = append(r.notices, n) }
	pool := frame.NewPool(256 << 20)
	src, err := decode.Open(ctx, bytes.NewReader(data), decode.Options{Pool: pool, Spool: newSpool(t), Name: filepath.Base(in)})
	if err != nil {
		t.Fatalf("decoding %s: %v", in, err)
	}
	m := src.Media()
	defer m.Free()
	defer src.Close()
	if r.plan, err = Plan(m, o); err != nil {
		return r, err
	}
	r.notices = append(r.notices, r.plan.Notices...)
	sink, err := Open(ctx, r.out, m, r.plan, o)
	if err != nil {
		return r, err
	}
	defer sink.Close()
	for frames := 0; ; {
		u, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("decoding %s: %v", in, err)
		}
		if u.Packet != nil {
			touch(u.Packet)
			err = sink.WritePacket(ctx, u.Packet)
		} else if frames++; frames <= sink.Kept() {
			err = sink.WriteKept(ctx, u.Frame)
			u.Frame.Release()
		} else {
			luma := enlarge(t, pool, u.Frame, o.Scale)
			err = sink.WriteFrame(ctx, u.Frame, luma.Luma())
			u.Frame.Release()
			luma.Release()
		}
		if err != nil {
			return r, err
		}
	}
	err = sink.Finish(ctx)
	r.stats = sink.Stats()
	return r, err
}

func enlarge(t *testing.T, pool *frame.Pool, f *frame.Frame, scale int) *frame.Frame {
	t.Helper()
	out, err := pool.Get(context.Background(), frame.Format{Depth: f.Format.Depth, Gray: true}, f.Width*scale, f.Height*scale)
	if err != nil {
		t.Fatal(err)
	}
	src, dst, n := f.Luma(), out.Luma(), f.Format.SampleBytes()
	for y := range dst.Height {
		from, to := src.Data[y/scale*src.Stride:], dst.Data[y*dst.Stride:]
		for x := range dst.Width {
			copy(to[x*n:x*n+n], from[x/scale*n:])
		}
	}
	return out
}

// mustUpscale is upscale for jobs that must succeed, with frames counted.
func mustUpscale(t *testing.T, in, out string, o Options) result {
	t.Helper()
	before := av.LiveContexts()
	r, err := upscale(t, in, out, o)
	if err != nil {
		t.Fatal(err)
	}
	if r.stats.Frames != r.stats.Packets || r.stats.Frames == 0 {
		t.Errorf("%d frames in, %d packets out", r.stats.Frames, r.stats.Packets)
	}
	if n := av.LiveContexts(); n != before {
		t.Errorf("%d FFmpeg contexts left open", n-before)
	}
	return r
}

// times returns the presentation times of a stream's packets, sorted, in seconds as ffprobe prints them.
func (p probed) times(stream int) []string {
	var all []string
	for _, k := range p.Packets {
		if k.Stream == stream && k.Size != "2" { // MP4 muxers mark the end of each subtitle by an empty one
			all = append(all, k.PTSTime)
		}
	}
	slices.SortFunc(all, func(a, b string) int {
		x, _ := strconv.ParseFloat(a, 64)
		y, _ := strconv.ParseFloat(b, 64)
		return cmp.Compare(x, y)
	})
	return all
}

// hashes returns the digests of a stream's packets in their order.
func (p probed) hashes(stream int) []string {
	var all []string
	for _, k := range p.Packets {
		if k.Stream == stream && k.Size != "2" {
			all = append(all, k.Hash)
		}
	}
	return all
}

func TestRealClip(t *testing.T) {
	const in = "../testdata/big-buck-bunny-3s.mp4"
	want := probe(t, in)
	r := mustUpscale(t, in, "out.mp4", Options{Seekable: true, Preset: "ultrafast"})
	got := probe(t, r.path)
	if g, w := got.times(0), want.times(0); !slices.Equal(g, w) {
		t.Errorf("video times are %v, want %v", g, w)
	}
	if g, w := got.hashes(1), want.hashes(1); !slices.Equal(g, w) {
		t.Errorf("%d audio packets differ from the input's %d", len(g), len(w))
	}
	if g, w := got.times(1), want.times(1); !slices.Equal(g, w) {
		t.Errorf("audio times are %v, want %v", g, w)
	}
	if s := got.Streams[0]; s.Width != 2*want.Streams[0].Width || s.Height != 2*want.Streams[0].Height {
		t.Errorf("%dx%d", s.Width, s.Height)
	}
}
