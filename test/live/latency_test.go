package live

import (
	"bufio"
	"bytes"
	"context"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	upscalev1 "upscaler/gen/upscale/v1"
	network "upscaler/live"
	"upscaler/test/mediamtx"
)

// figureFrames is how many frames the job's figure is of.
const figureFrames = 256

// TestLatency measures from outside what jobs say about their latency: from when a frame's first byte is at hand to when its packet
// comes back. What else a busy machine does between the two takes its time too, so a figure that is off is measured again.
func TestLatency(t *testing.T) {
	if testing.Short() {
		t.Skip("measures")
	}
	m := mediamtx.Start(t)
	camera(t, m, "in")
	check := func(name string, measure func(t *testing.T) (outside, inside time.Duration)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for attempt := 1; ; attempt++ {
				outside, inside := measure(t)
				t.Logf("median latency: %v outside, %v inside", outside, inside)
				if ratio := outside.Seconds() / inside.Seconds(); ratio > 0.8 && ratio < 1.2 {
					return
				}
				if attempt == 3 {
					t.Fatal("they differ by more than a fifth, again and again")
				}
			}
		})
	}
	check("through the stubs", latencyByStubs)
	for _, c := range []struct{ from, to string }{{"rtmp", "rtmp"}, {"rtsp", "rtsp"}, {"srt", "rtmp"}} {
		check(c.from+" to "+c.to, func(t *testing.T) (outside, inside time.Duration) {
			path := "out-" + c.from
			j := live(t, nil, m.Address(c.from, "in", false), m.Address(c.to, path, true))
			m.Ready(t, path)
			in, out := arrivalsAt(t, m.Address(c.from, "in", false)), arrivalsAt(t, m.Address(c.to, path, false))
			begun := j.now().GetFramesEncoded()
			j.until("the figure is of frames that were seen", func(p *upscalev1.Progress) bool {
				return p.GetFramesEncoded() > begun+figureFrames+clipRate
			})
			inside = j.now().GetLive().GetLatencyP50().AsDuration()
			outside = medianLatency(t, in.byNumber(t, 1), out.byNumber(t, 2))
			j.stop()
			return outside, inside
		})
	}
}

// medianLatency is how long after they went in frames came out.
func medianLatency[K comparable](t *testing.T, in, out map[K]time.Time) time.Duration {
	t.Helper()
	var all []time.Duration
	for frame, at := range out {
		if from, ok := in[frame]; ok {
			all = append(all, at.Sub(from))
		}
	}
	if len(all) < figureFrames*3/4 {
		t.Fatalf("%d frames were measured", len(all))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// latencyByStubs pushes the clip as chunks.
func latencyByStubs(t *testing.T) (outside, inside time.Duration) {
	address := "unix:" + filepath.Join(t.TempDir(), "socket")
	start(t, exec.Command(filepath.Join(folder, "sr-server"), "--listen", address))
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := upscalev1.NewUpscaleServiceClient(conn).Upscale(ctx, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Start{Start: &upscalev1.Start{Mode: upscalev1.Mode_MODE_LIVE}}}); err != nil {
		t.Fatal(err)
	}
	sent, back := &packetTimes{}, &packetTimes{}
	in := bufio.NewReader(pushed(t, theClip(t), "mpegts"))
	go func() { // ends with the context
		buf := make([]byte, 188*64)
		for ctx.Err() == nil {
			n, err := in.Read(buf)
			if err != nil {
				_ = stream.CloseSend()
				return
			}
			sent.take(buf[:n])
			chunk := &upscalev1.Chunk{Data: slices.Clone(buf[:n])}
			if stream.Send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Chunk{Chunk: chunk}}) != nil {
				return
			}
		}
	}()
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if c := m.GetChunk(); c != nil {
			back.take(c.GetData())
		}
		if p := m.GetProgress(); p.GetFramesEncoded() > figureFrames+clipRate {
			return medianLatency(t, sent.all(), back.all()), p.GetLive().GetLatencyP50().AsDuration()
		}
	}
}

// arrivals notes when each frame of an address comes, by the number that it shows.
type arrivals struct {
	packetTimes
	stream bytes.Buffer
	source network.Source
	done   chan struct{}
}

func arrivalsAt(t *testing.T, address string) *arrivals {
	t.Helper()
	scheme, _, _ := strings.Cut(address, ":")
	allowed, err := network.ParsePattern(scheme + "://127.0.0.1:*")
	if err != nil {
		t.Fatal(err)
	}
	a := &arrivals{done: make(chan struct{})}
	if a.source, err = (&network.Network{Sources: []network.Pattern{allowed}}).OpenSource(t.Context(), address, nil); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(a.done)
		buf := make([]byte, 64<<10)
		for {
			n, err := a.source.Read(buf)
			if err != nil {
				return // it was closed
			}
			a.take(buf[:n])
			a.stream.Write(buf[:n])
		}
	}()
	t.Cleanup(func() {
		a.source.Close()
		<-a.done
	})
	return a
}

// byNumber ends the reading. The pictures are scale times those of the clip.
func (a *arrivals) byNumber(t *testing.T, scale int) map[int]time.Time {
	t.Helper()
	a.source.Close()
	<-a.done
	path := filepath.Join(t.TempDir(), "arrivals.ts")
	if err := os.WriteFile(path, a.stream.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	all := map[int]time.Time{}
	r := watch(t, path, scale)
	for i, n := range r.numbers {
		if at, ok := a.all()[int64(math.Round(r.times[i]*90000))]; ok {
			all[n] = at
		}
	}
	return all
}

// packetTimes notes when the first packet of each video frame of an MPEG-TS went by, by PTS. Only its own goroutine uses rest.
type packetTimes struct {
	rest []byte
	mu   sync.Mutex
	at   map[int64]time.Time
}

func (p *packetTimes) take(data []byte) {
	now := time.Now()
	p.rest = append(p.rest, data...)
	for ; len(p.rest) >= 188; p.rest = p.rest[188:] {
		pkt := p.rest[:188]
		if pkt[0] != 0x47 || pkt[1]&0x40 == 0 || pkt[3]&0x10 == 0 {
			continue
		}
		payload := pkt[4:]
		if pkt[3]&0x20 != 0 {
			payload = payload[min(1+int(payload[0]), len(payload)):]
		}
		// A PES packet of a video stream with a PTS.
		if len(payload) < 14 || payload[0] != 0 || payload[1] != 0 || payload[2] != 1 || payload[3]&0xf0 != 0xe0 || payload[7]&0x80 == 0 {
			continue
		}
		b := payload[9:]
		pts := int64(b[0]>>1&7)<<30 | int64(b[1])<<22 | int64(b[2]>>1)<<15 | int64(b[3])<<7 | int64(b[4]>>1)
		p.mu.Lock()
		if p.at == nil {
			p.at = map[int64]time.Time{}
		}
		p.at[pts] = now
		p.mu.Unlock()
	}
}

func (p *packetTimes) all() map[int64]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.at)
}
