package server

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// Messages and admission. A message may be as large as a whole picture (maxMessage), and gRPC reads one into memory as soon as
// somebody waits for it. So nobody waits before the call has a place among MaxJobs: of a call without one, gRPC takes no more
// than the stream's window from the network. The price is that a place is taken before it is known what for; who says nothing
// loses it after firstMessageTimeout. What calls without payloads may send is another matter, see smallCalls.

// admit reserves a place for a job, or says with a status why there is none. The returned function gives it back.
func (s *Server) admit() (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, errShutdown
	}
	if s.running >= s.limits.MaxJobs {
		return nil, exhausted()
	}
	s.running++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
		if s.draining && s.running == 0 {
			close(s.idle)
		}
	}), nil
}

// admitted admits a call and receives its first message. The caller calls release when the call ends.
func admitted[T any](s *Server, recv func() (T, error)) (first T, release func(), err error) {
	if release, err = s.admit(); err != nil {
		return first, nil, err
	}
	if first, err = firstMessage(s, recv); err != nil {
		release()
		return first, nil, err
	}
	return first, release, nil
}

// firstMessage receives a call's first message, which must come soon. When it does not, the receiving goroutine ends with the
// call: recv then fails.
func firstMessage[T any](s *Server, recv func() (T, error)) (first T, err error) {
	received := make(chan struct{})
	var message T // set, as is failed, before received is closed
	var failed error
	s.recvLoops.Add(1)
	go func() {
		defer s.recvLoops.Add(-1)
		defer close(received)
		message, failed = recv()
	}()
	timeout := time.NewTimer(s.limits.FirstMessageTimeout)
	defer timeout.Stop()
	select {
	case <-received:
		if errors.Is(failed, io.EOF) {
			return first, errNoStart
		}
		return message, failed
	case <-timeout.C:
		return first, errStalled
	case <-s.stop.Done():
		return first, context.Cause(s.stop)
	}
}

// jobContext returns a context that ends with the call's, after the longest time the job may take, or with the server.
func (s *Server) jobContext(ctx context.Context, longest time.Duration) (context.Context, context.CancelCauseFunc) {
	ctx, timeout := context.WithTimeoutCause(ctx, longest, errTooLong)
	ctx, cancel := context.WithCancelCause(ctx)
	release := context.AfterFunc(s.stop, func() { cancel(context.Cause(s.stop)) })
	return ctx, func(cause error) {
		release()
		cancel(cause)
		timeout()
	}
}
