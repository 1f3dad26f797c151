package sr

import (
	"context"
	"fmt"
	"slices"
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
	inFlight int           // tiles of frames that are not finished; at most share, unless one frame alone has more
	room     chan struct{} // holds a token after a piece finished: Submit may look again
	idle     chan struct{} // closed when the job is closed and nothing is in flight
	closing  chan struct{} // closed by Close
	grid     *grid
	width    int // of the frames that grid is for
	height   int
	memo     *memo
	leaders  []*piece  // of the bands of the frame that is being submitted
	compute  []*piece  // what of it is to be computed
	spent    []*Ticket // of finished frames, for the next ones
	spare    []*piece  // likewise

	frames, reused, tiles, tilesReused, pixels, pixelsReused atomic.Uint64
	busy                                                     atomic.Int64 // nanoseconds
}

// Ticket stands for one submitted frame.
type Ticket struct {
	job  *Job
	ctx  context.Context
	done chan struct{} // gets a value when the frame is finished

	// Guarded by the job's mutex until the frame is finished.
	src, dst frame.Plane // none once the frame is finished
	grid     *grid
	tiles    []tileState
	left     int // tiles not yet finished
	computed int // tiles of which a device had to compute something
	err      error
}

// tileState is how far a tile of a frame is.
type tileState struct {
	left     int // bands not yet finished
	computed bool
}

// JobStats is what a job has done so far.
type JobStats struct {
	Frames      uint64 // frames finished
	Reused      uint64 // of these, frames of which nothing had to be computed, because they equal the one before
	Tiles       uint64 // tiles finished
	TilesReused uint64 // of these, tiles whose whole result was copied
	Pixels      uint64 // input pixels of the frames that were submitted
	// PixelsReused is how many of these were not computed, because nothing that their result depends on had changed.
	PixelsReused uint64
	Busy         time.Duration // device time spent on this job, summed over lanes
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
		Pixels: j.pixels.Load(), PixelsReused: j.pixelsReused.Load(), Busy: time.Duration(j.busy.Load()),
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
		j.grid = newGrid(src.Width, src.Height, j.Model().Halo, j.net)
		j.leaders = make([]*piece, len(j.grid.bands))
	}
	if j.memo == nil || !j.memo.fits(src) {
		j.memo = nil
		if MemoBytes(src.Width, src.Height, src.Depth, scale) > 0 {
			j.memo = newMemo(src, dst, j.grid, scale)
		}
	}
	t := j.ticket()
	t.ctx, t.src, t.dst, t.grid = ctx, src, dst, j.grid
	j.enqueue(t)
	return t, nil
}

// ticket returns a new ticket, or one that nobody uses any more. j.mu is held.
func (j *Job) ticket() *Ticket {
	n := len(j.spent) - 1
	if n < 0 {
		return &Ticket{job: j, done: make(chan struct{}, 1)}
	}
	t := j.spent[n]
	j.spent = j.spent[:n]
	*t = Ticket{job: j, done: t.done, tiles: t.tiles[:0]}
	return t
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

// enqueue takes over or has others take over what the last frame's result holds of t's, and puts the rest, in pieces, into the
// device's queue. j.mu is held.
func (j *Job) enqueue(t *Ticket) {
	g := t.grid
	t.tiles, t.left = slices.Grow(t.tiles, len(g.tiles))[:len(g.tiles)], len(g.tiles)
	clear(t.tiles)
	for _, b := range g.bands {
		t.tiles[b.tile].left++
	}
	j.pixels.Add(uint64(t.src.Width * t.src.Height))
	j.dev.pixels.Add(uint64(t.src.Width * t.src.Height))
	clear(j.leaders)
	if j.memo != nil {
		j.memo.find(j.leaders, t.src)
		g.closeGaps(j.leaders)
	}
	rows := j.part(g)
	j.inFlight += len(g.tiles)
	j.compute = j.compute[:0]
	g.runs(j.leaders, func(leader *piece, first, end int) {
		switch leader {
		case nil:
			j.pieces(t, first, end, rows)
		case held:
			copyPlane(g.output(first, end, t.dst, j.Model().Scale), g.output(first, end, j.memo.dst, j.Model().Scale))
			j.countReused(t, first, end)
			j.complete(t, first, end, nil)
		default:
			leader.followers = append(leader.followers, follower{t, first, end})
		}
	})
	if j.memo != nil && len(j.compute) > 0 {
		j.memo.remember(t.src)
		for _, p := range j.compute {
			j.memo.lead(p)
		}
	}
	j.dev.queue.push(j, j.compute)
	clear(j.compute) // a frame that is done with must not stay in memory
}

// minPart is the least rows, in halos, of a frame's parts that lanes compute side by side. Each computes about half a halo more on each
// side where another part begins: a quarter of such a part at most.
const minPart = 4

// part returns how many rows of a frame, of which the bands without a leader are to be computed, one piece should have. Where frames
// wait for the lanes it is all of them: side by side, lanes are the fastest on frames of their own. Where none waits, and the
// job's next one may only come when this one is done, or the job is live, the lanes share the frame. j.mu is held.
func (j *Job) part(g *grid) int {
	all := 0
	g.runs(j.leaders, func(leader *piece, first, end int) {
		if leader == nil {
			all += g.rows(first, end)
		}
	})
	if !j.live && j.inFlight > 0 || j.dev.queue.waiting(j) {
		return max(all, 1)
	}
	lanes := j.dev.lanes.Count
	return max((all+lanes-1)/lanes, minPart*g.halo, 1)
}

// pieces has t's bands first to end-1 computed in pieces of about the given number of rows. j.mu is held.
func (j *Job) pieces(t *Ticket, first, end, rows int) {
	n := t.grid.rows(first, end)
	parts := min(max(1, (n+rows/2)/rows), end-first)
	for i := range parts {
		j.compute = append(j.compute, j.piece(t, first+(end-first)*i/parts, first+(end-first)*(i+1)/parts))
	}
}

// piece makes the piece that computes t's bands first to end-1. j.mu is held.
func (j *Job) piece(t *Ticket, first, end int) *piece {
	g := t.grid
	b := g.bands[first]
	if state := &t.tiles[b.tile]; !state.computed {
		state.computed = true
		t.computed++
	}
	tile, rows := g.tiles[b.tile], g.rows(first, end)
	above, below := min(g.halo, b.y-tile.keepY), min(g.halo, tile.keepY+tile.keepHeight-b.y-rows)
	var p *piece
	if n := len(j.spare) - 1; n >= 0 {
		p, j.spare = j.spare[n], j.spare[:n]
	} else {
		p = &piece{}
	}
	*p = piece{
		ticket: t,
		shape:  shape{net: j.net, width: g.width, height: g.height, sampleBytes: sampleBytes(t.src.Depth)},
		window: g.window(first, end, t.src, t.dst, j.Model().Scale),
		first:  first,
		end:    end,
		pixels: tile.keepWidth * rows,
		effort: tile.keepWidth * (rows + (above+below)/2),
		memo:   j.memo,

		followers: p.followers[:0],
	}
	return p
}

// finish ends a piece, computed or failed, and all that follow it. j.mu is held.
func (j *Job) finish(p *piece, err error) {
	g, scale := p.ticket.grid, j.Model().Scale
	if m := p.memo; m != nil {
		if err == nil && m == j.memo {
			m.keep(p, p.ticket.dst)
		} else {
			m.drop(p)
		}
	}
	for _, f := range p.followers {
		if err == nil {
			copyPlane(g.output(f.first, f.end, f.ticket.dst, scale), g.output(f.first, f.end, p.ticket.dst, scale))
			j.countReused(f.ticket, f.first, f.end)
		}
		j.complete(f.ticket, f.first, f.end, err)
	}
	j.complete(p.ticket, p.first, p.end, err)
	clear(p.followers)
	*p = piece{followers: p.followers} // must not keep a frame's memory alive
	j.spare = append(j.spare, p)
}

// abandon ends a piece whose ticket's context ended before a device took it. What follows it takes its place: that is other frames'
// and still wanted. j.mu is held.
func (j *Job) abandon(p *piece) {
	followers := p.followers
	p.followers = nil
	if len(followers) > 0 && !j.closed {
		// Of each band's followers the first is to be computed; the others follow that one.
		heirs := make([]*piece, len(p.ticket.grid.bands))
		var compute []*piece
		for _, f := range followers {
			f.ticket.grid.runs(heirs[:f.end], func(leader *piece, first, end int) {
				first = max(first, f.first)
				switch {
				case first >= end:
				case leader != nil:
					leader.followers = append(leader.followers, follower{f.ticket, first, end})
				default:
					heir := j.piece(f.ticket, first, end)
					heir.memo = p.memo
					for i := first; i < end; i++ {
						heirs[i] = heir
						if heir.memo.leaders[i] == p {
							heir.memo.leaders[i] = heir
						}
					}
					compute = append(compute, heir)
				}
			})
		}
		j.dev.queue.push(j, compute)
		followers = nil
	}
	p.followers = followers
	j.finish(p, context.Cause(p.ticket.ctx))
}

// complete counts the bands first to end-1 of t, which are of one tile, as finished. j.mu is held.
func (j *Job) complete(t *Ticket, first, end int, err error) {
	if t.err == nil {
		t.err = err
	}
	tile := &t.tiles[t.grid.bands[first].tile]
	tile.left -= end - first
	if tile.left > 0 {
		return
	}
	j.inFlight--
	j.tiles.Add(1)
	if !tile.computed && t.err == nil {
		j.tilesReused.Add(1)
		j.dev.tilesReused.Add(1)
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
		t.src, t.dst = frame.Plane{}, frame.Plane{}
		t.done <- struct{}{}
	}
	select {
	case j.room <- struct{}{}:
	default:
	}
	if j.closed && j.inFlight == 0 {
		close(j.idle)
	}
}

// countReused counts the bands first to end-1 of t as copied.
func (j *Job) countReused(t *Ticket, first, end int) {
	n := uint64(t.grid.tiles[t.grid.bands[first].tile].keepWidth * t.grid.rows(first, end))
	j.pixelsReused.Add(n)
	j.dev.pixelsReused.Add(n)
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

// Wait waits until the frame is finished and returns nil, or why it failed; the ticket must not be used any more then. When ctx ends
// first it returns ctx's cause, and the frame may still be worked on: its planes are free only after another Wait, or Job.Close.
// One goroutine at a time may wait for a ticket.
func (t *Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.done:
		return t.spend()
	default:
	}
	select {
	case <-t.done:
		return t.spend()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// spend returns how the frame ended and leaves the ticket to another one.
func (t *Ticket) spend() error {
	err := t.err
	t.job.mu.Lock()
	t.job.spent = append(t.job.spent, t)
	t.job.mu.Unlock()
	return err
}

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
