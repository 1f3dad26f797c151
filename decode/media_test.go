package decode

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"
	"upscaler/internal/notice"

	"go.uber.org/goleak"
)

// TestMain checks at the end of all tests that nothing of FFmpeg and no goroutine is left.
func TestMain(m *testing.M) {
	if os.Getenv(hostileChild) != "" {
		os.Exit(decodeForParent(os.Stdin, os.Stdout))
	}
	code := m.Run()
	if n := av.LiveContexts(); n != 0 {
		fmt.Fprintf(os.Stderr, "%d FFmpeg contexts are still open\n", n)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if made.dir != "" {
		os.RemoveAll(made.dir)
	}
	os.Exit(code)
}

// clip is the project's own three seconds of real video.
const clip = "../testdata/big-buck-bunny-3s.mp4"

var made struct {
	sync.Mutex
	dir   string
	files map[string]string
}

// generate makes a media file with the ffmpeg program and returns its path. Equal arguments give the same file.
func generate(t testing.TB, name, args string) string {
	t.Helper()
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		t.Skip("needs the ffmpeg program (scripts/packages.sh test)")
	}
	made.Lock()
	defer made.Unlock()
	if made.dir == "" {
		dir, err := os.MkdirTemp("", "decode-test-*")
		if err != nil {
			t.Fatal(err)
		}
		made.dir, made.files = dir, map[string]string{}
	}
	key := name + " " + args
	if p, ok := made.files[key]; ok {
		return p
	}
	path := filepath.Join(made.dir, strconv.Itoa(len(made.files))+"-"+name)
	program(t, "ffmpeg", append(append([]string{"-v", "error", "-nostdin", "-y"}, strings.Fields(args)...), path)...)
	made.files[key] = path
	return path
}

// programLimit is how long a program may take: an endless lavfi source must not eat the machine.
const programLimit = time.Minute

func program(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), programLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes()
}

// source is the input half of a generate command: a moving test picture.
func source(size string, rate, frames int) string {
	return fmt.Sprintf("-f lavfi -i testsrc2=size=%s:rate=%d -frames:v %d", size, rate, frames)
}

// oddSource is one of 97x65 pixels; testsrc2 rounds sizes down to whole chroma samples.
func oddSource(frames int) string {
	return fmt.Sprintf("-f lavfi -i testsrc=size=97x65:rate=25 -frames:v %d", frames)
}

// result is all that decoding an input gives.
type result struct {
	media    *av.Media // its codec parameters are freed
	pts      []int64
	duration []int64
	sideData []map[int]bool
	size     [2]int // of the last frame
	sum      string // MD5 of all planes of all frames without padding
	raw      []byte // the first maxRaw bytes of them
	packets  map[int]int
	bytes    map[int]string // MD5 of the packets' contents by stream
	notices  []notice.Notice
	stats    Stats
}

const maxRaw = 4 << 20

func (r *result) codes() map[notice.Code]int {
	n := map[notice.Code]int{}
	for _, x := range r.notices {
		n[x.Code]++
	}
	return n
}

// decodeAll decodes an input to its end and checks that everything is given back.
func decodeAll(t testing.TB, in io.Reader, opts Options) (*result, error) {
	t.Helper()
	res := &result{packets: map[int]int{}, bytes: map[int]string{}}
	sums := map[int]hash.Hash{}
	if opts.Pool == nil {
		opts.Pool = frame.NewPool(64 << 20)
	}
	opts.Notify = func(n notice.Notice) { res.notices = append(res.notices, n) }
	if opts.Spool == nil {
		opts.Spool = func() (Spool, error) { return NewSpool(t.TempDir(), 64<<20) }
	}
	ctx := t.Context()
	s, err := Open(ctx, in, opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		s.Close()
		res.media.Free()
		if n := opts.Pool.InUse(); n != 0 {
			t.Errorf("%d bytes of the pool in use after close", n)
		}
	}()
	res.media = s.Media()
	sum := md5.New()
	for {
		u, err := s.Next(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			return res, err
		}
		if (u.Frame == nil) == (u.Packet == nil) {
			t.Fatalf("a unit is a frame or a packet, got %+v", u)
		}
		if f := u.Frame; f != nil {
			res.pts = append(res.pts, f.PTS)
			res.duration = append(res.duration, f.Duration)
			res.size = [2]int{f.Width, f.Height}
			kinds := map[int]bool{}
			for _, sd := range f.SideData {
				kinds[sd.Type] = true
			}
			res.sideData = append(res.sideData, kinds)
			if f.Format != res.media.Working {
				t.Fatalf("frame %d is %+v, Media says %+v", len(res.pts), f.Format, res.media.Working)
			}
			writePlanes(sum, f)
			if len(res.raw) < maxRaw {
				raw := bytes.NewBuffer(res.raw)
				writePlanes(raw, f)
				res.raw = raw.Bytes()
			}
			f.Release()
			continue
		}
		i := u.Packet.Stream()
		if sums[i] == nil {
			sums[i] = md5.New()
		}
		sums[i].Write(u.Packet.Raw().Data())
		res.packets[i]++
		u.Packet.Free()
	}
	res.sum = hex.EncodeToString(sum.Sum(nil))
	for i, h := range sums {
		res.bytes[i] = hex.EncodeToString(h.Sum(nil))
	}
	res.stats = s.Stats()
	return res, nil
}

func writePlanes(w io.Writer, f *frame.Frame) {
	for i := range f.Format.Planes() {
		p := f.Planes[i]
		n := p.Width * f.Format.SampleBytes()
		for y := range p.Height {
			w.Write(p.Data[y*p.Stride : y*p.Stride+n])
		}
	}
}

// stream hides everything of a reader but Read, as a network connection would.
func stream(b []byte) io.Reader { return struct{ io.Reader }{bytes.NewReader(b)} }

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// probedPTS returns the presentation times ffprobe sees in a file's first video stream, av.NoTimestamp where it sees none.
func probedPTS(t testing.TB, path string) []int64 {
	t.Helper()
	var all []int64
	for line := range strings.Lines(string(program(t, "ffprobe", "-v", "error", "-select_streams", "v:0",
		"-show_entries", "frame=best_effort_timestamp", "-of", "csv=p=0", path))) {
		line = strings.Trim(line, ", \n")
		if line == "" {
			continue
		}
		n, err := strconv.ParseInt(line, 10, 64)
		if line == "N/A" {
			n, err = av.NoTimestamp, nil
		}
		if err != nil {
			t.Fatalf("ffprobe says %q", line)
		}
		all = append(all, n)
	}
	return all
}

// samePTS tells whether times are those wanted, where any is wanted, and rise.
func samePTS(got, want []int64) bool {
	for i := range got {
		if i >= len(want) || want[i] != av.NoTimestamp && want[i] != got[i] || i > 0 && got[i] <= got[i-1] {
			return false
		}
	}
	return len(got) == len(want)
}

// decodedSum returns the MD5 of all frames as the ffmpeg program decodes them to a planar pixel format.
func decodedSum(t testing.TB, path, pixelFormat string, extra ...string) string {
	t.Helper()
	args := append([]string{"-v", "error", "-nostdin", "-noautorotate"}, extra...)
	args = append(args, "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", pixelFormat, "-")
	sum := md5.Sum(program(t, "ffmpeg", args...))
	return hex.EncodeToString(sum[:])
}

// filtered returns the frames after a filter of the ffmpeg program.
func filtered(t testing.TB, path, pixelFormat, filter string) []byte {
	t.Helper()
	return program(t, "ffmpeg", "-v", "error", "-nostdin", "-i", path, "-map", "0:v:0", "-vf", filter,
		"-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", pixelFormat, "-")
}

// differing returns which share of the bytes differs; 1 when the lengths do.
func differing(a, b []byte) float64 {
	if len(a) != len(b) || len(a) == 0 {
		return 1
	}
	n := 0
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return float64(n) / float64(len(a))
}

// av25 is the time base of 25 frames a second.
var av25 = media.Rational{Num: 1, Den: 25}

// workingName returns FFmpeg's name of the frames' layout, the full range's own where there is one.
func workingName(t testing.TB, m *av.Media) string {
	t.Helper()
	pf, ok := av.PixelFormatOf(m.Working)
	if !ok {
		t.Fatalf("no pixel format for %+v", m.Working)
	}
	name := av.PixelFormatName(pf)
	if m.Color.Range == av.RangeFull && m.Working.Depth == 8 && !m.Working.Gray && !m.Working.Alpha {
		name = strings.Replace(name, "yuv", "yuvj", 1)
	}
	return name
}

func wantKind(t testing.TB, err error, kind Kind) {
	t.Helper()
	var bad *InputError
	if !errors.As(err, &bad) || bad.Kind != kind {
		t.Fatalf("got %v, want an InputError of kind %q", err, kind)
	}
	if !strings.HasSuffix(bad.Text, ".") || strings.Count(bad.Text, ". ") > 0 {
		t.Errorf("not one sentence: %q", bad.Text)
	}
}

func newPool() *frame.Pool { return frame.NewPool(64 << 20) }
