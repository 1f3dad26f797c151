package frame

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// rowAlign is the alignment of rows in bytes: a cache line, and the widest vector register FFmpeg and the engines use.
const rowAlign = 64

// TooLargeError says that one buffer alone exceeds the pool's whole budget.
type TooLargeError struct{ Need, Budget int64 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("a frame needs %d bytes, more than the job's whole frame memory of %d bytes", e.Need, e.Budget)
}

// Pool hands out frames and planes whose memory together never exceeds a budget; who asks for more waits until something
// is released. Frames are reused with their memory, so that a steady stream of equal ones allocates nothing. Safe for concurrent use.
type Pool struct {
	budget int64
	sem    *semaphore.Weighted
	inUse  atomic.Int64

	mu   sync.Mutex
	free []*Frame // released, with memory of the size last asked for
}

// NewPool returns a pool that holds at most budget bytes of frame memory at once.
func NewPool(budget int64) *Pool {
	return &Pool{budget: budget, sem: semaphore.NewWeighted(budget)}
}

// InUse returns the bytes handed out and not yet released.
func (p *Pool) InUse() int64 { return p.inUse.Load() }

// Budget returns the most bytes the pool hands out at once.
func (p *Pool) Budget() int64 { return p.budget }

// Get returns a frame of the given format and size whose sample values are undefined. It waits while the budget is used up
// and returns ctx's cause when that ends first, or a *TooLargeError when waiting could not help.
func (p *Pool) Get(ctx context.Context, format Format, width, height int) (*Frame, error) {
	return p.get(ctx, format, width, height, rowAlign)
}

// GetPacked is Get for a frame without gaps: its rows and planes follow each other at once, and Bytes returns them.
func (p *Pool) GetPacked(ctx context.Context, format Format, width, height int) (*Frame, error) {
	return p.get(ctx, format, width, height, 1)
}

// PoolBytes returns the bytes that a frame of Get takes of its pool's budget: those of Format.Bytes and the gaps behind rows.
func PoolBytes(format Format, width, height int) int64 {
	_, _, total := layout(format, width, height, rowAlign)
	return int64(total)
}

func layout(format Format, width, height, alignment int) (sizes, strides [4]int, total int) {
	for i := range format.Planes() {
		w, h := format.PlaneSize(i, width, height)
		strides[i] = align(w*format.SampleBytes(), alignment)
		sizes[i] = strides[i] * h
		total += sizes[i]
	}
	return sizes, strides, total
}

func (p *Pool) get(ctx context.Context, format Format, width, height, alignment int) (*Frame, error) {
	sizes, strides, total := layout(format, width, height, alignment)
	f, err := p.take(ctx, total)
	if err != nil {
		return nil, err
	}
	*f = Frame{Width: width, Height: height, Format: format, buf: f.buf, pool: p}
	at := 0
	for i := range format.Planes() {
		w, h := format.PlaneSize(i, width, height)
		f.Planes[i] = Plane{Data: f.buf[at : at+sizes[i] : at+sizes[i]], Stride: strides[i], Width: w, Height: h, Depth: format.Depth}
		at += sizes[i]
	}
	return f, nil
}

// Release returns the frame and its memory to its pool; nil is ignored. Nothing of the frame may be used afterwards: the next Get
// may return it.
func (f *Frame) Release() {
	if f == nil || f.pool == nil {
		return
	}
	p := f.pool
	*f = Frame{buf: f.buf}
	p.give(f)
}

// Bytes returns the memory of all planes, one after the other; with the gaps between rows unless GetPacked made the frame.
func (f *Frame) Bytes() []byte { return f.buf }

// Luma returns the frame's first plane.
func (f *Frame) Luma() Plane { return f.Planes[0] }

// take returns a frame with n bytes of memory.
func (p *Pool) take(ctx context.Context, n int) (*Frame, error) {
	if int64(n) > p.budget {
		return nil, &TooLargeError{Need: int64(n), Budget: p.budget}
	}
	if err := p.sem.Acquire(ctx, int64(n)); err != nil {
		return nil, context.Cause(ctx)
	}
	p.inUse.Add(int64(n))
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := len(p.free); k > 0 {
		if f := p.free[k-1]; len(f.buf) == n {
			p.free = p.free[:k-1]
			return f, nil
		}
		p.free = nil // another frame size: what is kept would never be asked for again
	}
	return &Frame{buf: make([]byte, n)}, nil
}

func (p *Pool) give(f *Frame) {
	n := int64(len(f.buf))
	p.mu.Lock()
	if len(p.free) > 0 && len(p.free[0].buf) != len(f.buf) {
		p.free = nil
	}
	p.free = append(p.free, f)
	p.mu.Unlock()
	p.inUse.Add(-n)
	p.sem.Release(n)
}

// align rounds n up to a multiple of a power of two.
func align(n, alignment int) int { return (n + alignment - 1) &^ (alignment - 1) }
