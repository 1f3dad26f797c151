package live_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"upscaler/live"
)

// drain reads everything that a queue has.
func drain(t *testing.T, q interface {
	Next(context.Context) ([]byte, error)
}) []byte {
	t.Helper()
	var got bytes.Buffer
	for {
		data, err := q.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return got.Bytes()
		}
		if err != nil {
			t.Fatal(err)
		}
		got.Write(data)
	}
}

func transportStream(t *testing.T, args ...string) []byte {
	t.Helper()
	ts, err := ffmpeg(nil, append(args, "-f", "mpegts", "-")...)
	if err != nil {
		t.Fatal(err)
	}
	return ts
}

// TestGOPs writes faster than it reads. What comes out is without gaps within a group of pictures, as every picture decodes to what
// it is in the clip, and there is a count of what is missing.
func TestGOPs(t *testing.T) {
	t.Parallel()
	ts := transportStream(t, "-i", theClip(t), "-t", "8", "-c", "copy")
	all, _ := inspect(t, "pipe:0", ts)
	t.Run("in pieces", func(t *testing.T) {
		var pieces [][]byte
		for i, rest := 0, ts; len(rest) > 0; i++ {
			n := min(len(rest), 1000+i%7*331)
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		testGOPs(t, all, pieces, false)
	})
	t.Run("frame by frame", func(t *testing.T) {
		testGOPs(t, all, frames(ts), true)
	})
}

// frames cuts an MPEG-TS after each video frame.
func frames(ts []byte) (pieces [][]byte) {
	const video = 0x100
	begin, last := 0, 0 // last is where the last packet of video ended
	for i := 0; i+188 <= len(ts); i += 188 {
		if pid := int(ts[i+1]&0x1f)<<8 | int(ts[i+2]); pid == video {
			if ts[i+1]&0x40 != 0 && last > begin {
				pieces, begin = append(pieces, ts[begin:last]), last
			}
			last = i + 188
		}
	}
	return append(pieces, ts[begin:])
}

func testGOPs(t *testing.T, all []piece, pieces [][]byte, whole bool) {
	const limit = 1 << 20
	q := live.NewGOPs(limit)
	var got bytes.Buffer
	most := 0
	for i, p := range pieces {
		if err := q.Write(p); err != nil {
			t.Fatal(err)
		}
		if whole {
			q.Flush()
		}
		_, queued := q.State()
		most = max(most, queued)
		if i%17 == 0 && queued > 0 {
			data, err := q.Next(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			got.Write(data)
		}
	}
	q.End(io.EOF)
	got.Write(drain(t, q))
	dropped, _ := q.State()
	compare(t, got.Bytes(), expected{frames: 30, gaps: true})
	video, _ := inspect(t, "pipe:0", got.Bytes())
	if most > limit || dropped == 0 || len(video)+int(dropped) != len(all) {
		t.Errorf("%d bytes were held; %d frames came out and %d were dropped, of %d", most, len(video), dropped, len(all))
	}
}

// TestGOPsFlush reads each frame before the next one is written, without an end of what it is in.
func TestGOPsFlush(t *testing.T) {
	t.Parallel()
	ts := transportStream(t, "-i", theClip(t), "-t", "2", "-c", "copy")
	q := live.NewGOPs(1 << 20)
	var got bytes.Buffer
	for i, p := range frames(ts) {
		if err := q.Write(p); err != nil {
			t.Fatal(err)
		}
		q.Flush()
		if _, queued := q.State(); queued == 0 {
			t.Fatalf("frame %d waits for what follows it", i)
		}
		for queued := 1; queued > 0; _, queued = q.State() {
			data, err := q.Next(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			got.Write(data)
		}
	}
	q.End(io.EOF)
	got.Write(drain(t, q))
	want, sound := inspect(t, "pipe:0", ts)
	video, audio := inspect(t, "pipe:0", got.Bytes())
	if dropped, _ := q.State(); dropped > 0 || len(video) != len(want) || len(audio) != len(sound) {
		t.Errorf("%d of %d pictures and %d of %d packets of sound came out, %d were dropped", len(video), len(want), len(audio), len(sound), dropped)
	}
}

// TestGOPsRestart gives what a new connection needs: tables and the newest key frame first.
func TestGOPsRestart(t *testing.T) {
	t.Parallel()
	ts := transportStream(t, "-i", theClip(t), "-t", "3", "-c", "copy")
	all, _ := inspect(t, "pipe:0", ts)
	q := live.NewGOPs(len(ts))
	if err := q.Write(ts); err != nil {
		t.Fatal(err)
	}
	first, err := q.Next(context.Background())
	if err != nil || first[1]&0x1f != 0 || first[2] != 0 {
		t.Errorf("it begins with % x, not with a PAT: %v", first[:4], err)
	}
	q.Restart()
	q.End(io.EOF)
	rest := drain(t, q)
	if rest[1]&0x1f != 0 || rest[2] != 0 {
		t.Errorf("it begins anew with % x, not with a PAT", rest[:4])
	}
	video, _ := inspect(t, "pipe:0", rest)
	// One was read; key frames are at most 12 frames apart.
	if dropped, _ := q.State(); len(video) == 0 || len(video) > 12+5 || len(video)+1+int(dropped) != len(all) {
		t.Errorf("%d frames are left and %d dropped, of %d", len(video), dropped, len(all))
	}
	if err := q.Write(ts); err == nil {
		t.Error("written after the end")
	}
}

// TestGOPsWithoutVideo takes every frame of sound for one to begin with.
func TestGOPsWithoutVideo(t *testing.T) {
	t.Parallel()
	ts := transportStream(t, "-i", theClip(t), "-t", "10", "-vn", "-c", "copy")
	q := live.NewGOPs(20 << 10)
	if err := q.Write(ts); err != nil {
		t.Fatal(err)
	}
	q.End(io.EOF)
	if got := drain(t, q); len(got) < 10<<10 || len(got) > 20<<10 {
		t.Errorf("%d bytes came out", len(got))
	}
}

// TestGOPsGarbage has no packets, and packets that lie.
func TestGOPsGarbage(t *testing.T) {
	t.Parallel()
	ts := transportStream(t, "-i", theClip(t), "-t", "1", "-c", "copy")
	seed := uint32(1)
	for range 200 {
		damaged := bytes.Clone(ts[:min(len(ts), 60*188)])
		for range 40 {
			seed = seed*1664525 + 1013904223
			damaged[seed>>8%uint32(len(damaged))] = byte(seed)
		}
		q := live.NewGOPs(100 << 10)
		if err := q.Write(damaged); err != nil {
			t.Fatal(err)
		}
		q.End(io.EOF)
		drain(t, q)
	}
}
