package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	upscalev1 "upscaler/gen/upscale/v1"
)

// Job is one video to upscale.
type Job struct {
	// Settings is what the server is asked for. Output.Seekable is set from Out; the rest is sent as it is.
	Settings *upscalev1.Start
	// In is read to its end. When it can seek, the job is tried again from where it stood after a refusal for lack of
	// room, and In is not used any more when Upscale returns; otherwise a Read that blocks at that time is left to itself.
	In io.Reader
	// Out takes the result. Whatever it holds is worth nothing unless Upscale returns without an error.
	Out *Output
	// Resume is an interrupted output to go on with; nil begins a new one. Out then gets a whole one all the same.
	Resume *Resume
	// On, when set, gets what the server tells about the job. It is called by the goroutine that called Upscale.
	On func(Event)
	// Patience is how long to keep asking a server that has no room for a job; 0 means DefaultPatience, a negative value
	// not to ask again.
	Patience time.Duration
}

// Resume is what is there of an interrupted output (see Interrupted).
type Resume struct {
	Output io.ReaderAt
	Size   int64 // bytes of it to be used
}

// DefaultPatience is how long Upscale keeps asking a server that has no room: jobs take minutes, so asking for less would
// seldom help.
const DefaultPatience = 30 * time.Minute

// Event is one of the things that happen in a job; exactly one field is set.
type Event struct {
	Accepted *upscalev1.Accepted
	Progress *upscalev1.Progress
	Notice   *upscalev1.Notice
	Busy     *Busy
}

// Busy says that the server has no room for the job now and will be asked again after a pause.
type Busy struct {
	Reason error
	Pause  time.Duration
}

// Upscale runs one job to its end and returns the server's summary of it.
//
// The result is checked: every byte arrived (SHA-256), and as many frames were encoded as decoded. Errors are *Error (what
// the server said), *InputError, *OutputError, *ProtocolError (the result or the conversation is not as it should be), or
// ctx's cause when it ended. Both directions are paced by the slower side: a slow Out slows the server, a slow server
// slows the reading of In.
func (c *Client) Upscale(ctx context.Context, job Job) (*upscalev1.Summary, error) {
	if job.Out.bytes > 0 {
		return nil, errOutputUsed
	}
	settings := proto.CloneOf(job.Settings)
	if settings == nil {
		settings = &upscalev1.Start{}
	}
	if settings.Output == nil {
		settings.Output = &upscalev1.Output{}
	}
	settings.Output.Seekable = job.Out.at != nil
	if job.Resume != nil {
		settings.Resume = &upscalev1.Resume{Size: uint64(max(job.Resume.Size, 0))}
	}

	begin, seekable := position(job.In)
	pause := &politePause{ExponentialBackOff: backoff.NewExponentialBackOff()}
	attempt := func() (*upscalev1.Summary, error) {
		summary, err := c.upscaleOnce(ctx, settings, job)
		if err == nil {
			return summary, nil
		}
		var e *Error
		if !errors.As(err, &e) || !e.Busy() || !seekable || job.Out.bytes > 0 || job.Patience < 0 {
			return nil, backoff.Permanent(err)
		}
		if _, err := job.In.(io.Seeker).Seek(begin, io.SeekStart); err != nil {
			return nil, backoff.Permanent(&InputError{Err: err})
		}
		pause.atLeast = e.RetryAfter
		return nil, err
	}
	patience := job.Patience
	if patience == 0 {
		patience = DefaultPatience
	}
	return backoff.Retry(ctx, attempt,
		backoff.WithBackOff(pause),
		backoff.WithMaxElapsedTime(patience),
		backoff.WithNotify(func(err error, pause time.Duration) {
			job.tell(Event{Busy: &Busy{Reason: err, Pause: pause}})
		}))
}

// politePause waits as long as the server asked for, and a growing, random time more, so that many clients that were sent
// away together do not come back together.
type politePause struct {
	*backoff.ExponentialBackOff
	atLeast time.Duration
}

// NextBackOff returns the next pause.
func (p *politePause) NextBackOff() time.Duration {
	return p.atLeast + p.ExponentialBackOff.NextBackOff()
}

func (j *Job) tell(e Event) {
	if j.On != nil {
		j.On(e)
	}
}

// uploadTo is the sending half of an Upscale call: the settings, then the input.
func uploadTo(stream grpc.BidiStreamingClient[upscalev1.UpscaleRequest, upscalev1.UpscaleResponse], settings *upscalev1.Start) uploadStream {
	return uploadStream{
		start: func() error {
			return stream.Send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Start{Start: settings}})
		},
		chunk: func(chunk *upscalev1.Chunk) error {
			return stream.Send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Chunk{Chunk: chunk}})
		},
		end: stream.CloseSend,
	}
}

// upscaleOnce is one attempt at a job: this goroutine receives, another sends.
func (c *Client) upscaleOnce(ctx context.Context, settings *upscalev1.Start, job Job) (*upscalev1.Summary, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stream, err := c.api.Upscale(ctx)
	if err != nil {
		cancel(nil)
		return nil, c.translate(ctx, err)
	}
	to := uploadTo(stream, settings)
	if start := to.start; job.Resume != nil {
		to.start = func() error {
			if err := start(); err != nil {
				return err
			}
			return sendResumed(stream.Send, job.Resume, cancel)
		}
	}
	upload := startUpload(job.In, cancel, to)
	defer upload.stop()

	var summary *upscalev1.Summary
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, c.translate(ctx, err)
		}
		if summary != nil {
			return nil, &ProtocolError{Text: "the server went on after its summary"}
		}
		switch p := response.GetPayload().(type) {
		case *upscalev1.UpscaleResponse_Accepted:
			job.tell(Event{Accepted: p.Accepted})
		case *upscalev1.UpscaleResponse_Progress:
			job.tell(Event{Progress: p.Progress})
		case *upscalev1.UpscaleResponse_Notice:
			job.tell(Event{Notice: p.Notice})
		case *upscalev1.UpscaleResponse_Chunk:
			if err := job.Out.put(p.Chunk.GetData(), p.Chunk.GetOffset(), p.Chunk.GetFile()); err != nil {
				return nil, err
			}
		case *upscalev1.UpscaleResponse_Summary:
			summary = p.Summary
		default: // a kind of answer that a later server knows
		}
	}
	if summary == nil {
		return nil, &ProtocolError{Text: "the server ended the job without a summary, so the result may be incomplete"}
	}
	if err := job.Out.check(summary); err != nil {
		return nil, err
	}
	return summary, nil
}

// sendResumed sends the interrupted output. One that cannot be read ends the call.
func sendResumed(send func(*upscalev1.UpscaleRequest) error, r *Resume, cancel context.CancelCauseFunc) error {
	for at := int64(0); at < r.Size; {
		buf := make([]byte, min(chunkSize, r.Size-at))
		n, err := r.Output.ReadAt(buf, at)
		if n < len(buf) {
			err = &InputError{Err: fmt.Errorf("reading the interrupted output: %w", err)}
			cancel(err)
			return err
		}
		chunk := &upscalev1.Chunk{Data: buf, Offset: uint64(at)}
		if err := send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Resumed{Resumed: chunk}}); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// check compares what arrived with what the server says it made.
func (o *Output) check(s *upscalev1.Summary) error {
	switch {
	case s.GetFramesEncoded() != s.GetFramesDecoded():
		return &ProtocolError{Text: fmt.Sprintf("the result is not whole: %d frames were decoded and %d encoded",
			s.GetFramesDecoded(), s.GetFramesEncoded())}
	case !bytes.Equal(s.GetSha256(), o.hash.Sum(nil)):
		return &ProtocolError{Text: fmt.Sprintf("the result was damaged on its way: the SHA-256 of the %d bytes received is not the one the server computed",
			o.bytes)}
	}
	return nil
}
