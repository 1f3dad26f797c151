package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bluenviron/gortsplib/v5/pkg/format"
	"github.com/bluenviron/gortsplib/v5/pkg/liberrors"
)

// linger is the time that Close gives what is waiting.
const linger = 2 * time.Second

// A pusher connects, calls connected, and sends what it reads from q until the connection ends. It returns io.EOF when q has
// ended, and soon after ctx ends.
type pusher func(ctx context.Context, c *conn, q *gops, connected func()) error

// publisher is a connection of a protocol that sends tracks, not an MPEG-TS.
type publisher interface {
	send(ctx context.Context, s sample) error
	close()
}

// pushTracks makes a pusher of what connects with tracks known.
func pushTracks(publish func(context.Context, *conn, []format.Format) (publisher, error)) pusher {
	told := false
	return func(ctx context.Context, c *conn, q *gops, connected func()) error {
		d, err := openDemuxer(ctx, q)
		if err != nil {
			return err
		}
		p, err := publish(ctx, c, d.tracks)
		if err != nil {
			return err
		}
		defer p.close()
		connected()
		if d.leftOut > 0 && !told {
			told = true
			c.notice(fmt.Sprintf("tracks left out because they cannot be sent by %s or had nothing to send: %d", c.scheme, d.leftOut))
		}
		for {
			s, err := d.next()
			if err != nil {
				return err
			}
			if s.dts < 0 || s.pts < 0 {
				continue // sound from before the first key frame
			}
			if err := p.send(ctx, s); err != nil {
				return err
			}
		}
	}
}

type sink struct {
	*conn
	queue      *gops
	push       pusher
	changed    func(SinkChange)
	cancel     context.CancelCauseFunc
	close      sync.Once
	closing    chan struct{} // closed by Close
	done       chan struct{}
	connected  atomic.Bool
	reconnects atomic.Int64
}

// OpenSink returns a sink that connects in the background, for as long as ctx lasts. It fails with a *RefusedError or an
// *AddressError when the address cannot be used here.
//
// changed, unless nil, is told of each connection made, lost or not made, and of what is left out. It is called by one goroutine
// and must not call the sink.
func (n *Network) OpenSink(ctx context.Context, addr string, changed func(SinkChange)) (Sink, error) {
	a, err := n.sink(addr)
	if err != nil {
		return nil, err
	}
	limit := n.SinkBuffer
	if limit <= 0 {
		limit = defaultSinkBuffer
	}
	s := &sink{
		conn: &conn{address: a, guard: n.guard(n.Sinks, "--allow-sink", a), silence: n.silence(), log: n.log()},
		push: map[string]pusher{
			"srt": pushSRT, "udp": pushUDP, "rtsp": pushTracks(publishRTSP), "rtsps": pushTracks(publishRTSP),
			"rtmp": pushTracks(publishRTMP), "rtmps": pushTracks(publishRTMP),
		}[a.scheme],
		queue: newGOPs(limit), closing: make(chan struct{}), done: make(chan struct{}),
	}
	s.changed = func(change SinkChange) {
		n.log().Info("live sink", "address", a.String(), "connected", change.Connected, "error", change.Err, "notice", change.Notice)
		if changed != nil {
			changed(change)
		}
	}
	s.notice = func(text string) { s.changed(SinkChange{Connected: true, Notice: text}) }
	ctx, s.cancel = context.WithCancelCause(ctx)
	go s.run(ctx)
	return s, nil
}

// run connects and sends, again and again, until the queue or ctx ends.
func (s *sink) run(ctx context.Context) {
	defer close(s.done)
	defer s.cancel(nil)
	pause, connections := Backoff(), int64(0)
	for again := false; ; again = true {
		if again {
			s.queue.restart()
		}
		err := s.contain(func() error {
			return s.push(ctx, s.conn, s.queue, func() {
				if connections++; connections > 1 {
					s.reconnects.Add(1)
				}
				s.connected.Store(true)
				s.changed(SinkChange{Connected: true})
			})
		})
		wasConnected := s.connected.Swap(false)
		if ctx.Err() != nil {
			s.queue.end(context.Cause(ctx))
			return
		}
		if errors.Is(err, io.EOF) && s.isClosing() {
			return // all was sent
		}
		err = s.explain(err)
		s.changed(SinkChange{Err: err})
		if isFinal(err) {
			s.queue.end(err)
			return
		}
		if wasConnected {
			pause.Reset()
		}
		retry := time.NewTimer(pause.NextBackOff())
		select {
		case <-retry.C:
		case <-s.closing:
			retry.Stop()
			return // there is nobody to send the rest to
		case <-ctx.Done():
			retry.Stop()
		}
	}
}

// isFinal says whether connecting again would only fail again.
func isFinal(err error) bool {
	var refused *RefusedError
	var address *AddressError
	return errors.As(err, &refused) || errors.As(err, &address) || errors.Is(err, errNothingToSend)
}

func (s *sink) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

func (s *sink) Write(p []byte) (int, error) {
	if s.isClosing() {
		return 0, errClosed
	}
	if err := s.queue.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *sink) Flush() { s.queue.flush() }

func (s *sink) Stats() SinkStats {
	dropped, queued := s.queue.state()
	return SinkStats{Connected: s.connected.Load(), Reconnects: s.reconnects.Load(), DroppedFrames: dropped, QueuedBytes: queued}
}

func (s *sink) Close() error {
	s.close.Do(func() { close(s.closing) })
	s.queue.end(io.EOF)
	lingering := time.NewTimer(linger)
	defer lingering.Stop()
	select {
	case <-s.done:
	case <-lingering.C:
		s.cancel(errClosed)
		<-s.done
	}
	return nil
}

// hostport is the host and port as they are dialled.
func (a address) hostport() string {
	return net.JoinHostPort(a.host, strconv.Itoa(int(a.port)))
}

func isQueueFull(err error) bool {
	var full liberrors.ErrClientWriteQueueFull
	return errors.As(err, &full)
}
