// Bench measures the whole line and the engine alone on the same video, in turn, and prints a table: frames a second end to
// end (sr-client and sr-server, files in and out), frames a second of the network by itself, and what share of the time is
// not inference.
//
//	make bench
//	go run ./bench -clip video.mp4 -rounds 5
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"upscaler/decode"
	"upscaler/internal/frame"
	"upscaler/models"
	"upscaler/sr"
	"upscaler/sr/native"
	"upscaler/sr/onnx"
)

func main() {
	log.SetFlags(0)
	clip := flag.String("clip", "testdata/big-buck-bunny-3s.mp4", "video to measure with")
	size := flag.String("size", "640x360", "size the video is brought to first")
	rounds := flag.Int("rounds", 3, "rounds; the medians are printed")
	frames := flag.Int("frames", 48, "frames of the video to use")
	model := flag.String("model", "", "model (default: the server's)")
	flag.Parse()
	if err := run(*clip, *size, *rounds, *frames, *model); err != nil {
		log.Fatal("bench: ", err)
	}
}

func run(clip, size string, rounds, frames int, model string) error {
	dir, err := os.MkdirTemp("", "upscaler-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	in := filepath.Join(dir, "in.mp4")
	prepare := exec.Command("ffmpeg", "-v", "error", "-y", "-i", clip, "-frames:v", fmt.Sprint(frames), "-an",
		"-vf", "scale="+strings.Replace(size, "x", ":", 1)+":flags=bicubic", "-c:v", "libx264", "-crf", "20", "-movflags", "+faststart", in)
	if out, err := prepare.CombinedOutput(); err != nil {
		return fmt.Errorf("prepare the clip: %w: %s", err, out)
	}
	planes, err := lumaPlanes(in)
	if err != nil {
		return err
	}

	var engine, whole []float64 // frames a second
	for round := range rounds + 1 {
		e, err := engineAlone(planes, model)
		if err != nil {
			return err
		}
		w, err := endToEnd(in, filepath.Join(dir, "out.mp4"), model)
		if err != nil {
			return err
		}
		if round > 0 { // the first round only warms caches
			engine, whole = append(engine, e), append(whole, w)
		}
	}
	e, w := median(engine), median(whole)
	fmt.Printf("%s, %d cores, %d frames of %s, medians of %d rounds\n\n", machine(), runtime.NumCPU(), len(planes), size, rounds)
	fmt.Printf("| what | frames a second |\n|---|---|\n")
	fmt.Printf("| engine alone | %.2f |\n| end to end, H.264 to H.264 | %.2f |\n", e, w)
	fmt.Printf("| share of the time that is not inference | %.0f %% |\n", 100*(1-w/e))
	return nil
}

// lumaPlanes decodes the whole clip into memory.
func lumaPlanes(path string) ([]*frame.Frame, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const memory = 2 << 30
	src, err := decode.Open(context.Background(), f, decode.Options{Pool: frame.NewPool(memory)})
	if err != nil {
		return nil, err
	}
	defer src.Media().Free()
	defer src.Close()
	var frames []*frame.Frame
	for {
		unit, err := src.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			return nil, err
		}
		if unit.Frame != nil {
			frames = append(frames, unit.Frame)
		} else {
			unit.Packet.Free()
		}
	}
}

// engineAlone upscales the planes as fast as the scheduler takes them and returns frames a second.
func engineAlone(frames []*frame.Frame, model string) (float64, error) {
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		return 0, err
	}
	cpu, err := onnx.OpenCPU(onnx.CPUOptions{})
	if err != nil {
		return 0, err
	}
	s, err := sr.New(sr.Config{Models: files, Engines: []sr.Engine{native.NewEngine(native.Options{Other: cpu})}})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	ctx := context.Background()
	job, err := s.Open(ctx, sr.Spec{Scale: 2, Model: model})
	if err != nil {
		return 0, err
	}
	defer job.Close()

	scale := job.Model().Scale
	pool := frame.NewPool(1 << 30)
	begin := time.Now()
	type pending struct {
		dst    *frame.Frame
		ticket *sr.Ticket
	}
	var queue []pending
	finish := func() error {
		p := queue[0]
		queue = queue[1:]
		defer p.dst.Release()
		return p.ticket.Wait(ctx)
	}
	for _, f := range frames {
		dst, err := pool.Get(ctx, frame.Format{Depth: f.Format.Depth, Gray: true}, f.Width*scale, f.Height*scale)
		if err != nil {
			return 0, err
		}
		t, err := job.Submit(ctx, f.Luma(), dst.Luma())
		if err != nil {
			return 0, err
		}
		if queue = append(queue, pending{dst, t}); len(queue) > job.Share(f.Width, f.Height) {
			if err := finish(); err != nil {
				return 0, err
			}
		}
	}
	for len(queue) > 0 {
		if err := finish(); err != nil {
			return 0, err
		}
	}
	return float64(len(frames)) / time.Since(begin).Seconds(), nil
}

// endToEnd runs sr-client with a private server and returns frames a second as the summary tells them: from the job's start,
// without starting the server.
func endToEnd(in, out, model string) (float64, error) {
	args := []string{"upscale", in, "-o", out, "--overwrite", "--json", "--codec", "h264", "--preset", "veryfast", "--private"}
	if model != "" {
		args = append(args, "--model", model)
	}
	cmd := exec.Command("bin/sr-client", args...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("sr-client: %w", err)
	}
	for line := range strings.Lines(string(stdout)) {
		var event struct {
			Summary struct {
				Frames  uint64 `json:"framesEncoded,string"`
				Elapsed string `json:"elapsed"`
			} `json:"summary"`
		}
		if json.Unmarshal([]byte(line), &event) != nil || event.Summary.Frames == 0 {
			continue
		}
		elapsed, err := time.ParseDuration(event.Summary.Elapsed)
		if err != nil {
			return 0, fmt.Errorf("the summary's time: %w", err)
		}
		return float64(event.Summary.Frames) / elapsed.Seconds(), nil
	}
	return 0, fmt.Errorf("sr-client printed no summary:\n%s", stdout)
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

func machine() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
