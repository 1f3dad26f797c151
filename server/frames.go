package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/internal/frame"
	"upscaler/server/frames"
	"upscaler/server/pipeline"
	"upscaler/sr"
)

// frameStream is the server's end of a call of UpscaleFrames.
type frameStream = grpc.BidiStreamingServer[upscalev1.UpscaleFramesRequest, upscalev1.UpscaleFramesResponse]

// frameCall is one call of UpscaleFrames. These goroutines work for it: the call's handler, which waits for the rest; one that
// receives, whenever the window has room; one that watches for progress; the two of frames.Job; and one for the answer that is
// being sent.
type frameCall struct {
	server *Server
	stream frameStream
	id     string
	log    *slog.Logger
	cancel context.CancelCauseFunc

	frames, answers *frame.Pool
	received        atomic.Uint64 // bytes of pictures
}

// UpscaleFrames implements upscale.v1.UpscaleService.
func (s *Server) UpscaleFrames(stream frameStream) error {
	first, release, err := admitted(s, stream.Recv)
	if err != nil {
		return toStatus(err)
	}
	defer release()
	start := first.GetStart()
	if start == nil {
		return toStatus(errNoStart)
	}
	ctx, cancel := s.jobContext(stream.Context(), s.limits.MaxLiveTime)
	defer cancel(nil)
	id := rand.Text()[:10]
	c := &frameCall{
		server: s, stream: stream, id: id, log: s.log.With("job", id), cancel: cancel,
		frames: frame.NewPool(s.limits.FrameMemory), answers: frame.NewPool(s.limits.PlaneMemory),
	}
	s.open(c)
	defer s.end(c)
	c.log.Info("frames accepted", "scale", start.GetScale(), "model", start.GetModel(),
		"width", start.GetWidth(), "height", start.GetHeight(), "format", start.GetPixelFormat())
	done, err := c.run(ctx, start)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // what failed then, failed because of this
	}
	st := toStatus(err)
	s.metrics.jobDone(done)
	s.metrics.jobEnded(st)
	if err != nil {
		c.log.Warn("frames failed", "err", err)
	} else {
		c.log.Info("frames done", "frames", done.Encoded)
	}
	return st
}

func (c *frameCall) heldBytes() int64 { return c.frames.InUse() + c.answers.InUse() }

func (c *frameCall) logger() *slog.Logger { return c.log }

// run answers the call's frames and returns what was done.
func (c *frameCall) run(ctx context.Context, start *upscalev1.FramesStart) (done pipeline.Progress, err error) {
	defer func() {
		if r := recover(); r != nil { // as in session.run
			c.log.Error("panic", "value", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("an internal error ended the job; its number in the server's log is %s", c.id)
		}
	}()
	srv := c.server
	spec, err := modelSpec(start)
	if err != nil {
		return done, err
	}
	spec.Live = true // who sends single pictures is waiting for them
	shape, err := frames.NewShape(start.GetWidth(), start.GetHeight(), start.GetPixelFormat(), srv.limits.MaxInputPixels)
	if err != nil {
		return done, err
	}
	engine, err := srv.cfg.Scheduler.Open(ctx, spec)
	if err != nil {
		return done, err
	}
	defer engine.Close()
	job, err := frames.New(shape, engine, c.frames, c.answers)
	if err != nil {
		return done, err
	}
	if err := c.stream.Send(c.accepted(job, engine)); err != nil {
		return done, err
	}
	defer c.startWatch(ctx, job)()
	err = job.Run(ctx, c.startReceive(ctx), c.answer)
	pr := job.Progress()
	return pipeline.Progress{
		Decoded: pr.Taken, Encoded: pr.Answered, BytesIn: c.received.Load(), BytesOut: pr.BytesOut,
		Stages: pipeline.Stages{Upscale: engine.Stats().Busy},
	}, err
}

func (c *frameCall) accepted(job *frames.Job, engine *sr.Job) *upscalev1.UpscaleFramesResponse {
	width, height := job.Size()
	return &upscalev1.UpscaleFramesResponse{Payload: &upscalev1.UpscaleFramesResponse_Accepted{Accepted: &upscalev1.FramesAccepted{
		JobId: c.id, Model: modelMessage(engine.Model()), Device: deviceMessage(engine.Device()),
		Width: uint32(width), Height: uint32(height), Window: uint32(job.Window()),
	}}}
}

// startReceive starts the receiving goroutine and returns what asks it for the next frame. It receives only when asked, so that
// what the client sends beyond the window stays with the client. It ends at the latest when the call has: Recv then fails.
func (c *frameCall) startReceive(ctx context.Context) func(context.Context) (frames.Picture, error) {
	type result struct {
		message *upscalev1.UpscaleFramesRequest
		err     error
	}
	asked, got := make(chan struct{}), make(chan result)
	c.server.recvLoops.Add(1)
	go func() {
		defer c.server.recvLoops.Add(-1)
		for {
			select {
			case <-asked:
			case <-ctx.Done():
				return
			}
			m, err := c.stream.Recv()
			select {
			case got <- result{m, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func(ctx context.Context) (frames.Picture, error) {
		select {
		case asked <- struct{}{}:
		case <-ctx.Done():
			return frames.Picture{}, context.Cause(ctx)
		}
		select {
		case r := <-got:
			if r.err != nil {
				return frames.Picture{}, r.err
			}
			return c.picture(r.message.GetFrame())
		case <-ctx.Done():
			return frames.Picture{}, context.Cause(ctx)
		}
	}
}

// picture checks a message after the first.
func (c *frameCall) picture(f *upscalev1.Frame) (frames.Picture, error) {
	if f == nil {
		return frames.Picture{}, &protocolError{"payload", "only frames may follow the first message"}
	}
	n := c.received.Add(uint64(len(f.GetData())))
	if limit := c.server.limits.MaxUpload; limit > 0 && n > uint64(limit) {
		return frames.Picture{}, errTooMuch
	}
	return frames.Picture{Data: f.GetData(), Strides: f.GetStrides(), PTS: f.GetPts()}, nil
}

// answer sends a picture. Its bytes go back into the pool afterwards, but a message must not change once it was sent: so it is
// encoded, which copies it, before. A client that does not read is left alone when ctx ends: the end of the call, which is next,
// frees the goroutine.
func (c *frameCall) answer(ctx context.Context, p frames.Picture) error {
	m := &upscalev1.UpscaleFramesResponse{Payload: &upscalev1.UpscaleFramesResponse_Frame{Frame: &upscalev1.Frame{Data: p.Data, Pts: p.PTS}}}
	var encoded grpc.PreparedMsg
	if err := encoded.Encode(c.stream, m); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- c.stream.SendMsg(&encoded) }()
	select {
	case err := <-sent:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// startWatch ends a call that makes no progress, until the returned function is called.
func (c *frameCall) startWatch(ctx context.Context, job *frames.Job) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		var last frames.Progress
		lastChange := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-ticker.C:
				if pr := job.Progress(); pr != last {
					last, lastChange = pr, now
				} else if now.Sub(lastChange) > c.server.limits.StallTimeout {
					c.cancel(errStalled)
					return
				}
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
