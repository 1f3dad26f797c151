package main

/*
#cgo CFLAGS: -O3
#include <stdlib.h>
#include "peak.h"
*/
import "C"

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unsafe"

	"upscaler/sr"
	"upscaler/sr/native"
)

// instructions says what each path of the native engine multiplies and adds with.
var instructions = map[string]string{
	"avx512vnni": "vpdpbusd of 512 bits",
	"avxvnni":    "vpdpbusd of 256 bits",
	"avx2":       "vpmaddwd and vpaddd of 256 bits",
}

// vectorPaths returns the native engine's paths on this CPU whose instructions are known here, the fastest first.
func vectorPaths() []string {
	return slices.DeleteFunc(native.Paths(), func(path string) bool { return instructions[path] == "" })
}

// instructionRate returns how many billion multiply-adds a second a path's instructions do on registers alone.
func instructionRate(path string) float64 {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	start := threadTime()
	n := float64(C.peak_multiply_adds(name, 4_000_000))
	return n / (threadTime() - start).Seconds() / 1e9
}

// peaks are the rates of the paths' instructions, in billion multiply-adds a second.
type peaks map[string]float64

// share returns what part of a path's own rate a rate is; for other engines, of the fastest path's.
func (p peaks) share(rate float64, path string) string {
	if path == "" && len(vectorPaths()) > 0 {
		path = vectorPaths()[0]
	}
	if p[path] == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f %%", 100*rate/p[path])
}

func (p peaks) write(page io.Writer) {
	if len(p) == 0 {
		return
	}
	var each []string
	for _, path := range vectorPaths() {
		each = append(each, fmt.Sprintf("%s (%s) %.0f", instructions[path], path, p[path]))
	}
	fmt.Fprintf(page, "The instructions alone, without memory, in billion multiply-adds a second: %s. Shares below are of the path's own, for "+
		"other engines of the first one's. avx2 can exceed it, as Winograd's algorithm saves multiply-adds that are counted.\n\n",
		strings.Join(each, ", "))
}

// layers are the turns of one network, its layers' times taken apart.
type layers struct {
	file  sr.File
	path  string
	run   func() ([]native.Layer, error)
	turns [][]native.Layer
}

// turn runs the network a few times: the clock goes on while other programs use the core, so it takes more turns than processor time does.
func (l *layers) turn() error {
	for range 3 {
		one, err := l.run()
		if err != nil {
			return err
		}
		l.turns = append(l.turns, one)
	}
	return nil
}

// kind is what layers of one shape have in common.
type kind struct{ kernel, in, out int }

func (k kind) String() string {
	if k.kernel == 0 {
		return "samples to bytes"
	}
	return fmt.Sprintf("%dx%d, %d to %d", k.kernel, k.kernel, k.in, k.out)
}

// cost is what layers took in all: time, and billion multiply-adds.
type cost struct {
	layers int
	time   time.Duration
	gmacs  float64
}

func (c *cost) add(d cost) {
	c.layers += d.layers
	c.time += d.time
	c.gmacs += d.gmacs
}

// write prints the time of each kind of layer: each layer's lower quartile, which other programs disturb less than the median.
func (l *layers) write(page io.Writer, pixels int, top peaks) {
	var kinds []kind
	costs, all, square := map[kind]*cost{}, cost{}, cost{}
	for i, layer := range l.turns[0] {
		var times []time.Duration
		for _, t := range l.turns {
			times = append(times, t[i].Time)
		}
		slices.Sort(times)
		k := kind{layer.Kernel, layer.In, layer.Out}
		if costs[k] == nil {
			kinds, costs[k] = append(kinds, k), &cost{}
		}
		c := cost{1, times[len(times)/4], float64(layer.MultiplyAdds) * float64(pixels) / 1e9}
		costs[k].add(c)
		all.add(c)
		if k.kernel == 3 {
			square.add(c)
		}
	}
	fmt.Fprintf(page, "## Layers of %s, %s\n\n", l.file.Name, l.path)
	fmt.Fprintln(page, "| layers | how many | ms a frame (lower quartiles) | share of the time | billion multiply-adds a second | of the instruction's own rate |")
	fmt.Fprintln(page, "|---|---|---|---|---|---|")
	row := func(name string, c cost) {
		rate, share := "", ""
		if c.gmacs > 0 {
			r := c.gmacs / c.time.Seconds()
			rate, share = fmt.Sprintf("%.0f", r), top.share(r, l.path)
		}
		fmt.Fprintf(page, "| %s | %d | %.2f | %.0f %% | %s | %s |\n", name, c.layers, ms(c.time),
			100*c.time.Seconds()/all.time.Seconds(), rate, share)
	}
	for _, k := range kinds {
		row(k.String(), *costs[k])
	}
	row("**all 3x3**", square)
	row("all", all)
	fmt.Fprintln(page)
}
