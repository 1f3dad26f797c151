package native

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"upscaler/internal/frame"
	"upscaler/sr"
)

// scheduled returns a job of a scheduler with this engine alone.
func scheduled(t testing.TB, data []byte, workers int, live bool) *sr.Job {
	t.Helper()
	n, err := Load(data)
	if err != nil {
		t.Fatal(err)
	}
	m := sr.Model{Name: "test", Scale: n.Scale(), Halo: n.Radius(), Precision: "int8"}
	n.Close()
	s, err := sr.New(sr.Config{
		Models: []sr.File{{Model: m, Data: data}}, Engines: []sr.Engine{NewEngine(Options{Workers: workers})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	j, err := s.Open(context.Background(), sr.Spec{Scale: m.Scale, Live: live})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func upscaled(t testing.TB, j *sr.Job, src, dst frame.Plane) {
	t.Helper()
	ticket, err := j.Submit(context.Background(), src, dst)
	if err != nil {
		t.Fatal(err)
	}
	if err := ticket.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestBandsInTheScheduler upscales pictures of which some rows change, with what did not change taken over and with lanes that share
// a frame: the result is what each whole picture alone gives.
func TestBandsInTheScheduler(t *testing.T) {
	for name, data := range testModels(t) {
		for _, live := range []bool{false, true} {
			n, err := Load(data)
			if err != nil {
				t.Fatal(err)
			}
			j := scheduled(t, data, 2, live)
			rng := rand.New(rand.NewPCG(9, 9))
			s := n.Scale()
			const width, height = 21, 213 // two parts, of an odd number of rows
			for _, depth := range []int{8, 10} {
				src := newPlane(width, height, depth)
				noise(src, rng)
				for i, rows := range [][]int{nil, {100}, {0}, {212}, {40, 41, 150}, {}, {60, 70}} {
					for _, y := range rows {
						src.Data[y*src.Stride+rng.IntN(width)*(src.Stride/width)] ^= 1
					}
					got, want := newPlane(width*s, height*s, depth), newPlane(width*s, height*s, depth)
					upscaled(t, j, src, got)
					if err := n.Upscale(src, want); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got.Data, want.Data) {
						t.Errorf("%s, live %v, %d bits: picture %d differs", name, live, depth, i)
					}
				}
			}
			if st := j.Stats(); st.PixelsReused < st.Pixels/3 || st.Reused != 2 {
				t.Errorf("%s, live %v: of %d pixels %d were taken over, of %d frames %d", name, live, st.Pixels, st.PixelsReused, st.Frames, st.Reused)
			}
			n.Close()
		}
	}
}

// BenchmarkLatency measures how long a frame of 640x360 takes that comes alone, with one lane and with two that share it, in turn.
func BenchmarkLatency(b *testing.B) {
	data := testModels(b)["lmswn-s-x2-video-int8.onnx"]
	jobs := []*sr.Job{scheduled(b, data, 1, true), scheduled(b, data, 2, true)}
	times := make([][]time.Duration, len(jobs))
	src, dst := newPlane(640, 360, 8), newPlane(1280, 720, 8)
	rng := rand.New(rand.NewPCG(1, 1))
	for b.Loop() {
		noise(src, rng)
		for i, j := range jobs {
			start := time.Now()
			upscaled(b, j, src, dst)
			times[i] = append(times[i], time.Since(start))
		}
	}
	b.ReportMetric(median(times[0]), "ms/frame-1-lane")
	b.ReportMetric(median(times[1]), "ms/frame-2-lanes")
}

// BenchmarkStillBackground measures frames of 640x360 of which 64 rows change, taken over what does not and computed whole, in turn.
func BenchmarkStillBackground(b *testing.B) {
	data := testModels(b)["lmswn-s-x2-video-int8.onnx"]
	jobs := []*sr.Job{scheduled(b, data, 1, false), scheduled(b, data, 1, false)}
	times := make([][]time.Duration, len(jobs))
	src, dst := newPlane(640, 360, 8), newPlane(1280, 720, 8)
	rng := rand.New(rand.NewPCG(1, 1))
	noise(src, rng)
	for b.Loop() {
		band := frame.Plane{Data: src.Data[200*src.Stride:], Stride: src.Stride, Width: src.Width, Height: 64, Depth: 8}
		noise(band, rng)
		jobs[1].Forget()
		for i, j := range jobs {
			start := time.Now()
			upscaled(b, j, src, dst)
			times[i] = append(times[i], time.Since(start))
		}
	}
	b.ReportMetric(median(times[0]), "ms/frame-64-rows")
	b.ReportMetric(median(times[1]), "ms/frame-whole")
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return d[len(d)/2].Seconds() * 1e3
}
