package decode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/frame"
)

// fuzzSeeds are tiny files of the common containers, made when the ffmpeg program is there.
var fuzzSeeds = []struct{ name, args string }{
	{"seed.mp4", "-c:v libx264 -pix_fmt yuv420p -movflags +faststart"},
	{"seed-last.mp4", "-c:v libx264 -pix_fmt yuv420p"},
	{"seed.mkv", "-c:v libx264 -pix_fmt yuv420p"},
	{"seed.webm", "-c:v libvpx-vp9 -cpu-used 8"},
	{"seed.ts", "-c:v mpeg2video"},
	{"seed.flv", "-c:v libx264 -pix_fmt yuv420p"},
	{"seed.avi", "-c:v mpeg4"},
	{"seed.gif", ""},
	{"seed.png", "-frames:v 1"},
	{"seed-av1.mkv", "-c:v libsvtav1 -preset 12 -pix_fmt yuv420p"},
	{"seed-hevc.mkv", "-c:v libx265 -x265-params log-level=error -pix_fmt yuv420p10le"},
}

const (
	fuzzTime   = 10 * time.Second // one input may take so long
	fuzzMemory = 64 << 20         // bytes of frames
	fuzzPixels = 1 << 20
)

// FuzzDecode feeds anything to Open and Next: whatever comes, they end in time with an *InputError or a sound end, give
// everything back, and hand out only frames that Media has announced.
func FuzzDecode(f *testing.F) {
	for _, text := range texts("/etc/hostname") {
		f.Add([]byte(text[:min(len(text), 2000)]))
	}
	if _, err := exec.LookPath("ffmpeg"); err == nil {
		for _, s := range fuzzSeeds {
			b, err := os.ReadFile(generate(f, s.name, source("64x64", 25, 3)+" "+s.args))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
			f.Add(b[:len(b)*2/3])
			broken := append([]byte(nil), b...)
			for i := 40; i < len(broken); i += 97 {
				broken[i] ^= 0x55
			}
			f.Add(broken)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := av.LiveContexts()
		pool := frame.NewPool(fuzzMemory)
		start := time.Now()
		var bad *InputError
		if _, err := decodeAny(t.Context(), b, pool); err != nil && !errors.As(err, &bad) {
			t.Errorf("not an InputError: %v", err)
		}
		if d := time.Since(start); d > fuzzTime {
			t.Errorf("took %v", d)
		}
		if n := av.LiveContexts(); n != before || pool.InUse() != 0 {
			t.Errorf("%d contexts and %d bytes left", n-before, pool.InUse())
		}
	})
}

// decodeAny decodes an input to its end under tight limits and returns the number of frames. Whatever the input, its error should
// be an *InputError.
func decodeAny(ctx context.Context, b []byte, pool *frame.Pool) (frames int, err error) {
	s, err := Open(ctx, stream(b), Options{
		Pool:    pool,
		Limits:  Limits{MaxPixels: fuzzPixels, MaxHeadBytes: 1 << 20, MaxPacketBytes: 1 << 20},
		Threads: 1,
		Spool:   func() (Spool, error) { return NewSpool("", 1<<20) },
	})
	if err != nil {
		return 0, err
	}
	m := s.Media()
	defer m.Free()
	defer s.Close()
	for {
		u, err := s.Next(ctx)
		if err == io.EOF {
			return frames, nil
		}
		if err != nil {
			return frames, err
		}
		if f := u.Frame; f != nil {
			frames++
			if f.Width != m.Width || f.Height != m.Height || f.Format != m.Working {
				err = fmt.Errorf("a frame of %dx%d %+v, Media says %dx%d %+v", f.Width, f.Height, f.Format, m.Width, m.Height, m.Working)
			}
		}
		u.free()
		if err != nil {
			return frames, err
		}
	}
}
