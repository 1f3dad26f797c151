package live

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/bluenviron/gohlslib/v2"
	"github.com/bluenviron/gohlslib/v2/pkg/codecs"
	"github.com/bluenviron/gortsplib/v5/pkg/format"
)

const (
	// maxSegment is the largest segment: ten seconds at 50 Mbit/s. Two or three are held at once.
	maxSegment = 64 << 20
	// maxPlaylist is the largest playlist: some hours of segments with long addresses.
	maxPlaylist = 1 << 20
	// maxPlaylists is how many playlists are known at most: a stream has one or two, and maybe one for each language.
	maxPlaylists = 64
	// reloadPause is the time between looks at a playlist that has not changed; reloadPatience is when looking ends. Segments are
	// rarely shorter than one second or longer than ten.
	reloadPause    = 250 * time.Millisecond
	reloadPatience = 15 * time.Second
)

// guardedTransport makes every HTTP request of a job: those for playlists and segments, wherever a playlist places them, and those
// that follow a redirect.
//
// A playlist that was fetched before is fetched until it has changed. gohlslib gives up when it looks for the next segment a moment
// too early.
type guardedTransport struct {
	guard  *guard
	plain  *http.Transport
	secure *http.Transport

	mu   sync.Mutex
	seen map[string][sha256.Size]byte // digests of playlists, by address
}

func newGuardedTransport(g *guard) *guardedTransport {
	transport := func(scheme string) *http.Transport {
		return &http.Transport{
			DialContext: func(ctx context.Context, network, hostport string) (net.Conn, error) {
				return g.dial(ctx, scheme, network, hostport)
			},
			ResponseHeaderTimeout: connectTimeout / 2,
			MaxIdleConnsPerHost:   2,
			ForceAttemptHTTP2:     true,
		}
	}
	return &guardedTransport{guard: g, plain: transport("http"), secure: transport("https"), seen: map[string][sha256.Size]byte{}}
}

func (t *guardedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	a, err := addressOf(r.URL)
	if err != nil {
		return nil, err
	}
	via := t.plain
	switch a.scheme {
	case "http":
	case "https":
		via = t.secure
	default:
		return nil, &AddressError{a.String(), "a playlist leads to it, and playlists may only lead to http and https"}
	}
	if err := t.guard.check(a); err != nil {
		return nil, err
	}
	for end := time.Now().Add(reloadPatience); ; {
		res, err := via.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		old, err := t.unchanged(r.URL.String(), res)
		if err != nil {
			return nil, err
		}
		if !old || time.Now().After(end) {
			return res, nil
		}
		if !wait(r.Context(), reloadPause) {
			return nil, context.Cause(r.Context())
		}
	}
}

// unchanged bounds what can be read of a response, and says whether it is a playlist that grows but has not since it was last seen.
func (t *guardedTransport) unchanged(url string, res *http.Response) (bool, error) {
	body := bufio.NewReader(&boundedReader{res.Body, maxSegment})
	res.Body = &readCloser{body, res.Body}
	const mark = "#EXTM3U"
	if start, err := body.Peek(len(mark)); err != nil || string(start) != mark || res.StatusCode != http.StatusOK {
		return false, nil //nolint:nilerr // whoever reads it gets the error
	}
	playlist, err := io.ReadAll(&boundedReader{body, maxPlaylist})
	res.Body.Close()
	if err != nil {
		return false, err
	}
	res.Body = io.NopCloser(bytes.NewReader(playlist))
	if bytes.Contains(playlist, []byte("#EXT-X-ENDLIST")) || bytes.Contains(playlist, []byte("CAN-BLOCK-RELOAD=YES")) ||
		!bytes.Contains(playlist, []byte("#EXT-X-TARGETDURATION")) {
		return false, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	digest := sha256.Sum256(playlist)
	old := t.seen[url] == digest
	if len(t.seen) >= maxPlaylists {
		clear(t.seen) // a redirect leads somewhere else each time
	}
	t.seen[url] = digest
	return old, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// boundedReader fails, where io.LimitReader would end as if all had been read.
type boundedReader struct {
	r    io.Reader
	left int
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errors.New("a playlist or segment is larger than any that is sensible")
	}
	return n, err
}

func (t *guardedTransport) close() {
	t.plain.CloseIdleConnections()
	t.secure.CloseIdleConnections()
}

func pullHLS(ctx context.Context, c *conn) error {
	transport := newGuardedTransport(c.guard)
	defer transport.close()
	ignore := func(string) {}
	var client *gohlslib.Client
	client = &gohlslib.Client{
		URI:                       c.url.String(),
		HTTPClient:                &http.Client{Transport: transport, Timeout: reloadPatience + connectTimeout},
		OnDownloadPrimaryPlaylist: ignore,
		OnDownloadStreamPlaylist:  ignore,
		OnDownloadSegment:         ignore,
		OnDownloadPart:            ignore,
		OnDecodeError:             func(error) {},
		OnTracks: func(tracks []*gohlslib.Track) error {
			formats := make([]format.Format, len(tracks))
			for i, t := range tracks {
				formats[i] = hlsFormat(t.Codec)
			}
			m, err := newMuxer(ctx, c, formats)
			if err != nil {
				return err
			}
			for i, t := range tracks {
				f, rate := formats[i], int64(t.ClockRate)
				write := func(pts, dts int64, data [][]byte) {
					_ = c.contain(func() error { return m.write(f, ticks(pts, rate), ticks(dts, rate), data) }) // fails when ctx has ended, which ends the client
				}
				switch f.(type) {
				case *format.H264, *format.H265:
					client.OnDataH26x(t, write)
				case *format.MPEG4Audio:
					client.OnDataMPEG4Audio(t, func(pts int64, data [][]byte) { write(pts, pts, data) })
				case *format.Opus:
					client.OnDataOpus(t, func(pts int64, data [][]byte) { write(pts, pts, data) })
				}
			}
			c.ready()
			return nil
		},
	}
	if err := client.Start(); err != nil {
		return err
	}
	defer client.Close()
	defer context.AfterFunc(ctx, client.Close)()
	err := client.Wait2()
	if errors.Is(err, gohlslib.ErrClientEOS) {
		return errOver
	}
	return err
}

func hlsFormat(codec codecs.Codec) format.Format {
	switch codec := codec.(type) {
	case *codecs.H264:
		return &format.H264{SPS: codec.SPS, PPS: codec.PPS}
	case *codecs.H265:
		return &format.H265{VPS: codec.VPS, SPS: codec.SPS, PPS: codec.PPS}
	case *codecs.MPEG4Audio:
		return &format.MPEG4Audio{Config: &codec.Config}
	case *codecs.Opus:
		return &format.Opus{ChannelCount: codec.ChannelCount}
	case *codecs.AV1:
		return &format.AV1{}
	case *codecs.VP9:
		return &format.VP9{}
	}
	return &format.Generic{}
}
