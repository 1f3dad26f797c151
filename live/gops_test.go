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
	const limit = 1 << 20
	q := live.NewGOPs(limit)
	var got bytes.Buffer
	most := 0
	for i := 0; len(ts) > 0; i++ {
		n := min(len(ts), 1000+i%7*331) // packets are written in pieces
		if err := q.Write(ts[:n]); err != nil {
			t.Fatal(err)
		}
		ts = ts[n:]
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
