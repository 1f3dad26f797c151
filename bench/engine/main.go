// Command engine measures the upscaling engine alone, without decoding and encoding: frames a second by model and frame size, on
// every device that this machine has, as a Markdown table.
//
//	go run ./bench/engine -time 3s -sizes 640x360,1920x1080
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"upscaler/bench/machine"
	"upscaler/internal/frame"
	"upscaler/models"
	"upscaler/sr"
	"upscaler/sr/native"
	"upscaler/sr/onnx"
)

func main() {
	long := flag.Duration("time", 3*time.Second, "how long each line is measured")
	sizes := flag.String("sizes", "640x360,1280x720,1920x1080", "frame sizes, separated by commas")
	only := flag.String("model", "", "measure only models whose names contain this")
	workers := flag.Int("workers", 0, "frames side by side on the CPU (0: one a core)")
	library := flag.String("onnxruntime", "", "path of libonnxruntime.so (empty: where the server looks)")
	flag.Parse()
	if err := run(os.Stdout, *long, strings.Split(*sizes, ","), *only, *workers, *library); err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, long time.Duration, sizes []string, only string, workers int, library string) error {
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		return err
	}
	engines, missing, err := onnx.OpenAll(onnx.Options{
		CPU: onnx.CPUOptions{Library: library, Workers: workers}, CUDA: onnx.CUDAOptions{Library: library},
	})
	if err != nil {
		return err
	}
	engines[0] = native.NewEngine(native.Options{Workers: workers, Other: engines[0]}) // the CPU, as the server has it
	s, err := sr.New(sr.Config{Models: files, Engines: engines, Missing: missing})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Fprint(out, machine.Name())
	for _, e := range s.Stats().Engines {
		fmt.Fprintf(out, "; %s", e.Name)
	}
	fmt.Fprint(out, "\n\n| model | device | input | depth | frames/s | megapixels/s | not inference |\n|---|---|---|---|---|---|---|\n")
	for _, dev := range s.Devices() {
		for _, m := range s.Models() {
			if !strings.Contains(m.Name, only) {
				continue
			}
			for _, size := range sizes {
				var w, h int
				if n, err := fmt.Sscanf(size, "%dx%d", &w, &h); n != 2 || err != nil || w < 1 || h < 1 {
					return fmt.Errorf("%q is not a size such as 640x360", size)
				}
				for _, depth := range []int{8, 10} {
					r, err := measure(s, m, dev, w, h, depth, long)
					if err != nil {
						return err
					}
					fmt.Fprintf(out, "| %s | %s | %s | %d | %.2f | %.2f | %.1f %% |\n",
						m.Name, dev, size, depth, r.fps, r.fps*float64(w*h)/1e6, 100*r.idle)
				}
			}
		}
	}
	return nil
}

type result struct {
	fps  float64
	idle float64 // share of the lanes' time that is not inference
}

// measure keeps a job's share of frames in flight, each different from the one before, until long has passed.
func measure(s *sr.Scheduler, m sr.Model, dev sr.Device, w, h, depth int, long time.Duration) (result, error) {
	ctx := context.Background()
	j, err := s.Open(ctx, sr.Spec{Scale: m.Scale, Model: m.Name, Device: dev})
	if err != nil {
		return result{}, err
	}
	defer j.Close()
	n := j.Share(w, h) + 1
	srcs, dsts := make([]frame.Plane, n), make([]frame.Plane, n)
	for i := range n {
		srcs[i], dsts[i] = plane(w, h, depth), plane(w*m.Scale, h*m.Scale, depth)
		r := rand.New(rand.NewPCG(uint64(i), 0))
		for k := range srcs[i].Data {
			srcs[i].Data[k] = byte(r.Uint32()) & 3 // any values do: the network's time does not depend on them
		}
	}
	lanes := 1
	for _, e := range s.Stats().Engines {
		if e.Device == dev {
			lanes = e.Lanes
		}
	}
	f := &flight{job: j, srcs: srcs, dsts: dsts}
	for range n { // pays for memory and threads
		if err := f.submit(ctx); err != nil {
			return result{}, err
		}
	}
	if err := f.land(ctx); err != nil {
		return result{}, err
	}
	start, busy, frames := time.Now(), j.Stats().Busy, 0
	for time.Since(start) < long {
		if err := f.submit(ctx); err != nil {
			return result{}, err
		}
		frames++
	}
	if err := f.land(ctx); err != nil {
		return result{}, err
	}
	took := time.Since(start).Seconds()
	used := (j.Stats().Busy - busy).Seconds()
	return result{fps: float64(frames) / took, idle: max(0, 1-used/(took*float64(lanes)))}, nil
}

// flight keeps as many frames in flight as it has planes.
type flight struct {
	job        *sr.Job
	srcs, dsts []frame.Plane
	next       int
	tickets    []*sr.Ticket
}

// submit begins the next frame, when all planes are in use after the oldest is finished.
func (f *flight) submit(ctx context.Context) error {
	if len(f.tickets) == len(f.srcs) {
		if err := f.tickets[0].Wait(ctx); err != nil {
			return err
		}
		f.tickets = f.tickets[1:]
	}
	t, err := f.job.Submit(ctx, f.srcs[f.next], f.dsts[f.next])
	f.tickets, f.next = append(f.tickets, t), (f.next+1)%len(f.srcs)
	return err
}

// land waits for all frames in flight.
func (f *flight) land(ctx context.Context) error {
	for _, t := range f.tickets {
		if err := t.Wait(ctx); err != nil {
			return err
		}
	}
	f.tickets = nil
	return nil
}

func plane(w, h, depth int) frame.Plane {
	bytes := 1
	if depth > 8 {
		bytes = 2
	}
	return frame.Plane{Data: make([]byte, w*h*bytes), Stride: w * bytes, Width: w, Height: h, Depth: depth}
}
