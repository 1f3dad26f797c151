package live

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
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
	"upscaler/test/mediamtx"
)

// pushed is the clip as a camera's MPEG-TS in real time.
func pushed(t *testing.T, path string, options ...string) io.Reader {
	t.Helper()
	args := append([]string{"-v", "error", "-nostdin", "-re", "-i", path, "-c", "copy", "-flush_packets", "1"}, options...)
	cmd := exec.Command("ffmpeg", append(args, "-f", "mpegts", "-")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return out
}

// TestDropsAreCounted gives the machine more than the one model it may use can take: what is missing in the output is what was
// reported as dropped, frame by frame, and sound stays with the picture.
func TestDropsAreCounted(t *testing.T) {
	if testing.Short() {
		t.Skip("decodes large pictures")
	}
	const scale = 8
	large, err := makeClip("large.mp4", scale*clipWidth, scale*clipHeight, 12)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "out.ts")
	j := live(t, pushed(t, large), "-", path, "--model", "s", "--latency", "300ms")
	select {
	case <-j.done:
	case <-time.After(time.Minute):
		t.Fatal("sr-client does not end with its input")
	}
	if j.summary == nil {
		t.Fatalf("no summary: %s", j.failure)
	}
	r := watch(t, path, 2*scale)
	missing, ordered := gaps(r.numbers)
	atTheEnds := r.numbers[0] + 12*clipRate - 1 - r.numbers[len(r.numbers)-1]
	s := j.summary
	reported := int(s.GetFramesDecoded() - s.GetFramesEncoded())
	t.Logf("%d frames, %d missing between them, %d before and after; %d reported", len(r.numbers), missing, atTheEnds, reported)
	if !ordered || missing == 0 {
		t.Errorf("in order: %v, missing: %d", ordered, missing)
	}
	if missing+atTheEnds != reported {
		t.Errorf("%d frames are missing, %d were reported as dropped", missing+atTheEnds, reported)
	}
	told := 0
	for _, n := range j.notices {
		if n.GetCode() == upscalev1.NoticeCode_NOTICE_CODE_FRAMES_DROPPED {
			told++
		}
	}
	if seconds := int(s.GetElapsed().AsDuration().Seconds()); told == 0 || told > seconds+1 {
		t.Errorf("drops were told of %d times in %d s", told, seconds)
	}
	checkSkew(t, r, 0) // few frames are left on a slow machine
}

// TestStayingUp kills the source, the media server and pauses it, and finds the output going on all the while.
func TestStayingUp(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	m := mediamtx.Start(t)
	cam := camera(t, m, "in")
	path := filepath.Join(t.TempDir(), "out.ts")
	j := live(t, nil, m.Address("rtsp", "in", false), path)
	j.until("frames", func(p *upscalev1.Progress) bool { return p.GetFramesEncoded() > 2*clipRate })
	reconnected := func(n uint32) func(*upscalev1.Progress) bool {
		return func(p *upscalev1.Progress) bool { return p.GetLive().GetSourceReconnects() >= n }
	}
	held := func(more uint64) func(*upscalev1.Progress) bool {
		before := j.now().GetLive().GetHeld()
		return func(p *upscalev1.Progress) bool { return p.GetLive().GetHeld() >= before+more }
	}
	cam.kill()
	j.until("the last picture is held", held(clipRate/2))
	cam = camera(t, m, "in")
	j.until("the source is back", reconnected(1))

	m.Kill()
	cam.kill()
	j.until("the last picture is held", held(clipRate/2))
	m.Restart()
	cam = camera(t, m, "in")
	j.until("the source is back", reconnected(2))
	encoded := j.now().GetFramesEncoded()
	j.until("more frames", func(p *upscalev1.Progress) bool { return p.GetFramesEncoded() > encoded+2*clipRate })

	m.Pause() // every connection stays open
	j.until("the last picture is held", held(clipRate/2))
	j.until("the source counts as gone", func(*upscalev1.Progress) bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return slices.ContainsFunc(j.notices, func(n *upscalev1.Notice) bool { return strings.Contains(n.GetText(), "silent") })
	})
	m.Continue()
	cam.kill() // its connection may not have survived
	camera(t, m, "in")
	j.until("the source is back", reconnected(3))
	encoded = j.now().GetFramesEncoded()
	j.until("more frames", func(p *upscalev1.Progress) bool { return p.GetFramesEncoded() > encoded+2*clipRate })
	j.stop()

	r := watch(t, path, 2)
	for i := 1; i < len(r.times); i++ {
		// A second of silence passes before the picture is held.
		if gap := r.times[i] - r.times[i-1]; gap <= 0 || gap > 1.6 {
			t.Errorf("frame %d comes %.3f s after the one before", i, gap)
		}
	}
	checkSkew(t, r, 2)
}

// TestClockWraps pushes a stream whose 33 bits of time overflow on the way.
func TestClockWraps(t *testing.T) {
	t.Parallel()
	clip, err := makeClip("ten.mp4", clipWidth, clipHeight, 10)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "out.mkv")
	j := live(t, pushed(t, clip, "-output_ts_offset", "95438"), "-", path) // the clock ends at 95443.7 s
	select {
	case <-j.done:
	case <-time.After(time.Minute):
		t.Fatal("sr-client does not end with its input")
	}
	r := watch(t, path, 2)
	if missing, ordered := gaps(r.numbers); !ordered || len(r.numbers) < 9*clipRate {
		t.Errorf("%d frames, %d missing, in order: %v", len(r.numbers), missing, ordered)
	}
	for i := 1; i < len(r.times); i++ {
		want := float64(r.numbers[i]-r.numbers[i-1]) / clipRate
		if gap := r.times[i] - r.times[i-1]; gap < want-0.01 || gap > want+0.01 {
			t.Errorf("frame %d comes %.3f s after the one before, want %.3f", r.numbers[i], gap, want)
		}
	}
	checkSkew(t, r, 8)
}

// TestLatency measures from outside what the job says about its latency: from when a frame's first byte is sent to when its packet
// comes back.
func TestLatency(t *testing.T) {
	if testing.Short() {
		t.Skip("measures")
	}
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
	in := bufio.NewReader(pushed(t, theClip(t)))
	go func() {
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
	var p50 time.Duration
	for end := time.Now().Add(13 * time.Second); time.Now().Before(end); { // longer than the window that the figure is of
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) || err != nil {
			t.Fatal(err)
		}
		if c := m.GetChunk(); c != nil {
			back.take(c.GetData())
		}
		if p := m.GetProgress(); p != nil {
			p50 = p.GetLive().GetLatencyP50().AsDuration()
		}
	}
	var all []time.Duration
	times := slices.Sorted(maps.Keys(back.all()))
	for _, pts := range times[max(0, len(times)-figureFrames):] {
		if from, ok := sent.all()[pts]; ok {
			all = append(all, back.all()[pts].Sub(from))
		}
	}
	if len(all) < figureFrames*3/4 {
		t.Fatalf("%d frames were measured", len(all))
	}
	slices.Sort(all)
	outside := all[len(all)/2]
	t.Logf("median latency of %d frames: %v outside, %v inside", len(all), outside, p50)
	if ratio := outside.Seconds() / p50.Seconds(); ratio < 0.8 || ratio > 1.2 {
		t.Errorf("median latency %v outside, %v inside", outside, p50)
	}
}

// figureFrames is how many frames the job's figure is of.
const figureFrames = 256

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
	return p.at
}

// TestSinkComesBack kills the media server that the output goes to, and pauses it.
func TestSinkComesBack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	m := mediamtx.Start(t)
	j := live(t, pushed(t, theClip(t)), "-", m.Address("rtmp", "out", true))
	m.Ready(t, "out")
	reconnected := func(n uint32) func(*upscalev1.Progress) bool {
		return func(p *upscalev1.Progress) bool { return p.GetLive().GetSinkReconnects() >= n }
	}
	m.Kill()
	encoded := j.now().GetFramesEncoded()
	j.until("the job goes on without a sink", func(p *upscalev1.Progress) bool { return p.GetFramesEncoded() > encoded+2*clipRate })
	m.Restart()
	j.until("the sink is back", reconnected(1))
	m.Ready(t, "out")

	m.Pause()
	encoded = j.now().GetFramesEncoded()
	j.until("the job goes on while its sink takes nothing", func(p *upscalev1.Progress) bool { return p.GetFramesEncoded() > encoded+4*clipRate })
	m.Continue()
	m.Ready(t, "out")
	before := dropped(j.now())
	path := record(t, m.Address("srt", "out", false), 4)
	r := watch(t, path, 2)
	missing, ordered := gaps(r.numbers)
	if after := dropped(j.next()); !ordered || uint64(missing) > after-before {
		t.Errorf("%d frames, %d missing, in order: %v; %d more were dropped", len(r.numbers), missing, ordered, after-before)
	}
	checkSkew(t, r, 1)
	j.stop()
}
