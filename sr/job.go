package sr

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"upscaler/internal/frame"
)

// Job is one video's use of the Scheduler. Submit may be called by one goroutine while others Wait.
type Job struct {
	sched *Scheduler
	dev   *device
	net   *network
	live  bool

	waiting []*piece // guarded by the device's queue

	mu       sync.Mutex
	closed   bool
	inFlight int           // pieces queued, running, or following another; at most share, unless one frame alone has more
	room     chan struct{} // holds a token after a piece finished: Submit may look again
	idle     chan struct{} // closed when the job is closed and nothing is in flight
	closing  chan struct{} // closed by Close
	grid     grid
	width    int // of the frames that grid is for
	height   int
	memo     *memo

	frames, reused, tiles, tilesReused atomic.Uint64
	busy                               atomic.Int64 // nanoseconds
}

// Ticket stands for one submitted frame.
type Ticket struct {
	job  *Job
	ctx  context.Context
	done chan struct{}

	// Guarded by the job's mutex until done is closed.
	left     int // pieces not yet finished
	computed int // pieces that a device had to compute
	err      error
}

// JobStats is what a job has done so far.
type JobStats struct {
	Frames      uint64        // frames finished
	Reused      uint64        // of these, frames of which nothing had to be computed, because they equal the one before
	Tiles       uint64        // tiles finished
	TilesReused uint64        // of these, tiles whose result was copied
	Busy        time.Duration // device time spent on this job, summed over lanes
}

// Model returns the network the job uses.
func (j *Job) Model() Model { return j.net.file.Model }

// Device returns where the job's network runs: CPU or CUDA.
func (j *Job) Device() Device { return j.dev.engine.Device() }

// Share is how many frames of the given size the job needs in flight to keep the device at work when it is alone. Submit blocks
// beyond it.
func (j *Job) Share(width, height int) int {
	n := len(cut(width, height, j.Model().Halo, j.net.MaxPixels()).tiles)
	return (j.dev.share+n-1)/n + 1
}

// Stats returns what the job has done so far.
func (j *Job) Stats() JobStats {
	return JobStats{
		Frames: j.frames.Load(), Reused: j.reused.Load(), Tiles: j.tiles.Load(), TilesReused: j.tilesReused.Load(),
		Busy: time.Duration(j.busy.Load()),
	}
}

// Submit queues the upscaling of src into dst, which is Scale times as wide and high and of the same depth (8 to 16 bits). It
// blocks while the job has its share in flight, until ctx ends (then it returns ctx's cause) or the job is closed (ErrClosed).
//
// Both planes stay the caller's and must stay untouched until Wait says that the frame is finished, or Close has returned. When ctx
// ends while the frame is queued, it is not computed and its ticket fails with ctx's cause.
func (j *Job) Submit(ctx context.Context, src, dst frame.Plane) (*Ticket, error) {
	scale := j.Model().Scale
	if err := checkPlanes(src, dst, scale); err != nil {
		return nil, err
	}
	if err := j.admit(ctx); err != nil { // returns with j.mu held
		return nil, err
	}
	defer j.mu.Unlock()
	if j.width != src.Width || j.height != src.Height {
		j.width, j.height = src.Width, src.Height
		j.grid = cut(src.Width, src.Height, j.Model().Halo, j.net.MaxPixels())
	}
	if j.memo == nil || !j.memo.fits(src) {
		j.memo = nil
		if MemoBytes(src.Width, src.Height, src.Depth, scale) > 0 {
			j.memo = newMemo(src, dst, j.grid, scale)
		}
	}
	return j.enqueue(ctx, src, dst, scale), nil
}

// admit waits until the job may have another frame in flight. It returns nil with j.mu held, or an error without.
func (j *Job) admit(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		j.mu.Lock()
		if j.closed {
			j.mu.Unlock()
			return ErrClosed
		}
		if j.inFlight < j.dev.share {
			return nil
		}
		j.mu.Unlock()
		select {
		case <-j.room:
		case <-j.closing:
		case <-ctx.Done():
		}
	}
}

// enqueue makes the frame's pieces and puts those that must be computed into the device's queue. j.mu is held.
func (j *Job) enqueue(ctx context.Context, src, dst frame.Plane, scale int) *Ticket {
	g := &j.grid
	t := &Ticket{job: j, ctx: ctx, done: make(chan struct{}), left: len(g.tiles)}
	pieces := make([]piece, len(g.tiles))
	compute := make([]*piece, 0, len(g.tiles))
	j.inFlight += len(pieces)
	for i := range pieces {
		p := &pieces[i]
		*p = piece{
			ticket: t,
			shape:  shape{net: j.net, width: g.width, height: g.height, sampleBytes: sampleBytes(src.Depth)},
			window: g.window(g.tiles[i], src, dst, scale),
			pixels: g.tiles[i].keepWidth * g.tiles[i].keepHeight,
			index:  i,
			memo:   j.memo,
		}
		var leader *piece
		if j.memo != nil {
			leader = j.memo.leader(i, src)
		}
		switch {
		case leader == nil:
			if j.memo != nil {
				j.memo.leaders[i] = p
			}
			t.computed++
			compute = append(compute, p)
		case leader.finished:
			copyPlane(p.window.Dst, j.memo.result(i))
			j.countReused()
			j.finish(p, nil)
		default:
			leader.followers = append(leader.followers, p)
		}
	}
	if j.memo != nil && len(compute) > 0 {
		j.memo.remember(src)
	}
	j.dev.queue.push(j, compute)
	return t
}

// finish ends a piece, computed, copied or failed, and all that follow it. j.mu is held.
func (j *Job) finish(p *piece, err error) {
	if m := p.memo; m != nil && m.leaders[p.index] == p {
		if err != nil {
			m.leaders[p.index] = nil
		} else if m == j.memo {
			copyPlane(m.result(p.index), p.window.Dst)
		}
	}
	for _, f := range p.followers {
		if err == nil {
			copyPlane(f.window.Dst, p.window.Dst)
			j.countReused()
		}
		j.finish(f, err)
	}
	t := p.ticket
	p.finished, p.followers, p.ticket, p.window = true, nil, nil, Window{} // the memo must not keep a frame's memory alive
	j.complete(t, err)
}

// abandon ends a piece whose ticket's context ended before a device took it. A piece that follows it takes its place: it is
// another frame's and still wanted. j.mu is held.
func (j *Job) abandon(p *piece) {
	if len(p.followers) > 0 && !j.closed {
		heir := p.followers[0]
		heir.followers, p.followers = p.followers[1:], nil
		if m := p.memo; m.leaders[p.index] == p {
			m.leaders[p.index] = heir
		}
		heir.ticket.computed++
		j.dev.queue.push(j, []*piece{heir})
	}
	j.finish(p, context.Cause(p.ticket.ctx))
}

// complete counts a piece of t as finished. j.mu is held.
func (j *Job) complete(t *Ticket, err error) {
	j.inFlight--
	j.tiles.Add(1)
	if t.err == nil {
		t.err = err
	}
	t.left--
	if t.left == 0 {
		if t.err == nil {
			j.frames.Add(1)
			j.dev.frames.Add(1)
			if t.computed == 0 {
				j.reused.Add(1)
				j.dev.reused.Add(1)
			}
		}
		close(t.done)
	}
	select {
	case j.room <- struct{}{}:
	default:
	}
	if j.closed && j.inFlight == 0 {
		close(j.idle)
	}
}

func (j *Job) countReused() {
	j.tilesReused.Add(1)
	j.dev.tilesReused.Add(1)
}

// Forget frees the copy of the last frame that the job keeps to find out what has not changed. The next frame is computed in full.
func (j *Job) Forget() {
	j.mu.Lock()
	j.memo = nil
	j.mu.Unlock()
}

// Close fails what is queued with ErrClosed and waits for what is running; afterwards no plane of the job is touched any more.
// A second call only waits.
func (j *Job) Close() {
	j.mu.Lock()
	if !j.closed {
		j.closed = true
		close(j.closing)
		if j.inFlight == 0 {
			close(j.idle)
		}
		for _, p := range j.dev.queue.drop(j) {
			j.finish(p, ErrClosed)
		}
		j.memo = nil
		j.sched.forget(j)
	}
	j.mu.Unlock()
	<-j.idle
}

// Wait waits until the frame is finished and returns nil, or why it failed. When ctx ends first it returns ctx's cause, and the
// frame may still be worked on: its planes are free only after another Wait, or Job.Close.
func (t *Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.done:
		return t.err
	default:
	}
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Done returns a channel that is closed when the frame is finished.
func (t *Ticket) Done() <-chan struct{} { return t.done }

// checkPlanes returns an error unless dst can take src's upscaled picture and both hold all their samples.
func checkPlanes(src, dst frame.Plane, scale int) error {
	if src.Width < 1 || src.Height < 1 || src.Depth < 8 || src.Depth > 16 {
		return fmt.Errorf("a plane of %dx%d samples of %d bits cannot be upscaled", src.Width, src.Height, src.Depth)
	}
	if dst.Width != src.Width*scale || dst.Height != src.Height*scale || dst.Depth != src.Depth {
		return fmt.Errorf("the x%d result of %dx%d at %d bits does not fit a plane of %dx%d at %d bits",
			scale, src.Width, src.Height, src.Depth, dst.Width, dst.Height, dst.Depth)
	}
	for _, p := range []frame.Plane{src, dst} {
		row := p.Width * sampleBytes(p.Depth)
		if p.Stride < row || len(p.Data) < p.Stride*(p.Height-1)+row {
			return fmt.Errorf("a plane of %dx%d samples of %d bits does not fit %d bytes with a stride of %d",
				p.Width, p.Height, p.Depth, len(p.Data), p.Stride)
		}
	}
	return nil
}
