package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	upscalev1 "upscaler/gen/upscale/v1"
)

// uploadStream is the sending half of a call. Its functions are called by one goroutine, in this order.
type uploadStream struct {
	start func() error
	chunk func(*upscalev1.Chunk) error
	end   func() error
}

// upload is the goroutine that sends one input.
type upload struct {
	cancel   context.CancelCauseFunc
	seekable bool
	done     chan struct{}
}

// startUpload begins to send in. When in cannot be read, cancel is called with an *InputError, so that the call ends with
// it as its cause. A failing send only ends the upload: the reason is the call's status, which the receiving side gets.
func startUpload(in io.Reader, cancel context.CancelCauseFunc, s uploadStream) *upload {
	_, seekable := position(in)
	u := &upload{cancel: cancel, seekable: seekable, done: make(chan struct{})}
	go func() {
		defer close(u.done)
		if err := sendAll(in, chunkSize, s); err != nil {
			cancel(err)
		}
	}()
	return u
}

// stop ends the call and waits for the upload goroutine, so that the caller may use the input again. It does not wait for
// an input that cannot seek: a terminal or a pipe may block in Read for ever, and nobody can use it again anyway.
func (u *upload) stop() {
	u.cancel(nil)
	if u.seekable {
		<-u.done
	}
}

// sendAll sends what in holds in chunks of at most size bytes, as it comes: a live feed's short reads become short chunks, nothing waits for a full one.
func sendAll(in io.Reader, size int, s uploadStream) error {
	// A failing send is no error here: it means that the call has ended, and the receiving side gets to know why.
	for sent := s.start() == nil; sent; {
		// gRPC forbids to reuse a message's memory after it was sent.
		buf := make([]byte, size)
		n, err := in.Read(buf)
		if n > 0 {
			sent = s.chunk(&upscalev1.Chunk{Data: buf[:n]}) == nil
		}
		if errors.Is(err, io.EOF) {
			_ = s.end()
			return nil
		}
		if err != nil {
			return &InputError{Err: err}
		}
	}
	return nil
}

// position returns the offset at which in stands, and whether it can be brought back there.
func position(in io.Reader) (int64, bool) {
	s, ok := in.(io.Seeker)
	if !ok {
		return 0, false
	}
	at, err := s.Seek(0, io.SeekCurrent)
	return at, err == nil // a pipe is an *os.File, too, but cannot seek
}

// InputError says that the input could not be read on this side.
type InputError struct{ Err error }

func (e *InputError) Error() string { return fmt.Sprintf("the input cannot be read: %v", e.Err) }

// Unwrap returns the reader's error.
func (e *InputError) Unwrap() error { return e.Err }
