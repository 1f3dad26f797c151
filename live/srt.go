package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	srt "github.com/datarhei/gosrt"
)

const (
	srtDialTimeout = 3 * time.Second
	// maxLatency bounds what is held back to wait for what was lost: 8 seconds at 50 Mbit/s are 50 MB.
	maxLatency = 8 * time.Second
)

// srtConfig reads the parameters of an SRT address. Only those are taken that say what to connect to and how safely.
func srtConfig(c *conn) (srt.Config, error) {
	config := srt.DefaultConfig()
	config.ConnectionTimeout = srtDialTimeout
	config.PeerIdleTimeout = c.silence + 5*time.Second // the watchdog of the source comes first, and says more
	config.PayloadSize = datagram
	fail := func(format string, args ...any) (srt.Config, error) {
		return config, &AddressError{c.String(), fmt.Sprintf(format, args...)}
	}
	for key, values := range c.url.Query() {
		value := values[0]
		switch key {
		case "mode":
			if value != "caller" && value != "listener" {
				return fail("mode is caller or listener, not %q", value)
			}
		case "streamid":
			config.StreamId = value
		case "passphrase":
			config.Passphrase = value
		case "pbkeylen":
			config.PBKeylen, _ = strconv.Atoi(value)
		case "latency":
			ms, err := strconv.Atoi(value)
			if err != nil || ms < 0 || ms > int(maxLatency.Milliseconds()) {
				return fail("latency is a number of milliseconds up to %d, not %q", maxLatency.Milliseconds(), value)
			}
			config.ReceiverLatency = time.Duration(ms) * time.Millisecond
			config.PeerLatency = config.ReceiverLatency
		case "transtype", "pkt_size", "payloadsize": // known to others; what they say is fixed here
		default:
			return fail("the parameter %q is not known; known are mode, streamid, passphrase, pbkeylen and latency", key)
		}
	}
	if err := config.Validate(); err != nil {
		return fail("%v", err)
	}
	return config, nil
}

// srtStream is a connection that another goroutine may interrupt, which makes Read and Write fail.
type srtStream interface {
	io.ReadWriteCloser
	interrupt()
}

// openSRT connects as caller, or waits for a caller.
func openSRT(ctx context.Context, c *conn) (srtStream, error) {
	config, err := srtConfig(c)
	if err != nil {
		return nil, err
	}
	if c.listens() {
		return acceptSRT(ctx, c, config)
	}
	addrs, err := c.guard.resolve(ctx, c.scheme, c.host, c.port)
	if err != nil {
		return nil, err
	}
	type dialled struct {
		conn srt.Conn
		err  error
	}
	result := make(chan dialled, 1)
	call := &srtCall{refused: make(chan srt.RejectionReason, 1)}
	config.Logger = call
	go func() {
		conn, err := srt.Dial("srt", addrs[0].String(), config)
		call.connected.Store(err == nil)
		result <- dialled{conn, err}
	}()
	timeout := time.NewTimer(srtDialTimeout)
	defer timeout.Stop()
	select {
	case d := <-result:
		if d.err != nil {
			return nil, d.err
		}
		return &srtConn{Conn: d.conn}, nil
	case code := <-call.refused:
		err = fmt.Errorf("the other side refuses the call%s (code %d)", srtReasons[code], code)
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timeout.C:
		err = errors.New("nobody answers by SRT")
	}
	go func() {
		if d := <-result; d.err == nil {
			_ = (&srtConn{Conn: d.conn}).Close()
		}
	}()
	return nil, err
}

// srtReasons are the more telling codes of a refusal.
var srtReasons = map[srt.RejectionReason]string{
	srt.REJ_BADSECRET:     ": the passphrase is wrong",
	srt.REJ_UNSECURE:      ": one side has a passphrase, the other has none",
	srt.REJX_UNAUTHORIZED: ": the stream id lacks the right credentials",
	srt.REJX_FORBIDDEN:    ": the stream id is not allowed",
	srt.REJX_NOTFOUND:     ": there is no such stream id",
}

var srtRejection = regexp.MustCompile(`handshakeType: (0x[0-9a-f]+) \(REJECT`)

// srtCall listens to what gosrt logs while it dials, for want of another way to keep it from leaving goroutines behind.
//
// A call that is refused would leave two of them waiting for each other's end, and so would an answer that comes twice: such an
// answer ends the goroutine that reads it, here, before gosrt acts on it. And a Dial that fails closes its socket and looks only
// once, at once, whether the goroutine that reads from it has ended; it will have if closing waits until that read has timed out,
// which takes three seconds.
type srtCall struct {
	refused   chan srt.RejectionReason
	answered  bool // used by the reading goroutine alone
	connected atomic.Bool
}

func (l *srtCall) HasTopic(string) bool   { return false }
func (l *srtCall) Listen() <-chan srt.Log { return nil }
func (l *srtCall) Close()                 {}
func (l *srtCall) Print(topic string, _ uint32, _ int, message func() string) {
	switch {
	case topic == "handshake:recv:cif":
		text := message()
		if m := srtRejection.FindStringSubmatch(text); m != nil {
			code, _ := strconv.ParseUint(m[1], 0, 32)
			select {
			case l.refused <- srt.RejectionReason(code):
			default:
			}
			runtime.Goexit()
		}
		if strings.Contains(text, "(CONCLUSION)") {
			if l.answered {
				runtime.Goexit()
			}
			l.answered = true
		}
	case topic == "dial" && !l.connected.Load() && message() == "closing socket":
		time.Sleep(3200 * time.Millisecond)
	}
}

// srtConn closes completely: gosrt's goroutine that reads the socket ends only when somebody asks for its last error.
type srtConn struct {
	srt.Conn
	ended atomic.Bool // somebody has asked
}

func (c *srtConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		c.ended.Store(true)
	}
	return n, err
}

func (c *srtConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !errors.Is(err, io.EOF) {
		c.ended.Store(true)
	}
	return n, err
}

func (c *srtConn) interrupt() { _ = c.Conn.Close() }

func (c *srtConn) Close() error {
	err := c.Conn.Close()
	for i := 0; i < 200 && !c.ended.Load(); i++ {
		if _, err := c.Read(make([]byte, 1)); err == nil || !c.ended.Load() {
			time.Sleep(time.Millisecond)
		}
	}
	return err
}

// acceptSRT waits for the first caller that knows the stream id and passphrase, and takes no other.
func acceptSRT(ctx context.Context, c *conn, config srt.Config) (srtStream, error) {
	at, err := c.guard.listenAddr(ctx, c.address)
	if err != nil {
		return nil, err
	}
	listener, err := srt.Listen("srt", at.String(), config)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, listener.Close)
	for {
		request, err := listener.Accept2()
		if err != nil {
			listener.Close()
			return nil, err
		}
		if config.StreamId != "" && request.StreamId() != config.StreamId {
			request.Reject(srt.REJX_FORBIDDEN)
			continue
		}
		if (config.Passphrase != "") != request.IsEncrypted() || (request.IsEncrypted() && request.SetPassphrase(config.Passphrase) != nil) {
			request.Reject(srt.REJ_BADSECRET)
			continue
		}
		conn, err := request.Accept()
		if err != nil {
			continue
		}
		stop()
		return srtAccepted{conn, listener}, nil
	}
}

type srtAccepted struct {
	srt.Conn
	listener srt.Listener
}

func (c srtAccepted) interrupt() { _ = c.Conn.Close() }

func (c srtAccepted) Close() error {
	err := c.Conn.Close()
	c.listener.Close()
	return err
}

func pullSRT(ctx context.Context, c *conn) error {
	stream, err := openSRT(ctx, c)
	if err != nil {
		return err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, stream.interrupt)()
	c.ready()
	return c.pump(ctx, stream.Read)
}

func pushSRT(ctx context.Context, c *conn, q *gops, connected func()) error {
	stream, err := openSRT(ctx, c)
	if err != nil {
		return err
	}
	defer stream.Close()
	q.restart() // what came meanwhile is not worth the delay
	connected()
	return q.sendDatagrams(ctx, func(p []byte) error {
		_, err := stream.Write(p)
		if errors.Is(err, io.EOF) {
			return errors.New("the connection has ended")
		}
		return err
	})
}
