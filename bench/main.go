// Bench measures the whole line (sr-client and a private sr-server, files in and out), the network alone, and each stage alone on
// the same frames, in turn, and prints where a frame's time goes.
//
//	make bench
//	go run ./bench -clip video.mp4 -models m -rounds 5
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
	"slices"
	"strings"
	"time"

	"upscaler/bench/machine"
	"upscaler/decode"
	"upscaler/encode"
	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/models"
	"upscaler/sr"
	"upscaler/sr/native"
	"upscaler/sr/onnx"
)

// The job that is measured, but for the model.
const (
	scale  = 2
	preset = "veryfast"
)

func main() {
	log.SetFlags(0)
	clip := flag.String("clip", "testdata/big-buck-bunny-3s.mp4", "video to measure with")
	size := flag.String("size", "640x360", "size the video is brought to first")
	rounds := flag.Int("rounds", 3, "rounds; the medians are printed")
	frames := flag.Int("frames", 96, "frames to upscale; a shorter video is repeated")
	names := flag.String("models", "s,m", "models or tiers, separated by commas")
	flag.Parse()
	if err := run(*clip, *size, *rounds, *frames, strings.Split(*names, ",")); err != nil {
		log.Fatal("bench: ", err)
	}
}

func run(clip, size string, rounds, frames int, names []string) error {
	dir, err := os.MkdirTemp("", "upscaler-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	in := filepath.Join(dir, "in.mp4")
	prepare := exec.Command("ffmpeg", "-v", "error", "-y", "-stream_loop", "-1", "-i", clip, "-frames:v", fmt.Sprint(frames), "-an",
		"-vf", "scale="+strings.Replace(size, "x", ":", 1)+":flags=bicubic", "-c:v", "libx264", "-crf", "20", "-movflags", "+faststart", in)
	if out, err := prepare.CombinedOutput(); err != nil {
		return fmt.Errorf("prepare the clip: %w: %s", err, out)
	}
	b, err := newBench(in)
	if err != nil {
		return err
	}
	defer b.close()
	fmt.Printf("%s; %d frames of %s upscaled by %d, H.264 in, H.264 (%s) out; medians of %d rounds\n", machine.Name(), len(b.frames), size,
		scale, preset, rounds)
	for _, name := range names {
		var all []result
		for round := range rounds + 1 {
			r, err := b.round(name, filepath.Join(dir, "out.mp4"))
			if err != nil {
				return err
			}
			if round > 0 { // the first only warms caches
				all = append(all, r)
			}
		}
		b.print(all)
	}
	return nil
}

// bench is a video, and what it takes to send it through each stage alone.
type bench struct {
	path      string
	scheduler *sr.Scheduler
	lanes     int
	source    *decode.Source
	frames    []*frame.Frame // all of the video
	planes    []*frame.Frame // their luma upscaled
}

const memory = 4 << 30 // more than a clip needs

func newBench(path string) (*bench, error) {
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		return nil, err
	}
	cpu, err := onnx.OpenCPU(onnx.CPUOptions{})
	if err != nil {
		return nil, err
	}
	engine := native.NewEngine(native.Options{Other: cpu})
	b := &bench{path: path, lanes: engine.Lanes().Count}
	if b.scheduler, err = sr.New(sr.Config{Models: files, Engines: []sr.Engine{engine}}); err != nil {
		return nil, err
	}
	ctx, planes := context.Background(), frame.NewPool(memory)
	b.source, err = decoded(path, frame.NewPool(memory), func(f *frame.Frame) { b.frames = append(b.frames, f) })
	if err != nil {
		return nil, err
	}
	for _, f := range b.frames {
		p, err := planes.Get(ctx, frame.Format{Depth: f.Format.Depth, Gray: true}, f.Width*scale, f.Height*scale)
		if err != nil {
			return nil, err
		}
		b.planes = append(b.planes, p)
	}
	return b, nil
}

func (b *bench) close() {
	b.scheduler.Close()
	closeSource(b.source)
}

// result is what one round has measured. Times are of all frames.
type result struct {
	model                                            string
	network                                          time.Duration // the network alone
	whole                                            time.Duration // a job as the server's summary tells it
	decode, upscale, encode                          time.Duration // how long its stages worked
	cpuDecode, cpuNetwork, cpuChroma, cpuEncode, cpu time.Duration // processor time: of each stage alone, and of both programs
	cpuStart                                         time.Duration // of both programs before the first frame
}

func (b *bench) round(name, out string) (result, error) {
	var r result
	for _, stage := range []func() error{
		func() error {
			return measured(&r.cpuDecode, nil, func() error {
				source, err := decoded(b.path, frame.NewPool(memory), (*frame.Frame).Release)
				closeSource(source)
				return err
			})
		},
		func() error {
			job, err := b.scheduler.Open(context.Background(), sr.Spec{Scale: scale, Model: name})
			if err != nil {
				return err
			}
			defer job.Close()
			r.model = job.Model().Name
			return measured(&r.cpuNetwork, &r.network, func() error { return b.upscale(job) })
		},
		func() error { return measured(&r.cpuChroma, nil, b.chroma) },
		func() error { return measured(&r.cpuEncode, nil, b.encode) },
		func() (err error) {
			r.cpuStart, err = clientRun(nil, "probe", b.path, "--private", "--model", name)
			return err
		},
		func() error { return b.job(&r, name, out) },
	} {
		if err := stage(); err != nil {
			return r, err
		}
	}
	return r, nil
}

// measured runs do and tells how much processor time and time it took.
func measured(processor, took *time.Duration, do func() error) error {
	begin, before := time.Now(), machine.Processor()
	err := do()
	*processor = machine.Processor() - before
	if took != nil {
		*took = time.Since(begin)
	}
	return err
}

// decoded gives each frame of a video to take.
func decoded(path string, pool *frame.Pool, take func(*frame.Frame)) (*decode.Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	src, err := decode.Open(context.Background(), f, decode.Options{Pool: pool})
	if err != nil {
		return nil, err
	}
	for {
		unit, err := src.Next(context.Background())
		switch {
		case errors.Is(err, io.EOF):
			return src, nil
		case err != nil:
			closeSource(src)
			return nil, err
		case unit.Frame != nil:
			take(unit.Frame)
		default:
			unit.Packet.Free()
		}
	}
}

func closeSource(src *decode.Source) {
	if src != nil {
		m := src.Media()
		src.Close()
		m.Free()
	}
}

// upscale sends all frames through the network as fast as the scheduler takes them.
func (b *bench) upscale(job *sr.Job) error {
	ctx := context.Background()
	var tickets []*sr.Ticket
	for i, f := range b.frames {
		t, err := job.Submit(ctx, f.Luma(), b.planes[i].Luma())
		if err != nil {
			return err
		}
		tickets = append(tickets, t)
	}
	for _, t := range tickets {
		if err := t.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// chroma scales the chroma planes of all frames.
func (b *bench) chroma() error {
	m := b.source.Media()
	s, err := av.NewBufferedScaler(m.Working, m.Width, m.Height, scale, m.Color.ChromaLocation)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, f := range b.frames {
		if _, err := s.Scale(f); err != nil {
			return err
		}
	}
	return nil
}

// encode completes and encodes all frames.
func (b *bench) encode() error {
	ctx, m := context.Background(), b.source.Media()
	options := encode.Options{Container: encode.ContainerMP4, Codec: encode.CodecH264, Preset: preset, Scale: scale, Seekable: true}
	plan, err := encode.Plan(m, options)
	if err != nil {
		return err
	}
	sink, err := encode.Open(ctx, nowhere{}, m, plan, options)
	if err != nil {
		return err
	}
	defer sink.Close()
	for i, f := range b.frames {
		if err := sink.WriteFrame(ctx, f, b.planes[i].Luma()); err != nil {
			return err
		}
	}
	return sink.Finish(ctx)
}

// nowhere is an output that forgets.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// job runs sr-client with a private server, as a user does.
func (b *bench) job(r *result, name, out string) (err error) {
	var summary struct {
		Elapsed string `json:"elapsed"`
		Stages  struct{ Decode, Upscale, Encode string }
	}
	r.cpu, err = clientRun(&summary, "upscale", b.path, "-o", out, "--overwrite", "--json", "--codec", "h264", "--preset", preset, "--private",
		"--model", name)
	if err != nil {
		return err
	}
	for to, text := range map[*time.Duration]string{&r.whole: summary.Elapsed, &r.decode: summary.Stages.Decode,
		&r.upscale: summary.Stages.Upscale, &r.encode: summary.Stages.Encode} {
		if *to, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("the summary's times: %w", err)
		}
	}
	return nil
}

// clientRun runs sr-client to its end, reads the summary it prints, and returns the processor time of it and of its server.
func clientRun(summary any, args ...string) (time.Duration, error) {
	cmd := exec.Command("bin/sr-client", args...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("sr-client %s: %w", args[0], err)
	}
	processor := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if summary == nil {
		return processor, nil
	}
	for line := range strings.Lines(string(stdout)) {
		event := struct {
			Summary json.RawMessage `json:"summary"`
		}{}
		if json.Unmarshal([]byte(line), &event) == nil && event.Summary != nil {
			return processor, json.Unmarshal(event.Summary, summary)
		}
	}
	return 0, fmt.Errorf("sr-client %s printed no summary:\n%s", args[0], stdout)
}

// print prints a model's table.
func (b *bench) print(all []result) {
	// median is that of what f returns, in milliseconds a frame.
	median := func(f func(result) time.Duration) float64 {
		var v []time.Duration
		for _, r := range all {
			v = append(v, f(r))
		}
		slices.Sort(v)
		return v[len(v)/2].Seconds() * 1e3 / float64(len(b.frames))
	}
	lanes := time.Duration(b.lanes)
	whole := median(func(r result) time.Duration { return r.whole })
	processor := median(func(r result) time.Duration { return r.cpu - r.cpuStart })
	fmt.Printf("\n%s: %.1f frames a second end to end, %.1f of the network alone\n\n", all[0].model, 1e3/whole,
		1e3/median(func(r result) time.Duration { return r.network }))
	fmt.Printf("| milliseconds a frame | processor | share | works | waits | for |\n|---|---|---|---|---|---|\n")
	row := func(name string, cpu, works func(result) time.Duration, waitsFor string) {
		c := median(cpu)
		fmt.Printf("| %s | %.2f | %.0f %% |", name, c, 100*c/processor)
		if works == nil {
			fmt.Printf(" | | |\n")
			return
		}
		fmt.Printf(" %.1f | %.1f | %s |\n", median(works), median(func(r result) time.Duration { return r.whole - works(r) }), waitsFor)
	}
	row("demux, decode", func(r result) time.Duration { return r.cpuDecode }, func(r result) time.Duration { return r.decode },
		"input, room before the network")
	row(fmt.Sprintf("network, %d lanes", lanes), func(r result) time.Duration { return r.cpuNetwork },
		func(r result) time.Duration { return r.upscale / lanes }, "frames")
	row("scale chroma", func(r result) time.Duration { return r.cpuChroma }, nil, "")
	row("encode, mux", func(r result) time.Duration { return r.cpuEncode - r.cpuChroma },
		func(r result) time.Duration { return r.encode }, "the network, the client")
	row("transport, files, all else", func(r result) time.Duration {
		return r.cpu - r.cpuStart - r.cpuDecode - r.cpuNetwork - r.cpuEncode
	}, nil, "")
	fmt.Printf("| all | %.2f | 100 %% | %.1f | | |\n", processor, whole)
}
