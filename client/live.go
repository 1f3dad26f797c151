package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	upscalev1 "upscaler/gen/upscale/v1"
)

// LiveJob is a running stream to upscale.
type LiveJob struct {
	// Settings is what the server is asked for. Mode is set to live; the rest is sent as it is.
	Settings *upscalev1.Start
	// In is read to its end, as it comes. nil when Settings.Live.Source names an address.
	In io.Reader
	// Out takes the result front to back. nil when Settings.Live.Sink names an address.
	Out LiveOutput
	// On, when set, gets what the server tells about the job. It is called by the goroutine that called Live.
	On func(Event)
	// Stop, when set, ends the job in order once it is closed: what the server has read comes out, then Live returns.
	Stop <-chan struct{}
}

// LiveOutput takes the bytes of a live job.
type LiveOutput interface {
	io.Writer
	// EndFile says that the bytes since the last call are a whole file which lasts so long. It is called only when Settings asks
	// for segments.
	EndFile(duration time.Duration) error
}

// Live runs a live job to its end, which is that of its input, and returns the server's summary. Errors are those of Upscale.
// A live job is not tried again: what is live does not wait.
func (c *Client) Live(ctx context.Context, job LiveJob) (*upscalev1.Summary, error) {
	settings := proto.CloneOf(job.Settings)
	if settings == nil {
		settings = &upscalev1.Start{}
	}
	settings.Mode = upscalev1.Mode_MODE_LIVE
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := c.api.Upscale(ctx)
	if err != nil {
		return nil, c.translate(ctx, err)
	}
	in := newStoppable(ctx, job.In, job.Stop)
	upload := startUpload(in, cancel, uploadTo(stream, settings))
	defer upload.stop()

	var summary *upscalev1.Summary
	var offset uint64
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, c.translate(ctx, err)
		}
		var event Event
		switch p := response.GetPayload().(type) {
		case *upscalev1.UpscaleResponse_Accepted:
			event.Accepted = p.Accepted
		case *upscalev1.UpscaleResponse_Progress:
			event.Progress = p.Progress
		case *upscalev1.UpscaleResponse_Notice:
			event.Notice = p.Notice
		case *upscalev1.UpscaleResponse_Chunk:
			if offset, err = job.put(p.Chunk, offset); err != nil {
				return nil, err
			}
			continue
		case *upscalev1.UpscaleResponse_Summary:
			summary = p.Summary
			continue
		default: // a kind of answer that a later server knows
			continue
		}
		if job.On != nil {
			job.On(event)
		}
	}
	if summary == nil {
		return nil, &ProtocolError{Text: "the server ended the job without a summary, so the result may be incomplete"}
	}
	return summary, nil
}

// put hands on a chunk that must continue at offset, and returns where the next one must.
func (j *LiveJob) put(chunk *upscalev1.Chunk, offset uint64) (uint64, error) {
	if data := chunk.GetData(); len(data) > 0 {
		if chunk.GetOffset() != offset || j.Out == nil {
			return offset, &ProtocolError{Text: "the server sent bytes of a live stream out of order"}
		}
		if _, err := j.Out.Write(data); err != nil {
			return offset, &OutputError{Err: err}
		}
		offset += uint64(len(data))
	}
	if d := chunk.GetFileDuration(); d != nil && j.Out != nil {
		if err := j.Out.EndFile(d.AsDuration()); err != nil {
			return offset, &OutputError{Err: err}
		}
		offset = 0
	}
	return offset, nil
}

// stoppable is a reader that ends when it is told to, or with its context. Without a reader it only waits for that.
type stoppable struct {
	ctx  context.Context
	stop <-chan struct{}
	data chan []byte // from the goroutine that reads; closed at its end
	err  error       // set before data is closed
	rest []byte
	once sync.Once
	in   io.Reader
}

func newStoppable(ctx context.Context, in io.Reader, stop <-chan struct{}) *stoppable {
	return &stoppable{ctx: ctx, stop: stop, in: in, data: make(chan []byte)}
}

// Read implements io.Reader.
func (s *stoppable) Read(p []byte) (int, error) {
	s.once.Do(func() {
		if s.in != nil {
			go s.read() // a read that waits cannot be interrupted; it is left behind when the stream is stopped
		}
	})
	if len(s.rest) == 0 {
		select {
		case b, more := <-s.data:
			if !more {
				return 0, s.err
			}
			s.rest = b
		case <-s.stop:
			return 0, io.EOF
		case <-s.ctx.Done():
			return 0, io.EOF // the call has ended, and whoever waits for it knows why
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *stoppable) read() {
	defer close(s.data)
	for {
		b := make([]byte, chunkSize)
		n, err := s.in.Read(b)
		if n > 0 {
			select {
			case s.data <- b[:n]:
			case <-s.stop:
				return
			case <-s.ctx.Done():
				return
			}
		}
		if err != nil {
			s.err = err
			return
		}
	}
}
