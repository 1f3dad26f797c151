package decode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/notice"
)

// texts are inputs that name other files or addresses. None may be opened, whatever they are.
func texts(secret string) map[string]string {
	return map[string]string{
		"ffconcat": "ffconcat version 1.0\nfile '" + secret + "'\n",
		"sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n" +
			"a=rtpmap:96 H264/90000\n",
		"hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://" + secret + "\n#EXT-X-ENDLIST\n",
		"dash": `<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet><Representation ` +
			`id="1"><BaseURL>file://` + secret + `</BaseURL></Representation></AdaptationSet></Period></MPD>`,
		"ffmetadata": ";FFMETADATA1\ntitle=x\n",
		"text":       strings.Repeat("All work and no play makes Jack a dull boy.\n", 5000),
		"html":       "<!DOCTYPE html><html><body>404</body></html>",
		"zip":        "PK\x03\x04\x14\x00\x00\x00\x08\x00" + strings.Repeat("\x00", 100),
		"zeros":      strings.Repeat("\x00", 1<<20),
		"one byte":   "x",
	}
}

func TestRefusesWhatIsNoVideo(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret.mp4")
	if err := os.WriteFile(secret, readFile(t, clip), 0o600); err != nil {
		t.Fatal(err)
	}
	opened := openFiles(t)
	for name, text := range texts(secret) {
		t.Run(name, func(t *testing.T) {
			_, err := decodeAll(t, strings.NewReader(text), Options{Name: name})
			var bad *InputError
			if !errors.As(err, &bad) || bad.Kind != NotVideo && bad.Kind != Damaged {
				t.Fatalf("got %v, want an InputError that says it is no video", err)
			}
		})
	}
	if n := openFiles(t); n != opened {
		t.Errorf("%d files open, were %d", n, opened)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

// A format that FFmpeg itself would take is refused when it is not on our list, and one on it cannot open another file: the
// MOV's data reference names a file beside it.
func TestOpensNothingElse(t *testing.T) {
	b := readFile(t, clip)
	at := bytes.Index(b, []byte("url \x00\x00\x00\x01"))
	if at < 0 {
		t.Fatal("the clip has no data reference to change")
	}
	b[at+7] = 0 // "the media data is in this file" no longer
	if res, err := decodeAll(t, stream(b), Options{}); err == nil && len(res.pts) == 0 {
		t.Error("no error and no frame")
	}
}

// A name decides nothing that the content does not.
func TestNameIsNoPath(t *testing.T) {
	path := generate(t, "h264.h264", source("98x66", 25, 12)+" -c:v libx264 -pix_fmt yuv420p -bf 0")
	for _, name := range []string{"", "x.h264", path, "concat:/etc/hostname|x.h264", "x.txt"} {
		if res, err := decodeAll(t, stream(readFile(t, path)), Options{Name: name}); err != nil || len(res.pts) != 12 {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{path, clip, "x.h264", "x.hevc", "file:" + clip} {
		_, err := decodeAll(t, strings.NewReader("just text"), Options{Name: name})
		var bad *InputError
		if !errors.As(err, &bad) {
			t.Errorf("%q: %v, want an InputError", name, err)
		}
	}
}

func TestEmpty(t *testing.T) {
	_, err := decodeAll(t, bytes.NewReader(nil), Options{})
	wantKind(t, err, Empty)
}

func TestSoundOnly(t *testing.T) {
	for _, name := range []string{"sound.mp3", "sound.wav", "sound.m4a", "sound.flac", "sound.mka"} {
		path := generate(t, name, "-f lavfi -i sine=d=0.5")
		_, err := decodeAll(t, stream(readFile(t, path)), Options{})
		wantKind(t, err, NoVideoStream)
	}
}

// Cover art is a video stream to FFmpeg, but no video.
func TestCoverArtIsNoVideo(t *testing.T) {
	cover := generate(t, "cover.png", "-f lavfi -i testsrc2=size=64x64 -frames:v 1")
	path := generate(t, "cover.mp3", "-f lavfi -i sine=d=0.5 -i "+cover+" -map 0 -map 1 -c:v copy -disposition:v attached_pic")
	_, err := decodeAll(t, stream(readFile(t, path)), Options{})
	wantKind(t, err, NoVideoStream)
}

func TestTooManyPixels(t *testing.T) {
	for _, name := range []string{"large.mp4", "large.mkv", "large.ts", "large.flv", "large.h264"} {
		path := generate(t, name, source("640x360", 25, 2)+" -c:v libx264 -pix_fmt yuv420p")
		_, err := decodeAll(t, stream(readFile(t, path)), Options{Limits: Limits{MaxPixels: 640*360 - 1}})
		wantKind(t, err, TooLarge)
		if res, err := decodeAll(t, stream(readFile(t, path)), Options{Limits: Limits{MaxPixels: 640 * 360}}); err != nil || len(res.pts) != 2 {
			t.Errorf("%s at the limit: %v", name, err)
		}
	}
}

// A frame that fits the pixel limit but not the pool must fail, not wait for ever.
func TestFrameLargerThanThePool(t *testing.T) {
	path := generate(t, "large.mkv", source("640x360", 25, 2)+" -c:v libx264 -pix_fmt yuv420p")
	_, err := decodeAll(t, stream(readFile(t, path)), Options{Pool: frame.NewPool(1000)})
	wantKind(t, err, TooLarge)
}

func TestTooManyStreams(t *testing.T) {
	path := generate(t, "streams.mkv", "-f lavfi -i testsrc2=size=64x48 -f lavfi -i sine=d=0.1 -t 0.1 -map 0 "+strings.Repeat("-map 1 ", 9)+
		"-c:v libx264 -c:a flac")
	_, err := decodeAll(t, stream(readFile(t, path)), Options{Limits: Limits{MaxStreams: 9}})
	wantKind(t, err, TooLarge)
	if _, err := decodeAll(t, stream(readFile(t, path)), Options{Limits: Limits{MaxStreams: 10}}); err != nil {
		t.Error(err)
	}
}

func TestTooLargePacket(t *testing.T) {
	path := generate(t, "raw.avi", source("640x360", 25, 2)+" -c:v rawvideo -pix_fmt yuv420p")
	_, err := decodeAll(t, stream(readFile(t, path)), Options{Limits: Limits{MaxPacketBytes: 200_000}})
	wantKind(t, err, TooLarge)
}

// A header that claims gigantic dimensions costs an error, not memory.
func TestLyingDimensions(t *testing.T) {
	b := readFile(t, generate(t, "h264.mp4", source("98x66", 25, 12)+" -c:v libx264 -pix_fmt yuv420p -movflags +faststart"))
	at := bytes.Index(b, []byte("avc1\x00\x00\x00\x00\x00\x00\x00\x01"))
	if at < 0 {
		t.Fatal("no sample entry found")
	}
	binary.BigEndian.PutUint16(b[at+28:], 65535) // ISO/IEC 14496-12, 12.1.3: width and height of a VisualSampleEntry
	binary.BigEndian.PutUint16(b[at+30:], 65535)
	res, err := decodeAll(t, stream(b), Options{})
	var bad *InputError
	switch {
	case err == nil && res.size != [2]int{98, 66}:
		t.Errorf("frames of %v", res.size)
	case err != nil && (!errors.As(err, &bad) || bad.Kind != TooLarge):
		t.Errorf("got %v, want frames or an InputError of kind %q", err, TooLarge)
	}
}

func TestTruncated(t *testing.T) {
	for _, name := range []string{"h264.mp4", "h264.mkv", "h264.ts", "h264.flv", "h264.avi"} {
		path := generate(t, name, source("98x66", 25, 100)+" -c:v libx264 -bf 0 -g 10 -pix_fmt yuv420p -movflags +faststart")
		b := readFile(t, path)
		t.Run(name, func(t *testing.T) {
			res, err := decodeAll(t, stream(b[:len(b)/2]), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(res.pts); n < 20 || n > 80 {
				t.Errorf("%d of 100 frames from half of the file", n)
			}
			// A transport stream does not say how long it is.
			if n := res.codes()[notice.InputDamaged]; n != 1 && !strings.HasSuffix(name, ".ts") {
				t.Errorf("%d notices of damage, want 1", n)
			}
		})
		t.Run(name+" head only", func(t *testing.T) {
			_, err := decodeAll(t, stream(b[:200]), Options{})
			var bad *InputError
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, want an InputError", err)
			}
		})
	}
}

func TestMoovLastTruncated(t *testing.T) {
	b := readFile(t, generate(t, "moov-last.mp4", source("98x66", 25, 12)+" -c:v libx264 -pix_fmt yuv420p"))
	_, err := decodeAll(t, stream(b[:len(b)/2]), Options{})
	wantKind(t, err, Damaged)
}

func TestMoovLastWithoutSpool(t *testing.T) {
	b := readFile(t, generate(t, "moov-last.mp4", source("98x66", 25, 12)+" -c:v libx264 -pix_fmt yuv420p"))
	_, err := Open(t.Context(), stream(b), Options{Pool: frame.NewPool(1 << 20)})
	wantKind(t, err, Unsupported)
}

func TestMoovLastLargerThanTheSpool(t *testing.T) {
	b := readFile(t, generate(t, "moov-last.mp4", source("98x66", 25, 12)+" -c:v libx264 -pix_fmt yuv420p"))
	dir := t.TempDir()
	_, err := decodeAll(t, stream(b), Options{Spool: func() (Spool, error) { return NewSpool(dir, int64(len(b))-1) }})
	wantKind(t, err, TooLarge)
	if _, err := decodeAll(t, stream(b), Options{Spool: func() (Spool, error) { return NewSpool(dir, int64(len(b))) }}); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v left behind", left)
	}
}

// Bits flipped in the media data cost some frames, never the job, and are told once.
func TestFlippedBits(t *testing.T) {
	for _, name := range []string{"flip.mp4", "flip.mkv", "flip.ts", "flip.flv", "flip.webm"} {
		codec := "libx264 -g 10 -bf 2"
		if name == "flip.webm" {
			codec = "libvpx-vp9 -cpu-used 8 -g 10"
		}
		path := generate(t, name, source("98x66", 25, 60)+" -pix_fmt yuv420p -movflags +faststart -c:v "+codec)
		t.Run(name, func(t *testing.T) {
			b := readFile(t, path)
			random := rand.New(rand.NewPCG(1, 2))
			for range len(b) / 500 {
				i := len(b)/3 + random.IntN(len(b)*2/3)
				b[i] ^= 1 << random.IntN(8)
			}
			res, err := decodeAll(t, stream(b), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(res.pts); n < 10 || n > 60 {
				t.Errorf("%d of 60 frames", n)
			}
			// VP9 has no redundancy by which its decoder could tell; whether it notices depends on the encoder's version.
			if n := res.codes()[notice.InputDamaged]; n != 1 && (n != 0 || name != "flip.webm") {
				t.Errorf("%d notices of damage, want 1 (%+v)", n, res.stats)
			}
			for i := 1; i < len(res.pts); i++ {
				if res.pts[i] <= res.pts[i-1] {
					t.Fatalf("presentation times do not rise: %v", res.pts)
				}
			}
		})
	}
}

// Video whose every picture is destroyed has a sound container and nothing to upscale.
func TestNothingDecodes(t *testing.T) {
	b := readFile(t, generate(t, "h264.mp4", source("98x66", 25, 12)+" -c:v libx264 -pix_fmt yuv420p -movflags +faststart"))
	at := bytes.Index(b, []byte("mdat"))
	clear(b[at+4:])
	_, err := decodeAll(t, stream(b), Options{})
	wantKind(t, err, Damaged)
}

// The reader's own error comes back, wherever it happens.
func TestReaderFails(t *testing.T) {
	b := readFile(t, clip)
	broken := errors.New("connection lost")
	for _, n := range []int{0, 10, 1000, 100_000, 400_000} {
		_, err := decodeAll(t, io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken)), Options{})
		if !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v, want the reader's error", n, err)
		}
	}
}

// Readers that are slow, give their last bytes together with EOF, or sometimes nothing, are all right.
func TestOddReaders(t *testing.T) {
	path := generate(t, "h264.mp4", source("98x66", 25, 12)+" -c:v libx264 -pix_fmt yuv420p -movflags +faststart")
	b := readFile(t, path)
	want, err := decodeAll(t, stream(b), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"one byte at a time":    iotest.OneByteReader(bytes.NewReader(b)),
		"half of what is asked": iotest.HalfReader(bytes.NewReader(b)),
		"EOF with the data":     iotest.DataErrReader(bytes.NewReader(b)),
		"nothing now and then":  &sometimesNothing{r: bytes.NewReader(b)},
	} {
		got, err := decodeAll(t, r, Options{})
		if err != nil || got.sum != want.sum {
			t.Errorf("%s: %v, sums equal: %v", name, err, err == nil && got.sum == want.sum)
		}
	}
	if _, err := decodeAll(t, io.MultiReader(bytes.NewReader(b[:5000]), never{}), Options{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that never gives anything: %v", err)
	}
}

type sometimesNothing struct {
	r io.Reader
	n int
}

func (s *sometimesNothing) Read(p []byte) (int, error) {
	if s.n++; s.n%3 != 0 {
		return 0, nil
	}
	return s.r.Read(p)
}

type never struct{}

func (never) Read([]byte) (int, error) { return 0, nil }

// Cancelling ends a Next that waits for frame memory, and one that waits for input.
func TestCancel(t *testing.T) {
	cause := errors.New("the user has gone")
	b := readFile(t, clip)
	frameBytes := frame.Format{Depth: 8, ChromaW: 1, ChromaH: 1}.Bytes(896, 480)

	t.Run("waiting for memory", func(t *testing.T) {
		pool := frame.NewPool(2 * frameBytes)
		ctx, cancel := context.WithCancelCause(t.Context())
		s, err := Open(ctx, stream(b), Options{Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Media().Free()
		defer s.Close()
		var held []Unit
		defer func() {
			for _, u := range held {
				u.free()
			}
		}()
		time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
		for {
			u, err := s.Next(ctx)
			if err != nil {
				if !errors.Is(err, cause) {
					t.Errorf("got %v, want the cause", err)
				}
				return
			}
			held = append(held, u) // so that memory runs out
		}
	})

	t.Run("waiting for input", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		in := &untilDone{ctx: ctx, r: bytes.NewReader(b[:len(b)/2])}
		s, err := Open(ctx, in, Options{Pool: frame.NewPool(64 << 20)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Media().Free()
		defer s.Close()
		time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
		for {
			u, err := s.Next(ctx)
			if err != nil {
				if !errors.Is(err, cause) {
					t.Errorf("got %v, want the cause", err)
				}
				return
			}
			u.free()
		}
	})

	t.Run("before the start", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if _, err := Open(ctx, stream(b), Options{Pool: frame.NewPool(64 << 20)}); !errors.Is(err, cause) {
			t.Errorf("got %v, want the cause", err)
		}
	})
}

// untilDone blocks at its end until ctx ends, as a network connection that has gone silent does.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != io.EOF {
		return n, err
	}
	<-u.ctx.Done()
	return 0, context.Cause(u.ctx)
}

// Closing in the middle gives everything back.
func TestCloseEarly(t *testing.T) {
	before := av.LiveContexts()
	pool := frame.NewPool(64 << 20)
	s, err := Open(t.Context(), stream(readFile(t, clip)), Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		u, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		u.free()
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Next(t.Context()); err != io.EOF {
		t.Errorf("Next after Close: %v", err)
	}
	s.Media().Free()
	if n := av.LiveContexts(); n != before || pool.InUse() != 0 {
		t.Errorf("%d contexts and %d bytes left", n-before, pool.InUse())
	}
}
