package decode

import (
	"bytes"
	"context"
	"io"
	"testing"
)

// TestLiveKeepsLittleBack reads a stream that stands still after its bytes: all but the last few frames must come out. What is
// kept back is what the container does not tell the end of.
func TestLiveKeepsLittleBack(t *testing.T) {
	const frames = 60
	for _, c := range []struct{ name, args string }{
		{"mpegts", "-c:v libx264 -tune zerolatency -f mpegts"},
		{"flv", "-c:v libx264 -tune zerolatency -f flv"},
		{"matroska", "-c:v libx264 -tune zerolatency -f matroska -live 1 -cluster_time_limit 1"},
		{"mp4", "-c:v libx264 -tune zerolatency -g 10 -movflags +frag_every_frame+empty_moov+default_base_moof -f mp4"},
		{"hevc", "-c:v libx265 -tune zerolatency -x265-params log-level=none -f mpegts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := readFile(t, generate(t, "live-"+c.name, source("96x64", 25, frames)+" "+c.args))
			r, w := io.Pipe()
			defer r.Close()
			go func() { _, _ = w.Write(data) }() // and says nothing more
			pool := newPool()
			s, err := Open(t.Context(), r, Options{Pool: pool, Live: true, Threads: 2})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { m := s.Media(); s.Close(); m.Free() }()
			const kept = 3 // one each in the demuxer, the parser and, for HEVC, the decoder
			for range frames - kept {
				u, err := s.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				u.free()
			}
		})
	}
}

// TestLike continues an input with others that differ from it.
func TestLike(t *testing.T) {
	first := readFile(t, generate(t, "like-first.ts", source("96x64", 25, 5)+" -c:v libx264 -pix_fmt yuv420p"))
	pool := newPool()
	a, err := Open(t.Context(), bytes.NewReader(first), Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { m := a.Media(); a.Close(); m.Free() }()
	for _, args := range []string{"-s 96x64 -pix_fmt yuv420p", "-s 128x72 -pix_fmt yuv420p", "-s 96x64 -pix_fmt yuv422p10le", "-s 32x32 -pix_fmt gray"} {
		data := readFile(t, generate(t, "like.ts", source("96x64", 25, 5)+" -c:v libx264 "+args))
		b, err := Open(t.Context(), bytes.NewReader(data), Options{Pool: pool, Like: a.Media()})
		if err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		n := 0
		for {
			u, err := b.Next(context.Background())
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", args, err)
			}
			if f := u.Frame; f != nil {
				n++
				if f.Width != 96 || f.Height != 64 || f.Format != a.Media().Working {
					t.Errorf("%s: a frame of %dx%d %+v, want 96x64 %+v", args, f.Width, f.Height, f.Format, a.Media().Working)
				}
			}
			u.free()
		}
		if n != 5 {
			t.Errorf("%s: %d frames, want 5", args, n)
		}
		m := b.Media()
		b.Close()
		m.Free()
	}
}

// TestLiveSoundHasTimes checks that looking at little of a stream does not cost the first packets of sound their times.
func TestLiveSoundHasTimes(t *testing.T) {
	path := generate(t, "live-sound.ts", "-f lavfi -t 4 -i sine -f lavfi -t 4 -i testsrc2=size=96x64:rate=25 -c:v libx264 -tune zerolatency -c:a aac")
	s, err := Open(t.Context(), stream(readFile(t, path)), Options{Pool: newPool(), Live: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { m := s.Media(); s.Close(); m.Free() }()
	s.time.note = func() { t.Error("times were repaired") }
	for {
		u, err := s.Next(t.Context())
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		u.free()
	}
}

// TestSkipUnreferenced leaves out the pictures that no other is built upon, and takes them again.
func TestSkipUnreferenced(t *testing.T) {
	path := generate(t, "bframes.ts", source("96x64", 25, 120)+" -c:v libx264 -bf 2 -x264-params b-pyramid=none:b-adapt=0 -g 250")
	s, err := Open(t.Context(), stream(readFile(t, path)), Options{Pool: newPool(), Live: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { m := s.Media(); s.Close(); m.Free() }()
	s.SkipUnreferenced(true)
	n := 0
	for s.Stats().VideoPackets < 60 || n == 0 {
		u, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n++
		u.free()
	}
	if n > 30 {
		t.Errorf("%d frames of the first 60, want a third of them", n)
	}
	s.SkipUnreferenced(false)
	n = 0
	for {
		u, err := s.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
		u.free()
	}
	if n < 50 {
		t.Errorf("%d frames of the last 60, want all", n)
	}
}
