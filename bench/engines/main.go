// Command engines measures the CPU engines against each other on the same models and the same frame: one thread each, taking
// turns, so that a busy machine is unfair to all alike. It prints a Markdown table.
//
//	go run ./bench/engines -width 640 -height 360 -rounds 9
package main

/*
#cgo CFLAGS: -O3
#include "peak.h"
*/
import "C"

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"upscaler/internal/frame"
	"upscaler/models"
	"upscaler/sr"
	"upscaler/sr/native"
	"upscaler/sr/onnx"
)

// entry is one engine with one model.
type entry struct {
	name  string
	macs  int64 // multiply-adds a pixel; 0: not known
	run   func() error
	times []time.Duration
}

func main() {
	width := flag.Int("width", 640, "frame width")
	height := flag.Int("height", 360, "frame height")
	rounds := flag.Int("rounds", 9, "turns each engine gets")
	only := flag.String("models", "", "only models whose name contains this")
	flag.Parse()
	if err := bench(*width, *height, *rounds, *only); err != nil {
		fmt.Fprintln(os.Stderr, "engines:", err)
		os.Exit(1)
	}
}

func bench(width, height, rounds int, only string) error {
	runtime.LockOSThread() // what is measured is this thread's processor time
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		return err
	}
	ort, err := onnx.OpenCPU(onnx.CPUOptions{Workers: 1})
	if err != nil {
		return err
	}
	src := picture(width, height)
	var entries []*entry
	for _, f := range files {
		if !strings.Contains(f.Name, only) {
			continue
		}
		dst := frame.Plane{
			Data: make([]byte, width*height*f.Scale*f.Scale), Stride: width * f.Scale,
			Width: width * f.Scale, Height: height * f.Scale, Depth: 8,
		}
		if n, err := native.Load(f.Data); err == nil {
			defer n.Close()
			entries = append(entries, &entry{
				name: f.Name + " | native " + n.Path(), macs: n.MultiplyAdds(), run: func() error { return n.Upscale(src, dst) },
			})
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
		entries = append(entries, &entry{name: f.Name + " | " + ort.Name(), run: func() error {
			batch.Load(0, sr.Window{Src: src, Dst: dst})
			err := batch.Infer(1)
			batch.Store(0)
			return err
		}})
	}
	var peak []float64
	for round := range rounds + 1 {
		for _, e := range entries {
			start := threadTime()
			if err := e.run(); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			if round > 0 { // the first turn warms up
				e.times = append(e.times, threadTime()-start)
			}
		}
		if cpu.X86.HasAVX2 {
			start := threadTime()
			n := float64(C.peak_multiply_adds(4_000_000))
			peak = append(peak, n/(threadTime()-start).Seconds()/1e9)
		}
	}
	if len(peak) == 0 {
		peak = []float64{0}
	}
	slices.Sort(peak)
	top := peak[len(peak)/2]
	fmt.Printf("%s, %dx%d, one thread each, processor time, median (least) of %d turns taken in rotation.\n", processor(), width, height, rounds)
	fmt.Printf("vpmaddwd and vpaddd alone, without memory: %.0f billion multiply-adds a second.\n\n", top)
	fmt.Println("| model | engine | ms a frame | least | billion multiply-adds a second | of the instruction's own rate |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, e := range entries {
		slices.Sort(e.times)
		median := e.times[len(e.times)/2]
		rate, share := "", ""
		if e.macs > 0 {
			gmacs := float64(e.macs) * float64(width*height) / median.Seconds() / 1e9
			rate = fmt.Sprintf("%.0f", gmacs)
			if top > 0 { // above 100 % where Winograd's algorithm saves multiply-adds that are counted
				share = fmt.Sprintf("%.0f %%", 100*gmacs/top)
			}
		}
		fmt.Printf("| %s | %.1f | %.1f | %s | %s |\n", e.name, ms(median), ms(e.times[0]), rate, share)
	}
	return ort.Close()
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

// processor returns the processor's name and what instructions it has that matter here.
func processor() string {
	name, flags := "unknown processor", ""
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return name
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		switch strings.TrimSpace(key) {
		case "model name":
			name = strings.TrimSpace(value)
		case "flags":
			for _, flag := range strings.Fields(value) {
				if flag == "avx2" || flag == "avx512_vnni" || flag == "avx_vnni" {
					flags += " " + flag
				}
			}
			return name + " (" + strings.TrimSpace(flags) + ")"
		}
	}
	return name
}
