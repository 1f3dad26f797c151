// Package frames upscales pictures that a program has decoded itself: they come and go as bytes, one after the other, in order.
//
// Luma goes through a super-resolution job, chroma and alpha are scaled by FFmpeg, as for a file. Two goroutines work on a call
// beside the engine's own: one takes pictures and gives them to the engine, the other takes them from it and completes them.
// A picture is between the two from when it is taken until its answer was given; a window bounds how many are.
package frames

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/sr"
)

// Picture is one picture in the layout of its call's Shape.
type Picture struct {
	Data    []byte   // plane after plane
	Strides []uint32 // bytes from row to row of each plane; none: rows follow each other without a gap
	PTS     int64
}

// Job is one call's pictures on their way through.
type Job struct {
	shape  Shape
	engine *sr.Job
	frames *frame.Pool // the pictures that came, planar
	output *frame.Pool // the upscaled ones, as they go out
	window int

	taken, answered atomic.Uint64
	bytes           atomic.Uint64
}

// New returns a job for pictures of one shape, which are held in frames, and answered from output. The caller owns engine and
// closes it after Run has returned. It returns an *InputError when the pools cannot hold one picture and its answer.
func New(shape Shape, engine *sr.Job, frames, output *frame.Pool) (*Job, error) {
	j := &Job{shape: shape, engine: engine, frames: frames, output: output}
	width, height := j.Size()
	in, out := frame.PoolBytes(shape.format, shape.Width, shape.Height), shape.format.Bytes(width, height)
	if in > frames.Budget() || out > output.Budget() {
		return nil, inputError("start.width", "%s of %dx%d takes %d bytes and %d upscaled, but this server holds %d and %d for a call",
			shape.name, shape.Width, shape.Height, in, out, frames.Budget(), output.Budget())
	}
	// What keeps the device at work, and one that is being completed.
	j.window = int(min(int64(engine.Share(shape.Width, shape.Height)+1), frames.Budget()/in, output.Budget()/out))
	return j, nil
}

// Size returns the width and height of the answers.
func (j *Job) Size() (int, int) {
	scale := j.engine.Model().Scale
	return j.shape.Width * scale, j.shape.Height * scale
}

// Window is how many pictures are taken and not yet answered at most.
func (j *Job) Window() int { return j.window }

// Progress is a snapshot of a running job.
type Progress struct {
	Taken, Answered uint64 // pictures
	BytesOut        uint64
}

// Progress may be called from any goroutine while Run goes on and after it.
func (j *Job) Progress() Progress {
	return Progress{Taken: j.taken.Load(), Answered: j.answered.Load(), BytesOut: j.bytes.Load()}
}

// item is a picture on its way.
type item struct {
	frame  *frame.Frame
	answer *frame.Frame
	ticket *sr.Ticket
	pts    int64
}

func (it *item) free() {
	it.frame.Release()
	it.answer.Release()
}

// Run answers pictures until next returns io.EOF, and returns nil, or the first error: ctx's cause, next's, answer's, an
// *InputError, the engine's. next is called only when the window has room; what it returned is not used after the next call.
// answer must have done with a picture's bytes when it returns. Afterwards no picture is held.
func (j *Job) Run(ctx context.Context, next func(context.Context) (Picture, error), answer func(context.Context, Picture) error) error {
	scaler, err := av.NewBufferedScaler(j.shape.format, j.shape.Width, j.shape.Height, j.engine.Model().Scale, 0)
	if err != nil {
		return err
	}
	defer scaler.Close()
	queue := make(chan item, j.window)
	room := make(chan struct{}, j.window)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(queue)
		return j.take(ctx, next, queue, room)
	})
	g.Go(func() error { return j.give(ctx, scaler, answer, queue, room) })
	err = g.Wait()

	// Planes in the queue may still be in the engine's hands; closing the job waits for those.
	j.engine.Close()
	for it := range queue {
		it.free()
	}
	return err
}

func (j *Job) take(ctx context.Context, next func(context.Context) (Picture, error), queue chan<- item, room chan<- struct{}) error {
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		p, err := next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		it, err := j.submit(ctx, p)
		if err != nil {
			return err
		}
		j.taken.Add(1)
		queue <- it // has room for a whole window
	}
}

// submit copies a picture and gives its luma to the engine.
func (j *Job) submit(ctx context.Context, p Picture) (it item, err error) {
	strides, err := j.shape.check(p.Data, p.Strides)
	if err != nil {
		return item{}, err
	}
	defer func() {
		if err != nil {
			it.free()
		}
	}()
	it.pts = p.PTS
	if it.frame, err = j.frames.Get(ctx, j.shape.format, j.shape.Width, j.shape.Height); err != nil {
		return it, err
	}
	j.shape.load(it.frame, p.Data, strides)
	width, height := j.Size()
	if it.answer, err = j.output.GetPacked(ctx, j.shape.format, width, height); err != nil {
		return it, err
	}
	it.ticket, err = j.engine.Submit(ctx, it.frame.Luma(), it.answer.Luma())
	return it, err
}

func (j *Job) give(ctx context.Context, scaler *av.BufferedScaler, answer func(context.Context, Picture) error, queue <-chan item, room <-chan struct{}) error {
	for it := range queue {
		if err := it.ticket.Wait(ctx); err != nil {
			j.engine.Close() // it may still write into the plane
			it.free()
			return err
		}
		sr.MendRim(it.frame.Luma(), it.answer.Luma())
		scaled, err := scaler.Scale(it.frame)
		if err == nil {
			j.shape.store(it.answer, scaled)
			data := it.answer.Bytes()
			if err = answer(ctx, Picture{Data: data, PTS: it.pts}); err == nil {
				j.bytes.Add(uint64(len(data)))
				j.answered.Add(1)
			}
		}
		it.free()
		if err != nil {
			return err
		}
		<-room
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // the queue was closed because the input failed, not because it ended
	}
	return nil
}
