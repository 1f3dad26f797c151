package server

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/internal/notice"
)

// Upscale implements upscale.v1.UpscaleService.
func (s *Server) Upscale(stream grpc.BidiStreamingServer[upscalev1.UpscaleRequest, upscalev1.UpscaleResponse]) error {
	first, release, err := admitted(s, stream.Recv)
	if err != nil {
		return toStatus(err)
	}
	defer release()
	start := first.GetStart()
	if start == nil {
		return toStatus(errNoStart)
	}
	resumed, err := s.newResumed(start)
	if err != nil {
		return toStatus(err)
	}
	defer resumed.close()
	return s.job(stream.Context(), start, resumed.receiver(stream.Recv), func(ctx context.Context, sess *session) error {
		sess.resumed = resumed
		return sess.runAndSend(ctx, stream.Send)
	})
}

// Probe implements upscale.v1.UpscaleService.
func (s *Server) Probe(stream grpc.ClientStreamingServer[upscalev1.ProbeRequest, upscalev1.ProbeResponse]) error {
	first, release, err := admitted(s, stream.Recv)
	if err != nil {
		return toStatus(err)
	}
	defer release()
	start := first.GetStart()
	if start == nil {
		return toStatus(errNoStart)
	}
	return s.job(stream.Context(), start, func() (*upscalev1.Chunk, error) {
		m, err := stream.Recv()
		return chunkOf(m.GetChunk(), err)
	}, func(ctx context.Context, sess *session) error {
		defer sess.startWatch(ctx, func(*upscalev1.Progress) {})()
		var notices noticeList
		p, err := sess.prepare(ctx, notices.add)
		if err != nil {
			return err
		}
		defer p.close()
		return stream.SendAndClose(&upscalev1.ProbeResponse{Accepted: p.accepted, Notices: notices.messages})
	})
}

// job receives an admitted call's chunks in a goroutine of their own, and runs do with a context that ends with the call, the
// job's time limit or the server. Its result is a status.
func (s *Server) job(ctx context.Context, start *upscalev1.Start, recv func() (*upscalev1.Chunk, error),
	do func(context.Context, *session) error) error {
	longest := s.limits.MaxJobTime
	if start.GetMode() == upscalev1.Mode_MODE_LIVE {
		longest = s.limits.MaxLiveTime
	}
	ctx, cancel := s.jobContext(ctx, longest)
	defer cancel(nil)

	reader, writer := io.Pipe()
	sess := s.newSession(start, cancel, reader)
	s.open(sess)
	defer s.end(sess)
	// A job that ends early must free a decoder that waits for input, and the receiver that waits for the decoder.
	defer context.AfterFunc(ctx, func() { writer.CloseWithError(context.Cause(ctx)) })()
	defer reader.Close()

	s.recvLoops.Add(1)
	go func() {
		defer s.recvLoops.Add(-1)
		sess.receive(recv, writer) // ends at the latest when the call has: Recv then fails
	}()

	sess.log.Info("job accepted", "scale", start.GetScale(), "model", start.GetModel(), "size", start.GetInput().GetSize())
	err := do(ctx, sess)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // what failed then, failed because of this
	}
	st := toStatus(err)
	s.metrics.jobEnded(st)
	if err != nil {
		sess.log.Warn("job failed", "err", err)
	} else {
		sess.log.Info("job done", "in", sess.received.Load(), "out", sess.bytesOut)
	}
	return st
}

// runAndSend runs the job while one goroutine sends what it answers, in order.
func (s *session) runAndSend(ctx context.Context, send func(*upscalev1.UpscaleResponse) error) error {
	sent := make(chan struct{})
	var sendErr error // set before sent is closed
	go func() {
		defer close(sent)
		for m := range s.out {
			if sendErr != nil {
				continue // the job is being cancelled; empty the queue so that nothing waits on it
			}
			if sendErr = send(m); sendErr != nil {
				s.cancel(sendErr)
				continue
			}
			s.sent.Add(1)
		}
	}()
	stopWatch := s.startWatch(ctx, s.trySend)
	summary, err := s.run(ctx)
	stopWatch() // nothing may follow the summary
	if err == nil {
		err = s.send(ctx, &upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Summary{Summary: summary}})
	}
	close(s.out)
	if err != nil {
		// Notices that explain the failure may still be under way. But a client that has stopped reading is not waited for: the
		// end of this call sets the goroutine free.
		flush := time.NewTimer(flushTimeout)
		defer flush.Stop()
		select {
		case <-sent:
		case <-flush.C:
		}
		return err
	}
	select {
	case <-sent:
		return sendErr
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// chunkOf checks a message after the first.
func chunkOf(c *upscalev1.Chunk, err error) (*upscalev1.Chunk, error) {
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, toStatus(&protocolError{"payload", "only chunks may follow the first message"})
	}
	if len(c.GetData()) > maxChunk {
		return nil, toStatus(&protocolError{"chunk.data", fmt.Sprintf("a chunk of %d bytes is too large; send at most %d at a time", len(c.GetData()), maxChunk)})
	}
	return c, nil
}

// noticeList collects the notices of a Probe.
type noticeList struct {
	mu       sync.Mutex
	messages []*upscalev1.Notice
}

func (l *noticeList) add(n notice.Notice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.messages) < maxNotices {
		l.messages = append(l.messages, noticeMessage(n))
	}
}
