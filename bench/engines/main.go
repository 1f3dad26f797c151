// Command engines measures the CPU engines against each other on the same models and the same frame: one thread each, taking
// turns, so that a busy machine is unfair to all alike. It prints a page of Markdown.
//
//	go run ./bench/engines -width 640 -height 360 -rounds 9
//
// With -peers PYTHON it measures OpenVINO and ncnn too, in a Python that has the packages of requirements.txt; `make
// bench-engines` makes one and writes docs/engines.md.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"upscaler/bench/machine"
	"upscaler/internal/frame"
	"upscaler/models"
	"upscaler/sr"
	"upscaler/sr/native"
	"upscaler/sr/onnx"
)

// entry is one engine with one model.
type entry struct {
	model, engine string
	path          string // of the native engine; empty: another engine
	result        []byte // luma, once it ran
	run           func() (time.Duration, error)
	times         []time.Duration
}

// shape is what decides how much a network computes.
type shape struct {
	tier  string
	scale int
}

func shapeOf(f sr.File) shape { return shape{f.Tier, f.Scale} }

func (e *entry) median() time.Duration { return e.times[len(e.times)/2] }

func main() {
	width := flag.Int("width", 640, "frame width")
	height := flag.Int("height", 360, "frame height")
	rounds := flag.Int("rounds", 9, "turns each engine gets")
	only := flag.String("models", "", "only models whose name contains this")
	python := flag.String("peers", "", "a Python that has the packages of requirements.txt; empty: no peers")
	out := flag.String("out", "", "file to write to; empty: standard output")
	flag.Parse()
	if err := bench(*width, *height, *rounds, *only, *python, *out); err != nil {
		fmt.Fprintln(os.Stderr, "engines:", err)
		os.Exit(1)
	}
}

func bench(width, height, rounds int, only, python, out string) error {
	runtime.LockOSThread() // what is measured is this thread's processor time
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f sr.File) bool { return !strings.Contains(f.Name, only) })
	ort, err := onnx.OpenCPU(onnx.CPUOptions{Workers: 1})
	if err != nil {
		return err
	}
	src := picture(width, height)
	var entries []*entry
	var broken []*layers
	multiplyAdds := map[shape]int64{} // a pixel: float32 and int8 are the same network
	for _, f := range files {
		dst := frame.Plane{
			Data: make([]byte, width*height*f.Scale*f.Scale), Stride: width * f.Scale,
			Width: width * f.Scale, Height: height * f.Scale, Depth: 8,
		}
		for _, path := range vectorPaths() {
			n, err := native.Load(f.Data)
			if err != nil {
				break // a float model
			}
			defer n.Close()
			if err := n.UsePath(path); err != nil {
				return err
			}
			multiplyAdds[shapeOf(f)] = n.MultiplyAdds()
			e := here(f.Name, "ours, "+path, dst, func(dst frame.Plane) error { return n.Upscale(src, dst) })
			e.path = path
			entries = append(entries, e)
			if path == vectorPaths()[0] && !slices.ContainsFunc(broken, func(b *layers) bool { return b.file.Tier == f.Tier }) {
				broken = append(broken, &layers{file: f, path: path, run: func() ([]native.Layer, error) { return n.Layers(src, dst) }})
			}
		}
		net, err := ort.Open(f)
		if err != nil {
			return err
		}
		defer net.Close()
		batch, err := net.NewBatch(width, height, 1, 1)
		if err != nil {
			return err
		}
		defer batch.Close()
		entries = append(entries, here(f.Name, "ONNX Runtime "+onnx.Version(), dst, func(dst frame.Plane) error {
			batch.Load(0, sr.Window{Src: src, Dst: dst})
			err := batch.Infer(1)
			batch.Store(0)
			return err
		}))
	}
	var missing []string
	if python != "" {
		p, err := startPeers(python, src, files)
		if err != nil {
			return err
		}
		defer p.close()
		missing = p.Missing
		for i, e := range p.Engines {
			result, err := os.ReadFile(e.Output)
			if err != nil {
				return err
			}
			entries = append(entries, &entry{model: e.Model, engine: e.Engine, result: result,
				run: func() (time.Duration, error) { return p.run(i) }})
		}
	}
	peaks, err := measure(entries, broken, rounds)
	if err != nil {
		return err
	}
	var page strings.Builder
	fmt.Fprintf(&page, "# The engines side by side\n\n")
	fmt.Fprintf(&page, "%s, %s. Luma of %dx%d, one thread each, processor time, %d turns taken in rotation. Written by `make bench-engines`.\n\n",
		machine.Name(), time.Now().UTC().Format(time.DateOnly), width, height, rounds)
	fmt.Fprintf(&page, "The processor time of a thread counts its own work only; beside it there was other work on the machine (load average %s). "+
		"Ours and ONNX Runtime turn 8-bit samples into their own and back within the time; OpenVINO and ncnn get and give float32.\n\n",
		loadAverage())
	peaks.write(&page)
	for _, f := range files {
		table(&page, f, entries, float64(multiplyAdds[shapeOf(f)])*float64(width*height)/1e9, peaks)
	}
	for _, b := range broken {
		b.write(&page, width*height, peaks)
	}
	if len(missing) > 0 {
		fmt.Fprintf(&page, "Not measured:\n\n")
		for _, m := range missing {
			fmt.Fprintf(&page, "- %s\n", m)
		}
	}
	if out != "" {
		err = os.WriteFile(out, []byte(page.String()), 0o644)
	} else {
		_, err = fmt.Print(page.String())
	}
	if err != nil {
		return err
	}
	return ort.Close()
}

// here returns an entry that runs in this program, on this thread.
func here(model, engine string, dst frame.Plane, run func(dst frame.Plane) error) *entry {
	dst.Data = make([]byte, len(dst.Data))
	return &entry{model: model, engine: engine, result: dst.Data, run: func() (time.Duration, error) {
		start := threadTime()
		err := run(dst)
		return threadTime() - start, err
	}}
}

// measure gives each entry its turns and returns how fast the instructions alone are.
func measure(entries []*entry, broken []*layers, rounds int) (peaks, error) {
	rates := map[string][]float64{}
	for round := range rounds + 1 {
		for _, e := range entries {
			took, err := e.run()
			if err != nil {
				return nil, fmt.Errorf("%s with %s: %w", e.engine, e.model, err)
			}
			if round > 0 { // the first turn warms up
				e.times = append(e.times, took)
			}
		}
		for _, b := range broken {
			if err := b.turn(); err != nil {
				return nil, err
			}
		}
		for _, path := range vectorPaths() {
			rates[path] = append(rates[path], instructionRate(path))
		}
	}
	for _, e := range entries {
		slices.Sort(e.times)
	}
	top := peaks{}
	for path, r := range rates {
		slices.Sort(r)
		top[path] = r[len(r)/2]
	}
	return top, nil
}

// table writes what the engines did with one model. gmacs is what it takes in billion multiply-adds a frame, 0 if not known.
func table(page io.Writer, f sr.File, entries []*entry, gmacs float64, top peaks) {
	var judge *entry
	for _, e := range entries {
		if e.model == f.Name && strings.HasPrefix(e.engine, "ONNX Runtime") {
			judge = e
		}
	}
	fmt.Fprintf(page, "## %s (%s)\n\n", f.Name, f.Precision)
	fmt.Fprintln(page, "| engine | ms a frame (median) | least | speed against ONNX Runtime | billion multiply-adds a second | of the instruction's own rate | samples unlike ONNX Runtime's |")
	fmt.Fprintln(page, "|---|---|---|---|---|---|---|")
	for _, e := range entries {
		if e.model != f.Name {
			continue
		}
		rate, share := "", ""
		if gmacs > 0 {
			r := gmacs / e.median().Seconds()
			rate = fmt.Sprintf("%.0f", r)
			if strings.HasPrefix(f.Precision, "int8") { // the instructions are integer ones
				share = top.share(r, e.path)
			}
		}
		fmt.Fprintf(page, "| %s | %.1f | %.1f | %.2f | %s | %s | %s |\n", e.engine, ms(e.median()), ms(e.times[0]),
			judge.median().Seconds()/e.median().Seconds(), rate, share, differences(e.result, judge.result))
	}
	fmt.Fprintln(page)
}

// differences tells how many samples differ, and by how much at most.
func differences(a, b []byte) string {
	if len(a) != len(b) {
		return "another size"
	}
	count, most := 0, 0
	for i := range a {
		if d := int(a[i]) - int(b[i]); d != 0 {
			count++
			most = max(most, d, -d)
		}
	}
	if count == 0 {
		return "none"
	}
	return fmt.Sprintf("%.2g %%, by at most %d", 100*float64(count)/float64(len(a)), most)
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// threadTime returns the processor time that the calling thread has used: other programs' turns on the core do not count.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // Linux always has this clock
	}
	return time.Duration(t.Nano())
}

// picture returns slopes with edges and some grain.
func picture(width, height int) frame.Plane {
	p := frame.Plane{Data: make([]byte, width*height), Stride: width, Width: width, Height: height, Depth: 8}
	for i := range p.Data {
		x, y := i%width, i/width
		v := (x + y) * 200 / (width + height)
		if (x/9+y/13)%4 == 0 {
			v = 230 - v
		}
		p.Data[i] = byte(v + i*i%7)
	}
	return p
}

// loadAverage returns how many threads wanted to run over the last minute.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}
