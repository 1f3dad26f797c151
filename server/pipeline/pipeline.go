// Package pipeline runs one job: frames from a decode.Source go through a super-resolution job into an encode.Sink, and the
// packets that pass through go along with them in order. It knows nothing of where the bytes come from or go to.
//
// Two goroutines work on a job beside the engine's own: one owns the source (demuxing, decoding), one the sink (encoding,
// muxing). Between them lies one queue in the order of the source. It is bounded in bytes by the pools that its frames
// come from and by a budget for packets, so a slow sink, down to a client that stopped reading, halts the source.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"upscaler/decode"
	"upscaler/encode"
	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"
	"upscaler/sr"
)

const (
	// queueLength is the most frames and packets between the two goroutines. Enough frames to keep every core's engine busy
	// while the encoder works in bursts; more would only take memory and make progress late.
	queueLength = 64

	// packetBudget bounds the bytes of passed-through packets in the queue. Audio and subtitles need a few KiB a frame; an
	// upload that holds far more beside its video waits here instead of filling memory.
	packetBudget = 16 << 20
)

// FrameCountError says that the encoder did not return as many frames as the decoder gave. The output is not to be trusted.
type FrameCountError struct{ Decoded, Encoded uint64 }

func (e *FrameCountError) Error() string {
	return fmt.Sprintf("%d frames were decoded but %d were encoded; the output would be out of step with the input", e.Decoded, e.Encoded)
}

// Job is one video on its way through. The caller owns Source, Engine and Sink and closes them after Run has returned.
type Job struct {
	Source *decode.Source
	Engine *sr.Job
	Sink   *encode.Sink

	// Luma is the pool that upscaled luma planes are taken from. It must be another pool than the source's: when both came
	// from one, decoded frames could take all of it and leave no room for the planes that would set them free.
	Luma *frame.Pool

	decoded  atomic.Uint64
	encoded  atomic.Uint64
	kept     atomic.Uint64
	position atomic.Int64 // time.Duration from the first frame's PTS
	started  atomic.Bool
	firstPTS int64
}

// Progress is a snapshot of a running job.
type Progress struct {
	Skipped  uint64        // frames decoded that lie outside of the part asked for
	Decoded  uint64        // frames the decoder returned
	Encoded  uint64        // frames given to the encoder, or taken from an interrupted output
	Kept     uint64        // those taken from an interrupted output
	Position time.Duration // presentation time of the last encoded frame, from the first one
	BytesIn  uint64
	BytesOut uint64
	Stages   Stages
	Live     *LiveProgress // nil for a file
}

// Stages is the time each stage has been busy. Stages overlap, and frames in the engine side by side count each.
type Stages struct{ Decode, Upscale, Encode time.Duration }

// Progress may be called from any goroutine while Run goes on and after it.
func (j *Job) Progress() Progress {
	src, sink := j.Source.Stats(), j.Sink.Stats()
	return Progress{
		Skipped:  src.Skipped,
		Decoded:  j.decoded.Load(),
		Kept:     j.kept.Load(), // before Encoded, which is never less
		Encoded:  j.encoded.Load(),
		Position: time.Duration(j.position.Load()),
		BytesIn:  src.Bytes,
		BytesOut: uint64(sink.BytesOut),
		Stages:   Stages{Decode: src.Busy, Upscale: j.Engine.Stats().Busy, Encode: sink.Busy},
	}
}

// item is what the source's goroutine hands to the sink's: a packet, or a frame with the upscaled plane it is waiting for.
type item struct {
	packet *av.Packet
	size   int64 // of the packet, as taken from the budget

	frame  *frame.Frame
	kept   bool // the frame is in the interrupted output already
	luma   *frame.Frame
	ticket *sr.Ticket

	// Of live jobs.
	engine   *sr.Job        // that the ticket is of
	stream   int            // of the packet, in the first connection's numbers
	conn     int            // number of the connection it came by
	came     time.Time      // when the decoder gave it
	arrived  time.Time      // when its first byte was read
	timeBase media.Rational // of the frame's times
}

// Run works until the source ends, the context is cancelled or something fails, and returns the first error: ctx's cause,
// one of decode's or encode's typed errors, or a *FrameCountError. When it returns, no frame or packet of the job is held.
func (j *Job) Run(ctx context.Context) error {
	queue := make(chan item, queueLength)
	packets := semaphore.NewWeighted(packetBudget)
	g, ctx := errgroup.WithContext(ctx)

	g.Go(func() error {
		defer close(queue)
		return j.read(ctx, queue, packets)
	})
	g.Go(func() error { return j.write(ctx, queue, packets) })
	err := g.Wait()

	// Planes in the queue may still be in the engine's hands; closing the job waits for those.
	j.Engine.Close()
	for it := range queue {
		it.free()
	}
	if err != nil {
		return err
	}
	if encoded := uint64(j.Sink.Stats().Packets); encoded != j.decoded.Load() {
		return &FrameCountError{Decoded: j.decoded.Load(), Encoded: encoded}
	}
	return nil
}

func (j *Job) read(ctx context.Context, queue chan<- item, packets *semaphore.Weighted) error {
	scale := j.Engine.Model().Scale
	keep := uint64(j.Sink.Kept())
	for {
		unit, err := j.Source.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		it := item{frame: unit.Frame, packet: unit.Packet}
		if it.packet != nil {
			// A packet larger than the whole budget takes all of it; decode has capped its size.
			it.size = min(int64(it.packet.Size()), packetBudget)
			if err := packets.Acquire(ctx, it.size); err != nil {
				it.free()
				return context.Cause(ctx)
			}
		} else if it.kept = j.decoded.Add(1) <= keep; !it.kept {
			if err := j.submit(ctx, &it, scale); err != nil {
				it.free()
				return err
			}
		}
		select {
		case queue <- it:
		case <-ctx.Done():
			// The plane may be under way in the engine: leave it to Run, which waits for the engine before it frees.
			if it.ticket != nil {
				j.Engine.Close()
			}
			it.free()
			return context.Cause(ctx)
		}
	}
}

func (j *Job) submit(ctx context.Context, it *item, scale int) error {
	f := it.frame
	var err error
	if it.luma, err = j.Luma.Get(ctx, frame.Format{Depth: f.Format.Depth, Gray: true}, f.Width*scale, f.Height*scale); err != nil {
		return err
	}
	it.ticket, err = j.Engine.Submit(ctx, f.Luma(), it.luma.Luma())
	return err
}

func (j *Job) write(ctx context.Context, queue <-chan item, packets *semaphore.Weighted) error {
	timeBase := j.Source.Media().VideoTimeBase
	for it := range queue {
		if it.packet != nil {
			err := j.Sink.WritePacket(ctx, it.packet)
			packets.Release(it.size)
			if err != nil {
				return err
			}
			continue
		}
		err := j.finish(ctx, &it)
		j.advance(timeBase, it.frame.PTS)
		it.free() // all but its flag
		if err != nil {
			return err
		}
		j.encoded.Add(1)
		if it.kept {
			j.kept.Add(1)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // the queue was closed because the source failed, not because it ended
	}
	return j.Sink.Finish(ctx)
}

// finish writes a frame once its plane is upscaled.
func (j *Job) finish(ctx context.Context, it *item) error {
	if it.kept {
		return j.Sink.WriteKept(ctx, it.frame)
	}
	if err := it.ticket.Wait(ctx); err != nil {
		j.Engine.Close() // the engine may still write into the plane
		return err
	}
	sr.MendRim(it.frame.Luma(), it.luma.Luma())
	return j.Sink.WriteFrame(ctx, it.frame, it.luma.Luma())
}

func (j *Job) advance(timeBase media.Rational, pts int64) {
	if j.started.CompareAndSwap(false, true) {
		j.firstPTS = pts
	}
	j.position.Store(int64(timeBase.Seconds(pts-j.firstPTS) * float64(time.Second)))
}

func (it *item) free() {
	if it.packet != nil {
		it.packet.Free()
	}
	it.frame.Release()
	it.luma.Release()
}
