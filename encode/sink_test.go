package encode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"
	"upscaler/internal/notice"

	"github.com/asticode/go-astiav"
)

// stderrOf returns what f makes C code write to stderr.
func stderrOf(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	saved, err := syscall.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Dup3(int(w.Fd()), 2, 0); err != nil {
		t.Fatal(err)
	}
	text := make(chan string)
	go func() {
		b, _ := io.ReadAll(r)
		text <- string(b)
	}()
	f()
	if err := syscall.Dup3(saved, 2, 0); err != nil {
		t.Fatal(err)
	}
	syscall.Close(saved)
	w.Close()
	return <-text
}

func TestEncodersAreSilent(t *testing.T) {
	for _, e := range encoders {
		t.Run(e.id, func(t *testing.T) {
			text := stderrOf(t, func() {
				encodeFlat(t, deep(yuv420, 10), 64, 64, [4]int{400, 500, 600}, av.Color{}, Options{Codec: e.codec, Container: containerFor(e.codec).container, Scale: 2, Threads: 2})
			})
			if text != "" {
				t.Errorf("stderr: %s", text)
			}
		})
	}
}

// failingOutput fails from the nth write on.
type failingOutput struct {
	n   int
	err error
}

func (f *failingOutput) WriteAt(p []byte, _ int64) (int, error) {
	if f.n--; f.n < 0 {
		return 0, f.err
	}
	return len(p), nil
}

// The Output's own error must come out, wherever it strikes, and nothing may leak.
func TestOutputErrorEndsTheJob(t *testing.T) {
	for _, container := range []Container{ContainerMP4, ContainerMatroska, ContainerMPEGTS} {
		for _, seekable := range []bool{true, false} {
			for n := range 12 {
				t.Run(fmt.Sprintf("%s seekable %v write %d", containerOf(container).name, seekable, n), func(t *testing.T) {
					before := av.LiveContexts()
					full := errors.New("disk full")
					err := encodeNoise(t, &failingOutput{n: n, err: full}, false, Options{Container: container, Seekable: seekable, Scale: 2, Threads: 1,
						Preset: "ultrafast"})
					if !errors.Is(err, full) && err != nil {
						t.Errorf("got %v, want the output's error", err)
					}
					if err == nil && n < 2 {
						t.Error("no error")
					}
					if got := av.LiveContexts(); got != before {
						t.Errorf("%d contexts left open", got-before)
					}
				})
			}
		}
	}
}

// Whoever calls WriteFrame may use the planes again at once, though some encoders read luma where it lies: what comes out is what
// comes out when every frame has planes of its own.
func TestPlanesMayBeUsedAgain(t *testing.T) {
	for _, e := range encoders {
		if e.still {
			continue
		}
		t.Run(e.id, func(t *testing.T) {
			var pictures [2][]string
			for i, keep := range []bool{false, true} {
				out := newFileOutput(t, "out")
				if err := encodeNoise(t, out, keep, Options{Codec: e.codec, Container: ContainerMatroska, Scale: 2, Threads: 2}); err != nil {
					t.Fatal(err)
				}
				for _, p := range probe(t, out.Name()).Packets {
					pictures[i] = append(pictures[i], p.Hash)
				}
			}
			if len(pictures[0]) != 30 || !slices.Equal(pictures[0], pictures[1]) {
				t.Errorf("%d and %d pictures differ", len(pictures[0]), len(pictures[1]))
			}
		})
	}
}

// encodeNoise runs a few frames that compress badly through a job. Each has the planes of the one before, unless those are to be kept.
func encodeNoise(t *testing.T, out Output, keep bool, o Options) error {
	t.Helper()
	ctx := context.Background()
	m := syntheticMedia(t, yuv420, 64, 64, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, av.Color{})
	defer m.Free()
	plan, err := Plan(m, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, out, m, plan, o)
	if err != nil {
		return err
	}
	defer s.Close()
	pool := frame.NewPool(1 << 24)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 30 {
		f := flatFrame(t, pool, yuv420, 64, 64, [4]int{100, 100, 100})
		luma := flatFrame(t, pool, gray, 128, 128, [4]int{})
		for k := range luma.Planes[0].Data {
			luma.Planes[0].Data[k] = byte(random.Uint32())
		}
		f.PTS = int64(i)
		err := s.WriteFrame(ctx, f, luma.Luma())
		if !keep {
			f.Release()
			luma.Release()
		}
		if err != nil {
			return err
		}
	}
	return s.Finish(ctx)
}

func TestCancelledContext(t *testing.T) {
	before := av.LiveContexts()
	stop := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(context.Background())
	m := syntheticMedia(t, yuv420, 64, 64, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, av.Color{})
	o := Options{Scale: 2, Threads: 1}
	plan, err := Plan(m, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, newFileOutput(t, "out"), m, plan, o)
	if err != nil {
		t.Fatal(err)
	}
	cancel(stop)
	f := flatFrame(t, frame.NewPool(1<<20), yuv420, 64, 64, [4]int{})
	luma := flatFrame(t, frame.NewPool(1<<20), gray, 128, 128, [4]int{})
	if err := s.WriteFrame(ctx, f, luma.Luma()); !errors.Is(err, stop) {
		t.Errorf("WriteFrame: %v, want the context's cause", err)
	}
	if err := s.Finish(ctx); !errors.Is(err, stop) {
		t.Errorf("Finish: %v, want the context's cause", err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Open(ctx, newFileOutput(t, "out2"), m, plan, o); !errors.Is(err, stop) {
		t.Errorf("Open: %v, want the context's cause", err)
	}
	m.Free()
	if n := av.LiveContexts(); n != before {
		t.Errorf("%d contexts left open", n-before)
	}
}

// Frames that do not fit the plan must be refused, not read beyond their planes.
func TestWrongFrames(t *testing.T) {
	pool := frame.NewPool(1 << 22)
	for name, c := range map[string]struct {
		frame, luma *frame.Frame
	}{
		"small frame":  {flatFrame(t, pool, yuv420, 32, 32, [4]int{}), flatFrame(t, pool, gray, 64, 64, [4]int{})},
		"large frame":  {flatFrame(t, pool, yuv420, 128, 128, [4]int{}), flatFrame(t, pool, gray, 256, 256, [4]int{})},
		"other layout": {flatFrame(t, pool, yuv444, 64, 64, [4]int{}), flatFrame(t, pool, gray, 128, 128, [4]int{})},
		"luma small":   {flatFrame(t, pool, yuv420, 64, 64, [4]int{}), flatFrame(t, pool, gray, 64, 64, [4]int{})},
		"luma deep":    {flatFrame(t, pool, yuv420, 64, 64, [4]int{}), flatFrame(t, pool, deep(gray, 10), 128, 128, [4]int{})},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			m := syntheticMedia(t, yuv420, 64, 64, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, av.Color{})
			o := Options{Scale: 2, Threads: 1}
			plan, err := Plan(m, o)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Open(ctx, newFileOutput(t, "out"), m, plan, o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.WriteFrame(ctx, c.frame, c.luma.Luma()); err == nil {
				t.Error("no error")
			}
		})
	}
}

func packet(t *testing.T, stream int, size int) *av.Packet {
	t.Helper()
	p := av.AllocPacket()
	if err := p.AllocPayload(size); err != nil {
		t.Fatal(err)
	}
	p.SetStreamIndex(stream)
	return av.NewPacket(p, media.Rational{Num: 1, Den: 1000})
}

func TestQueueOrdersByTime(t *testing.T) {
	before := av.LiveContexts()
	var q queue
	for _, k := range []struct {
		stream int
		key    int64
	}{{1, 30}, {2, 10}, {1, 20}, {2, 40}, {3, 25}} { // stream 1 goes back: its second packet must stay behind its first
		p := packet(t, k.stream, 10)
		p.Raw().SetPts(k.key)
		q.push(p, k.key)
	}
	var order []int64
	for p := q.popUntil(30); p != nil; p = q.popUntil(30) {
		order = append(order, p.PTS())
		p.Free()
	}
	if want := []int64{10, 25, 30, 20}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	q.free()
	if q.bytes != 0 || len(q.items) != 0 {
		t.Errorf("%d bytes, %d packets after free", q.bytes, len(q.items))
	}
	if n := av.LiveContexts(); n != before {
		t.Errorf("%d packets left", n-before)
	}
}

func TestQueueIsBounded(t *testing.T) {
	var q queue
	defer q.free()
	const size = maxQueued / 8
	for i := range 20 {
		q.push(packet(t, 1, size), int64(i))
		for p := q.popUntil(-1); p != nil; p = q.popUntil(-1) {
			p.Free()
		}
		if q.bytes > maxQueued {
			t.Fatalf("%d bytes queued", q.bytes)
		}
	}
	if len(q.items) < 6 {
		t.Errorf("only %d packets wait, the queue gives up too early", len(q.items))
	}
}

func TestPlanChoosesCodecAndContainer(t *testing.T) {
	alpha := transparent(yuv420)
	for _, c := range []struct {
		name      string
		source    astiav.CodecID
		format    frame.Format
		w, h      int
		o         Options
		codec     Codec
		container Container
		notices   []notice.Code
	}{
		{"h264 stays", astiav.CodecIDH264, yuv420, 64, 64, Options{}, CodecH264, ContainerMP4, nil},
		{"10-bit h264 stays", astiav.CodecIDH264, deep(yuv420, 10), 64, 64, Options{}, CodecH264, ContainerMP4, nil},
		{"hevc stays", astiav.CodecIDHevc, yuv420, 64, 64, Options{}, CodecHEVC, ContainerMP4, nil},
		{"hevc into ts", astiav.CodecIDHevc, yuv420, 64, 64, Options{Container: ContainerMPEGTS}, CodecHEVC, ContainerMPEGTS, nil},
		{"mpeg2 becomes h264", astiav.CodecIDMpeg2Video, yuv420, 64, 64, Options{}, CodecH264, ContainerMP4, nil},
		{"deep becomes hevc", astiav.CodecIDHuffyuv, deep(yuv422, 12), 64, 64, Options{}, CodecHEVC, ContainerMP4, nil},
		{"very deep becomes 12-bit hevc", astiav.CodecIDHuffyuv, deep(yuv444, 16), 64, 64, Options{}, CodecHEVC, ContainerMP4,
			[]notice.Code{notice.PixelFormatConverted}},
		{"ffv1 stays", astiav.CodecIDFfv1, deep(yuv444, 16), 64, 64, Options{}, CodecFFV1, ContainerMatroska, nil},
		{"prores stays", astiav.CodecIDProres, deep(yuv422, 10), 64, 64, Options{}, CodecProRes, ContainerMOV, nil},
		{"av1 4:4:4 becomes another", astiav.CodecIDAv1, yuv444, 64, 64, Options{}, CodecH264, ContainerMP4, []notice.Code{notice.Fallback}},
		{"tiny av1 becomes another", astiav.CodecIDAv1, yuv420, 16, 16, Options{}, CodecH264, ContainerMP4, []notice.Code{notice.Fallback}},
		{"h264 into webm", astiav.CodecIDH264, yuv420, 64, 64, Options{Container: ContainerWebM}, CodecVP9, ContainerWebM,
			[]notice.Code{notice.Fallback}},
		{"vp9 alpha", astiav.CodecIDVp9, alpha, 64, 64, Options{}, CodecVP9, ContainerMatroska, nil},
		{"vp9 alpha into webm", astiav.CodecIDVp9, alpha, 64, 64, Options{Container: ContainerWebM}, CodecVP9, ContainerWebM, nil},
		{"vp9 alpha into mp4", astiav.CodecIDVp9, alpha, 64, 64, Options{Container: ContainerMP4}, CodecVP9, ContainerMP4,
			[]notice.Code{notice.PixelFormatConverted}},
		{"png with alpha", astiav.CodecIDPng, transparent(yuv444), 64, 64, Options{}, CodecProRes, ContainerMOV,
			[]notice.Code{notice.PixelFormatConverted}},
		{"gray", astiav.CodecIDMjpeg, gray, 64, 64, Options{}, CodecH264, ContainerMP4, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := syntheticMedia(t, c.format, c.w, c.h, c.source, media.Rational{Num: 1, Den: 25}, av.Color{})
			c.o.Scale = 2
			plan, err := Plan(m, c.o)
			if err != nil {
				t.Fatal(err)
			}
			var codes []notice.Code
			for _, n := range plan.Notices {
				codes = append(codes, n.Code)
			}
			if plan.Codec != c.codec || plan.Container != c.container || !slices.Equal(codes, c.notices) {
				t.Errorf("%s in %s as %s, notices %v", plan.Encoder, plan.Muxer, plan.PixelFormat, plan.Notices)
			}
			if in := plan.Input.Streams[0]; in.Action != media.ActionUpscale || in.Peer != 0 || m.Info.Streams[0].Action != media.ActionUnknown {
				t.Errorf("actions: %v, and the input's own description is %v", in, m.Info.Streams[0])
			}
		})
	}
}

func TestTooLargeForAnyEncoder(t *testing.T) {
	m := syntheticMedia(t, yuv420, 9000, 100, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, av.Color{})
	_, err := Plan(m, Options{Scale: 2})
	var unsupported *UnsupportedError
	if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "16384") {
		t.Errorf("%v, want an UnsupportedError that names the limit", err)
	}
}

// A subtitle that comes long after the start must not make the MP4 muxer wait for it, and must keep its time.
func TestLateStreams(t *testing.T) {
	srt := write(t, "late.srt", "1\n00:00:10,500 --> 00:00:10,900\nlate\n")
	in := ffmpeg(t, "late.mkv", "-f lavfi -i testsrc2=size=96x64:rate=10:duration=12 -f lavfi -i sine=duration=12 -i "+srt+
		" -map 0 -map 1 -map 2"+x264+"-g 1000 -c:a aac -c:s srt")
	movText := ffmpeg(t, "late.mp4", "-i "+in+" -map 0 -c copy -c:s mov_text")
	for _, seekable := range []bool{true, false} {
		for _, container := range []Container{ContainerMP4, ContainerMatroska} {
			t.Run(fmt.Sprintf("%s seekable %v", containerOf(container).name, seekable), func(t *testing.T) {
				source := in
				if container == ContainerMP4 {
					source = movText
				}
				r := mustUpscale(t, source, "out", Options{Container: container, Seekable: seekable, Preset: "ultrafast",
					EncoderOptions: map[string]string{"g": "1000"}})
				compare(t, source, r.path, r)
			})
		}
	}
}

func TestCoverArtIsKept(t *testing.T) {
	art := ffmpeg(t, "cover.png", "-f lavfi -i color=red:size=32x32 -frames:v 1")
	in := ffmpeg(t, "cover.mp4", picture+sound+"-i "+art+" -map 0 -map 1 -map 2"+x264+"-c:v:1 copy -c:a aac -disposition:v:1 attached_pic")
	for _, c := range []struct {
		container Container
		seekable  bool
	}{{ContainerMP4, true}, {ContainerMP4, false}, {ContainerMatroska, true}, {ContainerMatroska, false}} {
		t.Run(fmt.Sprintf("%s seekable %v", containerOf(c.container).name, c.seekable), func(t *testing.T) {
			r := mustUpscale(t, in, "out", Options{Container: c.container, Seekable: c.seekable})
			found := false
			for _, s := range probe(t, r.path).Streams {
				found = found || s.Disp["attached_pic"] == 1 && s.CodecName == "png" && s.Width == 32
			}
			if !found {
				t.Errorf("no cover art in %v, notices %v", probe(t, r.path).Streams, r.notices)
			}
		})
	}
}

// Broadcasts begin at any hour; a file must not begin with hours of nothing.
func TestClockOfABroadcastIsMovedToZero(t *testing.T) {
	in := ffmpeg(t, "day.ts", picture+sound+x264+"-c:a mp2 -output_ts_offset 36000")
	r := mustUpscale(t, in, "out", Options{Container: ContainerMP4, Seekable: true})
	want, got := probe(t, in).times(0), probe(t, r.path).times(0)
	if len(want) != len(got) || !near(want[0], got[0], -36001, 1e-6) || !near(want[len(want)-1], got[len(got)-1], -36001, 1e-6) {
		t.Errorf("video from %s to %s, was from %s to %s", got[0], got[len(got)-1], want[0], want[len(want)-1])
	}
	if !slices.ContainsFunc(r.notices, func(n notice.Notice) bool { return n.Code == notice.TimestampsRepaired }) {
		t.Errorf("no notice of it: %v", r.notices)
	}
	r = mustUpscale(t, in, "out", Options{Container: ContainerMPEGTS})
	if got := probe(t, r.path).times(0); !near(want[0], got[0], 0, 1e-5) {
		t.Errorf("MPEG-TS begins at %s, was %s", got[0], want[0])
	}
}

func TestAlphaSurvivesInWebM(t *testing.T) {
	in := ffmpeg(t, "alpha.webm", "-f lavfi -i testsrc2=size=96x64:rate=25:duration=0.4,format=yuva420p,colorchannelmixer=aa=0.5 -c:v libvpx-vp9 -auto-alt-ref 0 -pix_fmt yuva420p -deadline realtime -cpu-used 8")
	r := mustUpscale(t, in, "out.webm", Options{Container: ContainerWebM, Seekable: true})
	if r.plan.PixelFormat != "yuva420p" {
		t.Errorf("encoded as %s: %v", r.plan.PixelFormat, r.notices)
	}
	if tags := probe(t, r.path).Streams[0].Tags; tags["alpha_mode"] != "1" && tags["ALPHA_MODE"] != "1" {
		t.Errorf("the file does not announce its alpha: %v", tags)
	}
}

func TestCaptionsAreKept(t *testing.T) {
	for _, codec := range []Codec{CodecH264, CodecHEVC} {
		t.Run(encoderOf(codec).id, func(t *testing.T) {
			ctx := context.Background()
			m := syntheticMedia(t, yuv420, 64, 64, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, av.Color{})
			o := Options{Codec: codec, Container: ContainerMatroska, Scale: 2, Threads: 1}
			plan, err := Plan(m, o)
			if err != nil {
				t.Fatal(err)
			}
			out := newFileOutput(t, "out.mkv")
			s, err := Open(ctx, out, m, plan, o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			pool := frame.NewPool(1 << 20)
			f, luma := flatFrame(t, pool, yuv420, 64, 64, [4]int{}), flatFrame(t, pool, gray, 128, 128, [4]int{})
			f.SideData = []frame.SideData{{Type: av.SideDataCaptions, Data: []byte{0xfc, 0x94, 0x20, 0xfc, 0x48, 0x49}}}
			if err := s.WriteFrame(ctx, f, luma.Luma()); err != nil {
				t.Fatal(err)
			}
			if err := s.Finish(ctx); err != nil {
				t.Fatal(err)
			}
			found := false
			for _, sd := range firstFrame(t, out.Name()) {
				found = found || strings.Contains(sd["side_data_type"].(string), "Closed Captions")
			}
			if !found {
				t.Errorf("no captions in %v", firstFrame(t, out.Name()))
			}
		})
	}
}

// What the muxer itself refuses must be dropped with a notice at the plan, not end the job later.
func TestStreamsTheMuxerRefuses(t *testing.T) {
	m := syntheticMedia(t, yuv420, 64, 64, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, av.Color{})
	p := astiav.AllocCodecParameters()
	av.TrackOpen()
	p.SetMediaType(astiav.MediaTypeAudio)
	p.SetCodecID(astiav.CodecIDVorbis) // its header, which Matroska must store, is missing
	p.SetSampleRate(48000)
	p.SetChannelLayout(astiav.ChannelLayoutStereo)
	m.Streams = append(m.Streams, &av.Stream{Index: 1, Kind: media.KindAudio, Params: p, TimeBase: media.Rational{Num: 1, Den: 48000},
		StartTime: av.NoTimestamp, Duration: av.NoTimestamp})
	m.UpdateInfo()
	before := av.LiveContexts()
	plan, err := Plan(m, Options{Scale: 2, Container: ContainerMatroska})
	if err != nil {
		t.Fatal(err)
	}
	if a := plan.Input.Streams[1].Action; a != media.ActionDrop {
		t.Errorf("action %d, want drop", a)
	}
	if n := av.LiveContexts(); n != before {
		t.Errorf("%d contexts left open", n-before)
	}
}

func TestDamagedPacketsDoNotEndTheJob(t *testing.T) {
	in := ffmpeg(t, "in.mp4", picture+sound+x264+"-c:a aac")
	for _, strict := range []bool{false, true} {
		r, err := upscaleWith(t, in, "out.mp4", Options{Container: ContainerMP4, Seekable: true, Strict: strict}, func(p *av.Packet) {
			p.Raw().SetPts(p.DTS() + 1<<40) // more than MP4 can say
		})
		if strict != (err != nil) {
			t.Errorf("strict %v: %v", strict, err)
		}
		if !strict && !slices.ContainsFunc(r.notices, func(n notice.Notice) bool { return n.Code == notice.InputDamaged && n.Stream == 1 }) {
			t.Errorf("no notice: %v", r.notices)
		}
	}
}

// BenchmarkCompose measures what a complete picture costs beside encoding it: chroma scaling, copies, conversion.
func BenchmarkCompose(b *testing.B) {
	for name, c := range map[string]struct {
		format frame.Format
		codec  Codec
	}{
		"420 8 bits":         {yuv420, CodecH264},
		"420 10 bits":        {deep(yuv420, 10), CodecHEVC},
		"444 8 bits":         {yuv444, CodecH264},
		"420 to 422 10 bits": {deep(yuv420, 10), CodecProRes},
	} {
		b.Run(name, func(b *testing.B) {
			const w, h = 960, 540
			m := syntheticMedia(b, c.format, w, h, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, av.Color{})
			plan, err := Plan(m, Options{Codec: c.codec, Container: ContainerMatroska, Scale: 2})
			if err != nil {
				b.Fatal(err)
			}
			v, err := openVideo(m, plan, false, 1)
			if err != nil {
				b.Fatal(err)
			}
			defer v.close()
			pool := frame.NewPool(64 << 20)
			f, luma := flatFrame(b, pool, c.format, w, h, [4]int{}), flatFrame(b, pool, deep(gray, c.format.Depth), 2*w, 2*h, [4]int{})
			b.ReportAllocs()
			for b.Loop() {
				if err := v.compose(f, luma.Luma()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A seekable MP4 that was never finished, as after a crash, must still play up to nearly where it ended.
func TestUnfinishedMP4Plays(t *testing.T) {
	ctx := context.Background()
	m := syntheticMedia(t, yuv420, 64, 64, astiav.CodecIDH264, media.Rational{Num: 1, Den: 25}, av.Color{})
	o := Options{Container: ContainerMP4, Seekable: true, Scale: 2, Threads: 1, Preset: "ultrafast", EncoderOptions: map[string]string{"g": "25"}}
	plan, err := Plan(m, o)
	if err != nil {
		t.Fatal(err)
	}
	out := newFileOutput(t, "out.mp4")
	s, err := Open(ctx, out, m, plan, o)
	if err != nil {
		t.Fatal(err)
	}
	pool := frame.NewPool(1 << 22)
	f, luma := flatFrame(t, pool, yuv420, 64, 64, [4]int{100, 100, 100}), flatFrame(t, pool, gray, 128, 128, [4]int{})
	random := rand.New(rand.NewPCG(1, 2))
	const frames = 250
	for i := range frames {
		for k := range luma.Planes[0].Data {
			luma.Planes[0].Data[k] = byte(random.Uint32())
		}
		f.PTS = int64(i)
		if err := s.WriteFrame(ctx, f, luma.Luma()); err != nil {
			t.Fatal(err)
		}
	}
	s.Close() // without Finish
	p := probe(t, out.Name())
	if n := len(p.times(0)); n < frames*3/4 {
		t.Errorf("%d of %d frames can be read", n, frames)
	}
}

func TestEncoderMemoryGrowsWithThePicture(t *testing.T) {
	memory := func(f frame.Format, w, h int) int64 {
		m := syntheticMedia(t, f, w, h, astiav.CodecIDHevc, media.Rational{Num: 1, Den: 25}, av.Color{})
		plan, err := Plan(m, Options{Scale: 2})
		if err != nil {
			t.Fatal(err)
		}
		return plan.EncoderMemory()
	}
	small := memory(yuv420, 960, 540)
	if small < 100<<20 || small > 1<<30 {
		t.Errorf("%d bytes for 1920x1080", small)
	}
	if large := memory(yuv420, 1920, 1080); large != 4*small {
		t.Errorf("%d bytes for four times the pixels of %d", large, small)
	}
	if deep := memory(deep(yuv420, 10), 960, 540); deep != 2*small {
		t.Errorf("%d bytes for 10 bits, %d for 8", deep, small)
	}
}
