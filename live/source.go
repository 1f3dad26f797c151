package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"runtime/debug"
	"sync"
	"time"
)

// errClosed is what Read and Write return after Close.
var errClosed = errors.New("live: closed")

// A puller runs one connection to a source until it ends, and returns why. It calls c.ready once data may come, and gives all data to
// c.feed. It returns soon after ctx ends.
type puller func(ctx context.Context, c *conn) error

// conn is what a protocol needs to know about the connection it makes.
type conn struct {
	address
	guard   *guard
	feed    *feed
	ready   func()
	notice  func(string) // what a user should know, one sentence
	silence time.Duration
	log     *slog.Logger
}

// contain runs what reads the bytes of strangers. A panic in it is a bug to be fixed, but ends one connection and not the server.
func (c *conn) contain(read func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic", "address", c.String(), "value", r, "stack", string(debug.Stack()))
			err = errors.New("an internal error ended the connection; the server's log says more")
		}
	}()
	return read()
}

// OpenSource connects to a source and returns when its data may come. It fails with a *RefusedError or an *AddressError when the
// address cannot be used here, and else with why no connection was made. The source ends with ctx.
//
// notice, unless nil, is told in one sentence each what is left out, such as a track that an MPEG-TS cannot hold. It must not
// call the source.
func (n *Network) OpenSource(ctx context.Context, addr string, notice func(string)) (Source, error) {
	a, err := n.source(addr)
	if err != nil {
		return nil, err
	}
	pull := map[string]puller{
		"srt": pullSRT, "udp": pullUDP, "rtsp": pullRTSP, "rtsps": pullRTSP, "rtmp": pullRTMP, "rtmps": pullRTMP,
		"http": pullHLS, "https": pullHLS,
	}[a.scheme]
	ready := make(chan struct{})
	c := &conn{
		address: a, guard: n.guard(n.Sources, "--allow-source", a), feed: newFeed(sourceBuffer), silence: n.silence(), log: n.log(),
		ready: sync.OnceFunc(func() { close(ready) }),
		notice: func(text string) {
			n.log().Info("live source", "address", a.String(), "notice", text)
			if notice != nil {
				notice(text)
			}
		},
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &source{conn: c, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		err := c.contain(func() error { return pull(ctx, c) })
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		c.feed.end(c.explain(err))
		cancel(nil)
	}()
	timeout := time.NewTimer(connectTimeout)
	defer timeout.Stop()
	select {
	case <-ready:
		return s, nil
	case <-s.done:
	case <-timeout.C:
		cancel(fmt.Errorf("no answer within %s", connectTimeout))
		<-s.done
	}
	return nil, c.feed.why()
}

// explain says which address an error is about, unless it says so itself or is not about it.
func (c *conn) explain(err error) error {
	var refused *RefusedError
	var address *AddressError
	var silent *SilentError
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &address):
		return address
	case errors.As(err, &silent):
		return silent
	case errors.Is(err, errOver):
		return io.EOF
	case err == nil, errors.Is(err, io.EOF):
		return fmt.Errorf("%s has ended the connection", c)
	case errors.Is(err, errClosed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	var get *url.Error
	if errors.As(err, &get) { // it tells the whole address, with tokens
		return fmt.Errorf("%s: getting %s: %w", c, withoutSecrets(get.URL), get.Err)
	}
	return fmt.Errorf("%s: %w", c, err)
}

// errOver is a puller's way to say that the stream is over for good.
var errOver = errors.New("the stream is over")

type source struct {
	*conn
	cancel context.CancelCauseFunc
	done   chan struct{}
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.feed.read(p, s.silence)
	if errors.Is(err, errSilent) {
		silent := &SilentError{s.String(), s.silence}
		s.feed.end(silent)
		s.cancel(silent)
		return 0, silent
	}
	return n, err
}

func (s *source) Close() error {
	s.feed.end(errClosed)
	s.cancel(errClosed)
	<-s.done
	return nil
}

var errSilent = errors.New("silent")

// feed holds what came from the network until it is read, bounded in bytes. One goroutine reads; any may write and end it.
type feed struct {
	limit int
	more  chan struct{} // holds a token when something came or the feed ended
	room  chan struct{} // holds a token when something was read or the feed ended

	mu     sync.Mutex
	chunks [][]byte
	size   int
	err    error // set once: why there will be no more
}

func newFeed(limit int) *feed {
	return &feed{limit: limit, more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// offer takes p, which then belongs to the feed, unless it is full.
func (f *feed) offer(p []byte) (taken bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return false, f.err
	}
	if f.size > 0 && f.size+len(p) > f.limit {
		return false, nil
	}
	f.chunks = append(f.chunks, p)
	f.size += len(p)
	signal(f.more)
	return true, nil
}

// write takes p, which then belongs to the feed, as soon as there is room.
func (f *feed) write(ctx context.Context, p []byte) error {
	for {
		taken, err := f.offer(p)
		if taken || err != nil {
			return err
		}
		select {
		case <-f.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// read waits for data, but no longer than silence.
func (f *feed) read(p []byte, silence time.Duration) (int, error) {
	var timeout <-chan time.Time
	for {
		f.mu.Lock()
		if len(f.chunks) > 0 && !errors.Is(f.err, errClosed) {
			n := copy(p, f.chunks[0])
			if f.chunks[0] = f.chunks[0][n:]; len(f.chunks[0]) == 0 {
				f.chunks = f.chunks[1:]
			}
			f.size -= n
			f.mu.Unlock()
			signal(f.room)
			return n, nil
		}
		err := f.err
		f.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if timeout == nil {
			t := time.NewTimer(silence)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-f.more:
		case <-timeout:
			return 0, errSilent
		}
	}
}

// end says why there will be no more. The first reason stays.
func (f *feed) end(err error) {
	f.mu.Lock()
	if f.err == nil {
		f.err = err
	}
	f.mu.Unlock()
	signal(f.more)
	signal(f.room)
}

func (f *feed) why() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
