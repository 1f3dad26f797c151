package live

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/amf0"
	"github.com/bluenviron/gortmplib/pkg/bytecounter"
	"github.com/bluenviron/gortmplib/pkg/handshake"
	"github.com/bluenviron/gortmplib/pkg/message"
	"github.com/bluenviron/gortsplib/v5/pkg/format"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/ac3"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg1audio"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/opus"
)

const (
	rtmpChunk  = 64 << 10
	rtmpWindow = 2500000 // bytes between acknowledgements; what others use
	// rtmpStream is the message stream that the first createStream of a connection makes, as gortmplib's writer assumes.
	rtmpStream = 1 << 24
	// What an RTMP client says it can decode: H.264 and AAC, MP3 and uncompressed sound; the rest by its four letters.
	rtmpSound = 0x0001 | 0x0004 | 0x0080 | 0x0100 | 0x0400
	rtmpVideo = 0x0080
)

// rtmpConn is the client's side of an RTMP connection. gortmplib's own client dials by itself and answers pings while another
// goroutine writes; this one is dialled by the guard, and writes one message at a time. It is a gortmplib.Conn.
type rtmpConn struct {
	net.Conn
	bytes *bytecounter.ReadWriter
	r     *message.Reader

	mu      sync.Mutex
	w       *message.Writer
	timeout time.Duration // of each write
}

var _ gortmplib.Conn = rtmpMessages{}

// rtmpMessages hides the net.Conn, whose Read and Write are about bytes.
type rtmpMessages struct{ *rtmpConn }

func (c rtmpMessages) BytesReceived() uint64 { return c.bytes.Reader.Count() }
func (c rtmpMessages) BytesSent() uint64     { return c.bytes.Writer.Count() }

func (c rtmpMessages) Read() (message.Message, error) {
	m, err := c.r.Read()
	if ping, ok := m.(*message.UserControlPingRequest); ok && err == nil {
		err = c.Write(&message.UserControlPingResponse{ServerTime: ping.ServerTime})
	}
	return m, err
}

func (c rtmpMessages) Write(m message.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(c.timeout))
	return c.w.Write(m)
}

// command sends a command and waits for its answer.
func (c rtmpMessages) command(stream uint32, id int, name string, args ...any) (*message.CommandAMF0, error) {
	command := &message.CommandAMF0{ChunkStreamID: 3, MessageStreamID: stream, Name: name, CommandID: id, Arguments: args}
	if stream != 0 {
		command.ChunkStreamID = 4
	}
	if err := c.Write(command); err != nil {
		return nil, err
	}
	for {
		m, err := c.Read()
		if err != nil {
			return nil, err
		}
		answer, ok := m.(*message.CommandAMF0)
		if !ok {
			continue
		}
		// onStatus answers what is about a stream; some servers do not repeat the number of the command.
		switch {
		case answer.Name == "_error", answer.Name == "onStatus" && !strings.Contains(statusOf(answer, "level"), "status"):
			return nil, fmt.Errorf("the server refused %s: %s", name, statusOf(answer, "description"))
		case answer.Name == "onStatus" && stream != 0, answer.Name == "_result" && answer.CommandID == id:
			return answer, nil
		}
	}
}

func statusOf(m *message.CommandAMF0, key string) string {
	for _, arg := range m.Arguments {
		object, ok := arg.(amf0.Object)
		if array, isArray := arg.(amf0.ECMAArray); isArray {
			object, ok = amf0.Object(array), true
		}
		if ok {
			if s, found := object.GetString(key); found {
				return s
			}
		}
	}
	return ""
}

// dialRTMP connects and asks to play or publish. The connection is closed when ctx ends.
func dialRTMP(ctx context.Context, c *conn, publish bool) (_ rtmpMessages, _ func() bool, err error) {
	nc, err := c.guard.dial(ctx, c.scheme, "tcp", c.hostport())
	if err != nil {
		return rtmpMessages{}, nil, err
	}
	raw := nc // closes at once, where TLS would say goodbye to somebody who may not listen
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer func() {
		if err != nil {
			stop()
			_ = raw.Close()
		}
	}()
	_ = nc.SetReadDeadline(time.Now().Add(connectTimeout / 2))
	if c.scheme == "rtmps" {
		nc = tls.Client(nc, &tls.Config{ServerName: c.host})
	}
	counted := bytecounter.NewReadWriter(nc)
	if _, _, err := handshake.DoClient(counted, false, false); err != nil {
		return rtmpMessages{}, nil, err
	}
	rc := rtmpMessages{&rtmpConn{Conn: nc, bytes: counted, timeout: c.silence, w: message.NewWriter(counted, counted.Writer, false)}}
	rc.r = message.NewReader(counted, counted.Reader, func(count uint32) error {
		return rc.Write(&message.Acknowledge{Value: count})
	})
	if err := rc.open(c, publish); err != nil {
		return rtmpMessages{}, nil, err
	}
	_ = nc.SetReadDeadline(time.Time{})
	return rc, stop, nil
}

func (c rtmpMessages) open(to *conn, publish bool) error {
	for _, m := range []message.Message{
		&message.SetWindowAckSize{Value: rtmpWindow},
		&message.SetPeerBandwidth{Value: rtmpWindow, Type: 2},
		&message.SetChunkSize{Value: rtmpChunk},
	} {
		if err := c.Write(m); err != nil {
			return err
		}
	}
	app, key := splitRTMP(to.url.EscapedPath(), to.url.RawQuery)
	connect := amf0.Object{
		{Key: "app", Value: app},
		{Key: "flashVer", Value: "LNX 9,0,124,2"}, // servers refuse clients whose version they cannot read
		{Key: "tcUrl", Value: to.scheme + "://" + to.url.Host + "/" + app},
		{Key: "objectEncoding", Value: float64(0)},
	}
	if !publish {
		connect = append(connect,
			amf0.ObjectEntry{Key: "fpad", Value: false},
			amf0.ObjectEntry{Key: "capabilities", Value: float64(15)},
			amf0.ObjectEntry{Key: "audioCodecs", Value: float64(rtmpSound)},
			amf0.ObjectEntry{Key: "videoCodecs", Value: float64(rtmpVideo)},
			amf0.ObjectEntry{Key: "videoFunction", Value: float64(0)},
			amf0.ObjectEntry{Key: "fourCcList", Value: amf0.StrictArray{"hvc1", "avc1", "Opus", "ac-3", "mp4a", ".mp3"}})
	}
	if _, err := c.command(0, 1, "connect", connect); err != nil {
		return err
	}
	if publish {
		for i, name := range []string{"releaseStream", "FCPublish"} { // to which not every server answers
			if err := c.Write(&message.CommandAMF0{ChunkStreamID: 3, Name: name, CommandID: 2 + i, Arguments: []any{nil, key}}); err != nil {
				return err
			}
		}
	}
	answer, err := c.command(0, 4, "createStream", nil)
	if err != nil {
		return err
	}
	if n := len(answer.Arguments); n == 0 || answer.Arguments[n-1] != float64(1) {
		return errors.New("the server made another stream than the first")
	}
	if publish {
		_, err = c.command(rtmpStream, 5, "publish", nil, key, "live")
	} else {
		if err := c.Write(&message.UserControlSetBufferLength{BufferLength: 100}); err != nil {
			return err
		}
		_, err = c.command(rtmpStream, 5, "play", nil, key)
	}
	return err
}

// splitRTMP splits a path into the application, which is what comes before the last slash, and the key of the stream. A path of
// one part is the application; the query, where servers look for tokens, goes with what is last.
func splitRTMP(path, query string) (app, key string) {
	path = strings.TrimPrefix(path, "/")
	if query != "" {
		query = "?" + query
	}
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:] + query
	}
	return path + query, ""
}

func pullRTMP(ctx context.Context, c *conn) error {
	rc, stop, err := dialRTMP(ctx, c, false)
	if err != nil {
		return err
	}
	defer rc.Close()
	defer stop()
	r := &gortmplib.Reader{Conn: rc}
	if err := r.Initialize(); err != nil {
		return err
	}
	m, err := newMuxer(ctx, c, r.Tracks())
	if err != nil {
		return err
	}
	var failed error
	write := func(f format.Format, pts, dts time.Duration, data [][]byte) {
		if err := m.write(f, ticks(int64(pts), int64(time.Second)), ticks(int64(dts), int64(time.Second)), data); err != nil {
			failed = err
		}
	}
	for _, f := range r.Tracks() {
		if !m.holds(f) {
			continue
		}
		video := func(pts, dts time.Duration, au [][]byte) { write(f, pts, dts, au) }
		audio := func(pts time.Duration, frame []byte) { write(f, pts, pts, [][]byte{frame}) }
		switch t := f.(type) {
		case *format.H264:
			r.OnDataH264(t, video)
		case *format.H265:
			r.OnDataH265(t, video)
		case *format.MPEG4Audio:
			r.OnDataMPEG4Audio(t, audio)
		case *format.Opus:
			r.OnDataOpus(t, audio)
		case *format.MPEG1Audio:
			r.OnDataMPEG1Audio(t, audio)
		case *format.AC3:
			r.OnDataAC3(t, audio)
		}
	}
	c.ready()
	for failed == nil {
		if err := r.Read(); err != nil {
			return err
		}
	}
	return failed
}

// rtmpPublisher sends by publish.
type rtmpPublisher struct {
	conn   rtmpMessages
	stop   func() bool
	w      *gortmplib.Writer
	tracks []format.Format
	ended  chan struct{} // closed when reading has ended
	why    error         // by which it has ended

	notice  func(string)
	leftOut bool // the MPEG audio, as the user was told
}

func publishRTMP(ctx context.Context, c *conn, tracks []format.Format) (publisher, error) {
	rc, stop, err := dialRTMP(ctx, c, true)
	if err != nil {
		return nil, err
	}
	p := &rtmpPublisher{conn: rc, stop: stop, w: &gortmplib.Writer{Conn: rc, Tracks: tracks}, tracks: tracks, ended: make(chan struct{}), notice: c.notice}
	go func() { // reads pings and acknowledgements, and notices the end
		defer close(p.ended)
		defer rc.Close()
		for p.why == nil {
			p.why = c.contain(func() error {
				_, err := rc.Read()
				return err
			})
		}
	}()
	if err := p.w.Initialize(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *rtmpPublisher) send(_ context.Context, s sample) error {
	err := p.write(s)
	if errors.Is(err, net.ErrClosed) {
		<-p.ended
		return p.why
	}
	return err
}

func (p *rtmpPublisher) write(s sample) error {
	pts, dts := duration(s.pts), duration(s.dts)
	switch f := p.tracks[s.track].(type) {
	case *format.H264:
		return p.w.WriteH264(f, pts, dts, s.data)
	case *format.H265:
		return p.w.WriteH265(f, pts, dts, s.data)
	case *format.MPEG4Audio:
		return each(s.data, pts, func(at time.Duration, d []byte) (time.Duration, error) {
			return time.Second * mpeg4audio.SamplesPerAccessUnit / time.Duration(f.Config.SampleRate), p.w.WriteMPEG4Audio(f, at, d)
		})
	case *format.Opus:
		return each(s.data, pts, func(at time.Duration, d []byte) (time.Duration, error) {
			return time.Second * time.Duration(opus.PacketDuration2(d)) / 48000, p.w.WriteOpus(f, at, d)
		})
	case *format.MPEG1Audio:
		return each(s.data, pts, func(at time.Duration, d []byte) (time.Duration, error) {
			var h mpeg1audio.FrameHeader
			if err := h.Unmarshal(d); err != nil || p.leftOut {
				return 0, nil //nolint:nilerr // a damaged frame is left out
			}
			if h.Layer != 3 || h.MPEG2 || h.SampleRate != 44100 {
				p.leftOut = true
				p.notice(fmt.Sprintf("left out the MPEG audio: RTMP has only MP3 of 44100 samples a second, not layer %d of %d", h.Layer, h.SampleRate))
				return 0, nil
			}
			return time.Second * time.Duration(h.SampleCount()) / time.Duration(h.SampleRate), p.w.WriteMPEG1Audio(f, at, d)
		})
	case *format.AC3:
		return each(s.data, pts, func(at time.Duration, d []byte) (time.Duration, error) {
			return time.Second * ac3.SamplesPerFrame / time.Duration(f.SampleRate), p.w.WriteAC3(f, at, d)
		})
	}
	return nil
}

// each gives every audio frame its own time, by the length of those before it.
func each(frames [][]byte, at time.Duration, write func(at time.Duration, frame []byte) (length time.Duration, err error)) error {
	for _, frame := range frames {
		length, err := write(at, frame)
		if err != nil {
			return err
		}
		at += length
	}
	return nil
}

func (p *rtmpPublisher) close() {
	p.stop()
	_ = p.conn.Close()
	<-p.ended
}
