package live

import (
	"io"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/test/mediamtx"
)

// pushed is a clip in real time, as a camera sends it.
func pushed(t *testing.T, path, format string, options ...string) io.Reader {
	t.Helper()
	args := append([]string{"-v", "error", "-nostdin", "-re", "-i", path, "-c", "copy", "-flush_packets", "1"}, options...)
	cmd := exec.Command("ffmpeg", append(args, "-f", format, "-")...)
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
	j := live(t, pushed(t, large, "mpegts"), "-", path, "--model", "s", "--latency", "300ms")
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
	// By RTSP, mediamtx would place each track by when its first packet came, which is late where all begins anew on a busy machine.
	j := live(t, nil, m.Address("rtmp", "in", false), path)
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
	j.until("the source counts as gone", func(*upscalev1.Progress) bool { return j.said("silent") })
	m.Continue()
	cam.kill() // its connection may not have survived
	camera(t, m, "in")
	j.until("the source is back", reconnected(3))
	encoded = j.now().GetFramesEncoded()
	j.until("more frames", func(p *upscalev1.Progress) bool { return p.GetFramesEncoded() > encoded+2*clipRate })
	j.stop()

	r := watch(t, path, 2)
	for i := 1; i < len(r.times); i++ {
		// A second of silence passes before the picture is held, and a source takes longer to come back.
		if gap := r.times[i] - r.times[i-1]; gap <= 0 || gap > 2 {
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
	r, lost := pushedSteadily(t, "mkv", clip, "95438") // the clock ends at 95443.7 s
	if missing, ordered := gaps(r.numbers); !ordered || len(r.numbers)+lost < 9*clipRate {
		t.Errorf("%d frames, %d missing, in order: %v; %d were dropped", len(r.numbers), missing, ordered, lost)
	}
	for i := 1; i < len(r.times); i++ {
		want := float64(r.numbers[i]-r.numbers[i-1]) / clipRate
		if gap := r.times[i] - r.times[i-1]; gap < want-0.01 || gap > want+0.01 {
			t.Errorf("frame %d comes %.3f s after the one before, want %.3f", r.numbers[i], gap, want)
		}
	}
	checkSkew(t, r, 4)
}

// TestClockJumps pushes one stream whose times jump by more than an hour, and back.
func TestClockJumps(t *testing.T) {
	if testing.Short() {
		t.Skip("TestClockWraps is the short form")
	}
	t.Parallel()
	clip, err := makeClip("four.mp4", clipWidth, clipHeight, 4)
	if err != nil {
		t.Fatal(err)
	}
	r, lost := pushedSteadily(t, "ts", clip, "0", "5000", "10")
	if n := len(r.numbers) + lost; n < 3*4*clipRate-2*2 { // what a jump cuts cannot be decoded
		t.Errorf("%d frames, %d were dropped", n-lost, lost)
	}
	for i := 1; i < len(r.times); i++ {
		if gap := r.times[i] - r.times[i-1]; gap <= 0 || gap > 1 { // until the next ffmpeg has begun
			t.Errorf("frame %d comes %.3f s after the one before", i, gap)
		}
	}
	checkSkew(t, r, 4)
}

// pushedSteadily pushes a clip once for each offset of its times, as one stream, and returns what comes out and how many frames were
// dropped. A machine that stood still for a second meanwhile has not seen what the clock makes of the stream alone; it has
// to do it again.
func pushedSteadily(t *testing.T, extension, clip string, offsets ...string) (_ recording, lost int) {
	t.Helper()
	for range 3 {
		path := filepath.Join(t.TempDir(), "out."+extension)
		r, w := io.Pipe()
		go func() {
			defer w.Close()
			for _, offset := range offsets {
				_, _ = io.Copy(w, pushed(t, clip, "mpegts", "-output_ts_offset", offset)) // sr-client says what goes wrong
			}
		}()
		j := live(t, r, "-", path)
		<-j.done
		if j.summary == nil {
			t.Fatalf("no summary: %s", j.failure)
		}
		if !j.said("No picture has come") {
			return watch(t, path, 2), int(j.summary.GetFramesDecoded() - j.summary.GetFramesEncoded())
		}
	}
	t.Fatal("the machine stands still again and again")
	return recording{}, 0
}

// TestSinkComesBack kills the media server that the output goes to, and pauses it.
func TestSinkComesBack(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	m := mediamtx.Start(t)
	j := live(t, pushed(t, theClip(t), "mpegts"), "-", m.Address("rtmp", "out", true))
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
