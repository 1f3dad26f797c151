// Package native runs int8 LMSWN networks on the CPU in its own C kernels.
//
// It reads the same quantized .onnx file (QDQ form) that ONNX Runtime runs and computes the same numbers: bytes for
// activations, signed bytes for weights, exact 32-bit sums, one multiplication and one rounding per result. The plain C in
// scalar.c is the definition; the vector paths equal it bit for bit, and each is checked against it on this machine before
// it is used.
package native

/*
#cgo CFLAGS: -O3 -std=gnu11 -Wall -Wextra
#cgo LDFLAGS: -lm
#include <stdlib.h>
#include "native.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"unsafe"

	"upscaler/internal/frame"
)

// What a picture may measure: more than any codec's level allows, and small enough for every size to fit an int32.
const (
	maxWidth  = 32768
	maxHeight = 32768
)

// UnsupportedError says that this package cannot run a model that may be a perfectly good one for ONNX Runtime.
type UnsupportedError struct {
	Err error // what it stumbled over
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("the model is not an int8 LMSWN that the native engine knows: %v", e.Err)
}

func (e *UnsupportedError) Unwrap() error { return e.Err }

// Network is a loaded network, ready to run. Its methods may be called by several goroutines at once; each running call uses
// one thread and one workspace. Close it once no call is running.
type Network struct {
	prog    *program
	net     *C.nat_net
	path    path
	refused []string
	mem     arena

	mu     sync.Mutex
	idle   []workspace // not in use; at most as many as calls ran at once
	closed bool
}

// workspace is the memory of one running call: the rows between layers.
type workspace struct {
	mem   unsafe.Pointer
	bytes int
}

// Load reads a quantized network from the bytes of an .onnx file and chooses the fastest path that this CPU has and that
// passes its self-check. The error is an *UnsupportedError when the file is not such a network. The bytes may be reused
// afterwards.
func Load(onnx []byte) (*Network, error) {
	g, err := parseONNX(onnx)
	if err != nil {
		return nil, &UnsupportedError{err}
	}
	net, err := readNetwork(g)
	if err != nil {
		return nil, &UnsupportedError{err}
	}
	prog, err := lower(net)
	if err != nil {
		return nil, &UnsupportedError{err}
	}
	return newNetwork(prog)
}

func newNetwork(prog *program) (*Network, error) {
	n := &Network{prog: prog}
	n.net = n.mem.program(prog)
	if err := n.choosePath(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Close frees the network's memory. No call may be running; later calls return an error.
func (n *Network) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.idle {
		w.free()
	}
	n.idle, n.closed = nil, true
	n.mem.free()
}

// Scale returns how many times wider and higher the output is.
func (n *Network) Scale() int { return n.prog.scale }

// Radius returns how many pixels in each direction an output pixel depends on.
func (n *Network) Radius() int { return n.prog.radius }

// MultiplyAdds returns how many multiply-adds one pixel of input takes.
func (n *Network) MultiplyAdds() int64 { return n.prog.macs }

// Path names the implementation in use: "avx512vnni", "avxvnni", "avx2", "dotprod" or "scalar".
func (n *Network) Path() string { return n.path.name }

// Refused lists the paths that this CPU has but whose results differed from the scalar path's in the self-check.
func (n *Network) Refused() []string { return n.refused }

// Memory returns the bytes that one running call needs for pictures of the given width.
func (n *Network) Memory(width int) int64 { return int64(n.memory(n.path, width)) }

func (n *Network) memory(p path, width int) int {
	return int(C.nat_scratch_bytes(n.net, p.c, C.int(width)))
}

// Upscale computes dst from src with one thread. src is W x H, dst scale*W x scale*H, both of the same depth, 8 to 16 bits. A
// code value v stands for v / (2^depth - 1); the result is clamped and rounded half to even. Values of src above the depth's
// largest count as the largest. Only dst's Width x Height samples are written. The planes must not overlap.
func (n *Network) Upscale(src, dst frame.Plane) error {
	return n.upscaleRows(src, dst, 0, src.Height, nil)
}

// UpscaleRows computes the rows of dst that rows y0 up to y1 of src become, for several goroutines to share one picture.
// The planes are the whole ones. The result is the same as Upscale's; what is near the border of two bands is computed
// twice.
func (n *Network) UpscaleRows(src, dst frame.Plane, y0, y1 int) error {
	if err := checkPlane(dst, "destination"); err != nil {
		return err
	}
	s := n.prog.scale
	if dst.Height != s*src.Height || y0 < 0 || y1 > src.Height || y0 >= y1 {
		return fmt.Errorf("upscale: rows %d to %d of a picture of %d rows, to a destination of %d", y0, y1, src.Height, dst.Height)
	}
	dst.Data, dst.Height = dst.Data[y0*s*dst.Stride:], (y1-y0)*s
	return n.upscaleRows(src, dst, y0, y1, nil)
}

// upscaleRows computes what rows y0 up to y1 of src become. src is the whole picture, dst holds these rows' result only.
// times: see run.
func (n *Network) upscaleRows(src, dst frame.Plane, y0, y1 int, times []int64) error {
	if err := checkPlane(src, "source"); err != nil {
		return err
	}
	if err := checkPlane(dst, "destination"); err != nil {
		return err
	}
	if src.Width > maxWidth || src.Height > maxHeight {
		return fmt.Errorf("upscale: %dx%d is larger than %dx%d", src.Width, src.Height, maxWidth, maxHeight)
	}
	if y0 < 0 || y1 > src.Height || y0 >= y1 {
		return fmt.Errorf("upscale: rows %d to %d of a picture of %d rows", y0, y1, src.Height)
	}
	if s := n.prog.scale; dst.Width != s*src.Width || dst.Height != s*(y1-y0) || dst.Depth != src.Depth {
		return fmt.Errorf("upscale: the destination is %dx%d with %d bits; %dx%d with %d bits times %d is not that",
			dst.Width, dst.Height, dst.Depth, src.Width, y1-y0, src.Depth, s)
	}
	w, err := n.take(src.Width)
	if err != nil {
		return err
	}
	n.run(n.path, src, dst, y0, y1, w, times)
	n.give(w)
	return nil
}

// run has a path compute what rows y0 up to y1 of src become. dst holds these rows' result only. times, unless nil, gets
// the nanoseconds that each op took added.
func (n *Network) run(p path, src, dst frame.Plane, y0, y1 int, w workspace, times []int64) {
	C.nat_run(n.net, p.c, unsafe.Pointer(&src.Data[0]), C.ptrdiff_t(src.Stride), C.int(src.Width), C.int(src.Height),
		C.int(src.Depth), unsafe.Pointer(&dst.Data[0]), C.ptrdiff_t(dst.Stride), C.int(y0), C.int(y1), w.mem,
		(*C.int64_t)(unsafe.SliceData(times)))
}

// checkPlane makes sure that every sample of the plane lies inside its data.
func checkPlane(p frame.Plane, what string) error {
	if p.Depth < 8 || p.Depth > 16 {
		return fmt.Errorf("upscale: the %s plane has %d bits a sample; 8 to 16 are known", what, p.Depth)
	}
	if p.Width < 1 || p.Height < 1 || p.Width > maxScale*maxWidth || p.Height > maxScale*maxHeight {
		return fmt.Errorf("upscale: the %s plane measures %dx%d", what, p.Width, p.Height)
	}
	row := p.Width
	if p.Depth > 8 {
		row *= 2
	}
	if p.Stride < row || (len(p.Data)-row)/p.Stride < p.Height-1 || len(p.Data) < row {
		return fmt.Errorf("upscale: the %s plane's %d bytes do not hold %dx%d samples %d bytes a row", what, len(p.Data),
			p.Width, p.Height, p.Stride)
	}
	return nil
}

// take returns a workspace large enough for the width: an idle one, or a new one.
func (n *Network) take(width int) (workspace, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return workspace{}, errors.New("upscale: the network is closed")
	}
	need := n.memory(n.path, width)
	var w workspace
	if k := len(n.idle); k > 0 {
		w = n.idle[k-1]
		n.idle = n.idle[:k-1]
	}
	if w.bytes >= need && w.bytes <= 4*need {
		return w, nil
	}
	w.free() // too small; or so large that a passing 8K job would keep its memory for ever
	return newWorkspace(need)
}

func newWorkspace(bytes int) (workspace, error) {
	mem := C.aligned_alloc(64, C.size_t((bytes+63)&^63))
	if mem == nil {
		return workspace{}, fmt.Errorf("upscale: no %d bytes of memory for the rows between layers", bytes)
	}
	return workspace{mem, bytes}, nil
}

func (w workspace) free() { C.free(w.mem) }

func (n *Network) give(w workspace) {
	n.mu.Lock()
	n.idle = append(n.idle, w)
	n.mu.Unlock()
}

// Layer is one layer of a network, and what it cost.
type Layer struct {
	Kernel, In, Out int           // kernel size, 0 for what turns samples into bytes; channels
	MultiplyAdds    int64         // for each pixel of input
	Time            time.Duration // in its own code, other work of the machine included
}

// Layers upscales src to dst as Upscale does and returns what each layer took.
func (n *Network) Layers(src, dst frame.Plane) ([]Layer, error) {
	times := make([]int64, len(n.prog.ops))
	if err := n.upscaleRows(src, dst, 0, src.Height, times); err != nil {
		return nil, err
	}
	var out []Layer
	for i, o := range n.prog.ops {
		l := Layer{Kernel: o.k, In: o.cin, Out: o.cout, Time: time.Duration(times[i])}
		if o.kind == opInput {
			l.Kernel = 0
		} else {
			l.MultiplyAdds = o.multiplyAdds()
		}
		out = append(out, l)
	}
	return out, nil
}

// Paths names the implementations that this CPU can run, the fastest first; the last is "scalar".
func Paths() []string {
	var out []string
	for _, p := range paths() {
		out = append(out, p.name)
	}
	return out
}

// UsePath makes the network use the implementation of this name, which its self-check must not have refused: for measurements. No call may
// be running.
func (n *Network) UsePath(name string) error {
	for _, p := range paths() {
		if p.name == name && !slices.Contains(n.refused, name) {
			n.path = p
			return nil
		}
	}
	return fmt.Errorf("this CPU does not run the path %q, or not correctly", name)
}
