package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"time"

	"github.com/bluenviron/gortsplib/v5"
	"github.com/bluenviron/gortsplib/v5/pkg/base"
	"github.com/bluenviron/gortsplib/v5/pkg/description"
	"github.com/bluenviron/gortsplib/v5/pkg/format"
	"github.com/bluenviron/gortsplib/v5/pkg/headers"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg1audio"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/opus"
	"github.com/pion/rtp"
)

// rtspClient is a client that reaches nothing but what the guard allows: its media come and go within the one TCP connection, and
// it never opens a UDP port, whatever an SDP says.
func rtspClient(c *conn) *gortsplib.Client {
	protocol := gortsplib.ProtocolTCP
	dials := 0
	client := &gortsplib.Client{
		Scheme: c.scheme, Host: c.hostport(), Protocol: &protocol, UserAgent: "video-upscaler",
		ReadTimeout: max(connectTimeout/2, c.silence+5*time.Second), WriteTimeout: c.silence,
		WriteQueueSize: 512, // packets of 1.4 kB, beside the sink's own buffer
		ListenPacket: func(string, string) (net.PacketConn, error) {
			return nil, errors.New("UDP is not used")
		},
		OnTransportSwitch: func(error) {},
		OnPacketsLost:     func(uint64) {},
		OnDecodeError:     func(error) {},
	}
	client.DialContext = func(ctx context.Context, network, hostport string) (net.Conn, error) {
		// A redirect has changed the client's scheme and host before it gets here.
		if dials++; dials > maxDials {
			return nil, fmt.Errorf("%d redirections", dials-1)
		}
		return c.guard.dial(ctx, client.Scheme, network, hostport)
	}
	return client
}

func (c *conn) rtspURL() (*base.URL, error) {
	u, err := base.ParseURL(c.url.String())
	if err != nil {
		return nil, &AddressError{c.String(), err.Error()}
	}
	u.Host = c.hostport()
	return u, nil
}

func pullRTSP(ctx context.Context, c *conn) error {
	u, err := c.rtspURL()
	if err != nil {
		return err
	}
	client := rtspClient(c)
	if err := client.Start(); err != nil {
		return err
	}
	defer client.Close()
	defer context.AfterFunc(ctx, client.Close)()

	session, _, err := client.Describe(u)
	if err != nil {
		return err
	}
	var formats []format.Format
	for _, media := range session.Medias {
		if !media.IsBackChannel {
			formats = append(formats, media.Formats...)
		}
	}
	m, err := newMuxer(ctx, c, formats)
	if err != nil {
		return err
	}
	clocks := &rtspClocks{played: make(chan struct{}), shift: map[format.Format]int64{}, start: map[string]uint32{}}
	for _, media := range session.Medias {
		for _, f := range media.Formats {
			if media.IsBackChannel || !m.holds(f) {
				continue
			}
			decode, err := rtpDecoder(f)
			if err != nil {
				return err
			}
			if _, err := client.Setup(session.BaseURL, media, 0, 0); err != nil {
				return err
			}
			client.OnPacketRTP(media, f, func(packet *rtp.Packet) {
				arrived, ok := client.PacketPTS(media, packet)
				if !ok {
					return
				}
				pts := clocks.pts(ctx, media, f, packet.Timestamp, ticks(arrived, int64(f.ClockRate())))
				// An error means that more packets are needed, or that one was damaged and the next frame is waited for.
				_ = c.contain(func() error {
					data, err := decode(packet)
					if err != nil {
						return err
					}
					return m.write(f, pts, noDTS, data) // fails when ctx has ended, which ends the client
				})
			})
			break // one format of each media can be set up
		}
	}
	answer, err := client.Play(nil)
	if err != nil {
		return err
	}
	clocks.take(answer)
	c.ready()
	return client.Wait()
}

// maxShift is how far what RTP-Info says may be from when packets arrive. Some cameras write there what comes to their mind.
const maxShift = clock

// rtspClocks line the tracks up. gortsplib counts a track's time from when its first packet arrives; what the server says in
// RTP-Info, which time of each track belongs to the beginning, is more exact where it is said.
type rtspClocks struct {
	played chan struct{} // closed when the answer to PLAY has been read; the first packets may come before
	start  map[string]uint32
	shift  map[format.Format]int64
	first  *int64 // of the first track: by how much the two differ
}

func (c *rtspClocks) take(play *base.Response) {
	defer close(c.played)
	var info headers.RTPInfo
	if info.Unmarshal(play.Header["RTP-Info"]) != nil {
		return
	}
	for _, e := range info {
		if e.Timestamp != nil {
			c.start[path.Base(e.URL)] = *e.Timestamp
		}
	}
}

// pts returns the time of a packet of which gortsplib says that it is at arrived. It is called by one goroutine.
func (c *rtspClocks) pts(ctx context.Context, media *description.Media, f format.Format, timestamp uint32, arrived int64) int64 {
	shift, known := c.shift[f]
	if !known {
		select {
		case <-c.played:
		case <-ctx.Done():
		}
		if start, ok := c.start[path.Base(media.Control)]; ok {
			differ := ticks(int64(int32(timestamp-start)), int64(f.ClockRate())) - arrived
			if c.first == nil {
				c.first = &differ
			}
			if shift = differ - *c.first; shift > maxShift || shift < -maxShift {
				shift = 0
			}
		}
		c.shift[f] = shift
	}
	return arrived + shift
}

func rtpDecoder(f format.Format) (func(*rtp.Packet) ([][]byte, error), error) {
	switch f := f.(type) {
	case *format.H264:
		d, err := f.CreateDecoder()
		return d.Decode, err
	case *format.H265:
		d, err := f.CreateDecoder()
		return d.Decode, err
	case *format.MPEG4Audio:
		d, err := f.CreateDecoder()
		return d.Decode, err
	case *format.MPEG1Audio:
		d, err := f.CreateDecoder()
		return d.Decode, err
	case *format.AC3:
		d, err := f.CreateDecoder()
		return d.Decode, err
	case *format.Opus:
		d, err := f.CreateDecoder()
		return func(p *rtp.Packet) ([][]byte, error) {
			data, err := d.Decode(p)
			return [][]byte{data}, err
		}, err
	}
	return nil, fmt.Errorf("no way to read %s", f.Codec())
}

// rtspPublisher sends by ANNOUNCE and RECORD.
type rtspPublisher struct {
	client *gortsplib.Client
	tracks []rtspTrack
	start  time.Time
	stop   func() bool

	lead  int      // the track that begins: the video, if there is one
	begun bool     // packets are sent
	held  []sample // until then
}

// maxHold is how long the beginning waits for the other tracks, by the time of the leading one.
const maxHold = clock

// begin holds samples back until every track has one that is not from before the first video frame, and then sends them in order
// and at their times until every track has begun. Media servers, mediamtx among them, take a track's time from when its first packet comes after
// one of the other track, and so the sound would be off for good by as much as a muxer lets it lag.
func (p *rtspPublisher) begin(ctx context.Context, s sample) error {
	p.held = append(p.held, s)
	first := slices.IndexFunc(p.held, func(s sample) bool { return s.track == p.lead })
	if first < 0 {
		p.held = nil
		return nil
	}
	start := p.held[first].pts
	ready := map[int]bool{}
	for _, h := range p.held {
		if h.pts >= start {
			ready[h.track] = true
		}
	}
	if len(ready) < len(p.tracks) && s.dts-start < maxHold {
		return nil
	}
	p.begun = true
	held, at := p.held[first:], time.Now()
	p.held = nil
	// The first video frame is due at its PTS, those after it as much later as their DTS say, which is their order.
	lead := held[0].dts
	due := func(s sample) int64 {
		if s.track == p.lead {
			return s.dts - lead
		}
		return s.pts - start
	}
	slices.SortStableFunc(held, func(a, b sample) int { return cmp.Compare(due(a), due(b)) })
	for _, h := range held {
		if due(h) < 0 {
			continue
		}
		if len(ready) > 0 && !wait(ctx, time.Until(at.Add(duration(due(h))))) {
			return context.Cause(ctx)
		}
		delete(ready, h.track)
		if err := p.sendNow(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

type rtspTrack struct {
	media  *description.Media
	rate   int64
	encode func([][]byte) ([]*rtp.Packet, error)
}

func publishRTSP(ctx context.Context, c *conn, tracks []format.Format) (publisher, error) {
	u, err := c.rtspURL()
	if err != nil {
		return nil, err
	}
	p := &rtspPublisher{client: rtspClient(c), start: time.Now()}
	session := &description.Session{}
	for _, f := range tracks {
		t := rtspTrack{media: &description.Media{Type: description.MediaTypeAudio, Formats: []format.Format{f}}, rate: int64(f.ClockRate())}
		if isVideo(f) {
			t.media.Type = description.MediaTypeVideo
			p.lead = len(p.tracks)
		}
		if t.encode, err = rtpEncoder(f); err != nil {
			return nil, err
		}
		session.Medias = append(session.Medias, t.media)
		p.tracks = append(p.tracks, t)
	}
	if err := p.client.Start(); err != nil {
		return nil, err
	}
	p.stop = context.AfterFunc(ctx, p.client.Close)
	_, err = p.client.Announce(u, session)
	if err == nil {
		err = p.client.SetupAll(u, session.Medias)
	}
	if err == nil {
		_, err = p.client.Record()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *rtspPublisher) send(ctx context.Context, s sample) error {
	if !p.begun {
		return p.begin(ctx, s)
	}
	return p.sendNow(ctx, s)
}

func (p *rtspPublisher) sendNow(ctx context.Context, s sample) error {
	t := p.tracks[s.track]
	packets, err := t.encode(s.data)
	if err != nil {
		return nil //nolint:nilerr // a frame that RTP cannot carry is left out
	}
	// The receiver lines tracks up by this time, so it follows from the PTS and not from when the packet happened to be sent.
	ntp := p.start.Add(duration(s.pts))
	for _, packet := range packets {
		packet.Timestamp += uint32(s.pts/clock*t.rate + s.pts%clock*t.rate/clock)
		for {
			err := p.client.WritePacketRTPWithNTP(t.media, packet, ntp)
			if !isQueueFull(err) {
				if err != nil {
					return err
				}
				break
			}
			// The connection takes it slowly. It ends by its own timeout when it takes nothing.
			if !wait(ctx, 5*time.Millisecond) {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

func (p *rtspPublisher) close() {
	p.stop()
	p.client.Close()
}

func rtpEncoder(f format.Format) (func([][]byte) ([]*rtp.Packet, error), error) {
	switch f := f.(type) {
	case *format.H264:
		e, err := f.CreateEncoder()
		return e.Encode, err
	case *format.H265:
		e, err := f.CreateEncoder()
		return e.Encode, err
	case *format.MPEG4Audio:
		e, err := f.CreateEncoder()
		return e.Encode, err
	case *format.AC3:
		e, err := f.CreateEncoder()
		return e.Encode, err
	case *format.MPEG1Audio: // whose encoder counts samples where RTP has 1/90000 s
		e, err := f.CreateEncoder()
		return framewise(func(frame []byte) ([]*rtp.Packet, error) { return e.Encode([][]byte{frame}) }, func(frame []byte) uint32 {
			var h mpeg1audio.FrameHeader
			if h.Unmarshal(frame) != nil {
				return 0
			}
			return uint32(h.SampleCount() * clock / h.SampleRate)
		}), err
	case *format.Opus:
		e, err := f.CreateEncoder()
		return framewise(func(frame []byte) ([]*rtp.Packet, error) {
			p, err := e.Encode(frame)
			return []*rtp.Packet{p}, err
		}, func(frame []byte) uint32 { return uint32(opus.PacketDuration2(frame)) }), err
	}
	return nil, fmt.Errorf("no way to send %s by RTSP", f.Codec())
}

// framewise encodes frames one by one, each later by the length of those before it.
func framewise(encode func([]byte) ([]*rtp.Packet, error), length func([]byte) uint32) func([][]byte) ([]*rtp.Packet, error) {
	return func(frames [][]byte) (all []*rtp.Packet, _ error) {
		var at uint32
		for _, frame := range frames {
			packets, err := encode(frame)
			if err != nil {
				return nil, err
			}
			for _, p := range packets {
				p.Timestamp += at
			}
			all = append(all, packets...)
			at += length(frame)
		}
		return all, nil
	}
}
