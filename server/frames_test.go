package server_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"upscaler/client"
	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/models"
	"upscaler/server"
	"upscaler/sr"
	"upscaler/sr/native"
	"upscaler/sr/onnx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds every call of a test, so that a hang is a failure.
const deadline = time.Minute

// running is a real server on a socket of its own.
type running struct {
	upscalev1.UpscaleServiceClient
	address  string
	conn     *grpc.ClientConn
	registry *prometheus.Registry
}

// start runs a server until the test ends, and checks then that it holds nothing any more.
func start(t *testing.T, limits server.Limits, options ...grpc.ServerOption) *running {
	t.Helper()
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		t.Fatal(err)
	}
	var int8 []sr.File // what the native kernels compute; no test needs more
	for _, f := range files {
		if native.Supports(f) {
			int8 = append(int8, f)
		}
	}
	scheduler, err := sr.New(sr.Config{Models: int8, Engines: []sr.Engine{native.NewEngine(native.Options{Workers: 2})}})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{address: "unix:" + filepath.Join(t.TempDir(), "sr.sock"), registry: prometheus.NewRegistry()}
	limits.Grace = time.Millisecond
	srv, err := server.New(server.Config{
		Scheduler: scheduler, Limits: limits, Log: slog.New(slog.DiscardHandler), Metrics: r.registry, CodecThreads: 1, Options: options,
	})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("unix", strings.TrimPrefix(r.address, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, lis) }()
	r.conn = r.dial(t, nil)
	r.UpscaleServiceClient = upscalev1.NewUpscaleServiceClient(r.conn)
	t.Cleanup(func() {
		r.eventually(t, "upscale_jobs_running", func(v float64) bool { return v == 0 })
		if n := r.gauge(t, "upscale_frame_bytes"); n != 0 {
			t.Errorf("%v bytes of frames are held after all calls", n)
		}
		if n := r.gauge(t, "upscale_ffmpeg_contexts"); n != 0 {
			t.Errorf("%v FFmpeg contexts are open after all calls", n)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := scheduler.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *running) dial(t *testing.T, dialer func(context.Context, string) (net.Conn, error)) *grpc.ClientConn {
	t.Helper()
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		// Fixed windows, so that how much a client takes without reading does not grow with what gRPC measures.
		grpc.WithInitialWindowSize(64 << 10), grpc.WithInitialConnWindowSize(1 << 20),
	}
	if dialer != nil {
		options = append(options, grpc.WithContextDialer(dialer))
	}
	conn, err := grpc.NewClient(r.address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// gauge reads a metric, summed over its labels.
func (r *running) gauge(t *testing.T, name string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func (r *running) eventually(t *testing.T, name string, ok func(float64) bool) {
	t.Helper()
	end := time.Now().Add(deadline)
	for !ok(r.gauge(t, name)) {
		if time.Now().After(end) {
			t.Fatalf("%s stays at %v", name, r.gauge(t, name))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

type frameStream = grpc.BidiStreamingClient[upscalev1.UpscaleFramesRequest, upscalev1.UpscaleFramesResponse]

func startMessage(s *upscalev1.FramesStart) *upscalev1.UpscaleFramesRequest {
	return &upscalev1.UpscaleFramesRequest{Payload: &upscalev1.UpscaleFramesRequest_Start{Start: s}}
}

func frameMessage(data []byte, pts int64, strides ...uint32) *upscalev1.UpscaleFramesRequest {
	return &upscalev1.UpscaleFramesRequest{Payload: &upscalev1.UpscaleFramesRequest_Frame{
		Frame: &upscalev1.Frame{Data: data, Strides: strides, Pts: pts}}}
}

// call begins a call and returns its stream after FramesAccepted.
func (r *running) call(t *testing.T, s *upscalev1.FramesStart) (frameStream, *upscalev1.FramesAccepted, context.CancelFunc) {
	t.Helper()
	stream, cancel := r.open(t)
	if err := stream.Send(startMessage(s)); err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if m.GetAccepted() == nil {
		t.Fatalf("the first answer is %v, want FramesAccepted", m)
	}
	return stream, m.GetAccepted(), cancel
}

func (r *running) open(t *testing.T) (frameStream, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	stream, err := r.UpscaleFrames(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream, cancel
}

// upscale sends pictures and returns the answers, whose PTS it checks.
func (r *running) upscale(t *testing.T, s *upscalev1.FramesStart, strides []uint32, pictures ...[]byte) [][]byte {
	t.Helper()
	stream, _, _ := r.call(t, s)
	go func() {
		for i, p := range pictures {
			if stream.Send(frameMessage(p, int64(i*7-3), strides...)) != nil {
				return // Recv says why
			}
		}
		_ = stream.CloseSend()
	}()
	var answers [][]byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(len(answers)*7 - 3); m.GetFrame().GetPts() != want {
			t.Fatalf("answer %d has the PTS %d, want %d", len(answers), m.GetFrame().GetPts(), want)
		}
		answers = append(answers, m.GetFrame().GetData())
	}
	if len(answers) != len(pictures) {
		t.Fatalf("%d answers to %d frames", len(answers), len(pictures))
	}
	return answers
}

// ffmpeg runs FFmpeg's program.
func ffmpeg(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ffmpeg", append([]string{"-v", "error", "-nostdin", "-y"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg %v: %v\n%s", args, err, out)
	}
}

// readFile returns a file of the test.
func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// file upscales a file through Upscale, without loss.
func (r *running) file(t *testing.T, data []byte, scale uint32) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	stream, err := r.Upscale(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*upscalev1.UpscaleRequest{
		{Payload: &upscalev1.UpscaleRequest_Start{Start: &upscalev1.Start{Scale: scale, Output: &upscalev1.Output{
			Container: upscalev1.Container_CONTAINER_MATROSKA, Codec: upscalev1.VideoCodec_VIDEO_CODEC_FFV1}}}},
		{Payload: &upscalev1.UpscaleRequest_Chunk{Chunk: &upscalev1.Chunk{Data: data}}},
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	_ = stream.CloseSend()
	var out []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m.GetChunk().GetData()...)
	}
}

// TestFramesEqualTheFile: the same pictures as a file and as frames give the same samples, luma, chroma and alpha.
func TestFramesEqualTheFile(t *testing.T) {
	r := start(t, server.Limits{})
	const count = 3
	for _, c := range []struct {
		format        string
		width, height int
		scale         uint32
	}{
		{"gray", 64, 48, 2},
		{"gray", 17, 31, 2},
		{"gray10le", 64, 48, 2},
		{"gray16le", 33, 48, 2},
		{"yuv420p", 64, 48, 2},
		{"yuv420p", 33, 17, 2},
		{"yuv420p", 33, 17, 3},
		{"yuv422p10le", 33, 18, 3},
		{"yuv420p", 64, 48, 4},
		{"yuv420p10le", 65, 47, 2},
		{"yuv422p", 66, 48, 2},
		{"yuv422p12le", 34, 48, 3},
		{"yuv444p", 64, 48, 2},
		{"yuv444p10le", 31, 48, 2},
		{"yuv444p16le", 64, 48, 2},
		{"yuva420p", 64, 48, 2},
		{"yuva444p10le", 35, 27, 2},
		{"nv12", 64, 48, 2},
		{"nv12", 35, 27, 2},
		{"p010le", 64, 48, 2},
		{"p010le", 35, 27, 2},
	} {
		t.Run(fmt.Sprintf("%s %dx%d x%d", c.format, c.width, c.height, c.scale), func(t *testing.T) {
			dir := t.TempDir()
			raw, stored := filepath.Join(dir, "in.raw"), filepath.Join(dir, "in.mkv")
			planar := strings.NewReplacer("nv12", "yuv420p", "p010le", "yuv420p10le").Replace(c.format)
			source := fmt.Sprintf("testsrc2=s=%dx%d:r=10,noise=alls=9:allf=t,format=yuva444p,geq=lum='lum(X,Y)':a='mod(X*5+Y*3,256)'", c.width, c.height)
			ffmpeg(t, "-f", "lavfi", "-i", source, "-frames:v", fmt.Sprint(count), "-pix_fmt", planar, "-c:v", "ffv1", stored)
			ffmpeg(t, "-i", stored, "-f", "rawvideo", raw)
			data := semiPlanar(c.format, c.width, c.height, readFile(t, raw))
			var pictures [][]byte
			for i := range count {
				pictures = append(pictures, data[i*len(data)/count:(i+1)*len(data)/count])
			}
			got := r.upscale(t, &upscalev1.FramesStart{Scale: c.scale, Width: uint32(c.width), Height: uint32(c.height), PixelFormat: c.format}, nil, pictures...)

			large, want := filepath.Join(dir, "out.mkv"), filepath.Join(dir, "want.raw")
			if err := os.WriteFile(large, r.file(t, readFile(t, stored), c.scale), 0o600); err != nil {
				t.Fatal(err)
			}
			ffmpeg(t, "-i", large, "-f", "rawvideo", want)
			wanted := semiPlanar(c.format, c.width*int(c.scale), c.height*int(c.scale), readFile(t, want))
			if all := bytes.Join(got, nil); !bytes.Equal(all, wanted) {
				differ := 0
				for i := range min(len(all), len(wanted)) {
					if all[i] != wanted[i] {
						differ++
					}
				}
				t.Errorf("%d bytes, want %d; %d of them differ", len(all), len(wanted), differ)
			}
		})
	}
}

// semiPlanar turns planar 4:2:0 pictures into nv12 (8 bits) or p010le (10); for other formats it returns them as they are.
func semiPlanar(format string, w, h int, planar []byte) []byte {
	size := map[string]int{"nv12": 1, "p010le": 2}[format]
	if size == 0 {
		return planar
	}
	luma, chroma := w*h*size, (w+1)/2*((h+1)/2)*size
	var out []byte
	for ; len(planar) > 0; planar = planar[luma+2*chroma:] {
		out = append(out, planar[:luma]...)
		for x := 0; x < chroma; x += size {
			out = append(out, planar[luma+x:][:size]...)
			out = append(out, planar[luma+chroma+x:][:size]...)
		}
	}
	for x := 0; size == 2 && x < len(out); x += 2 {
		binary.LittleEndian.PutUint16(out[x:], binary.LittleEndian.Uint16(out[x:])<<6)
	}
	return out
}

func TestFramesWithGapsBetweenRows(t *testing.T) {
	r := start(t, server.Limits{})
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		format  string
		rows    []int // bytes in a row of each plane of a 33x17 picture
		heights []int
		strides []uint32
	}{
		{"gray", []int{33}, []int{17}, []uint32{40}},
		{"yuv420p", []int{33, 17, 17}, []int{17, 9, 9}, []uint32{64, 17, 128}},
		{"yuv420p10", []int{66, 34, 34}, []int{17, 9, 9}, []uint32{67, 35, 34}},
		{"yuva422p", []int{33, 17, 17, 33}, []int{17, 17, 17, 17}, []uint32{48, 32, 32, 34}},
		{"nv12", []int{33, 34}, []int{17, 9}, []uint32{64, 64}},
		{"p010", []int{66, 68}, []int{17, 9}, []uint32{70, 69}},
	} {
		t.Run(c.format, func(t *testing.T) {
			var packed, gaps []byte
			for i, n := range c.rows {
				for range c.heights[i] {
					row := make([]byte, c.strides[i])
					for x := range row {
						row[x] = byte(rng.Uint32())
					}
					if c.format == "yuv420p10" {
						for x := 1; x < n; x += 2 {
							row[x] &= 3
						}
					}
					gaps, packed = append(gaps, row...), append(packed, row[:n]...)
				}
			}
			s := &upscalev1.FramesStart{Width: 33, Height: 17, PixelFormat: c.format}
			want := r.upscale(t, s, nil, packed)[0]
			if got := r.upscale(t, s, c.strides, gaps)[0]; !bytes.Equal(got, want) {
				t.Error("the picture with gaps gives another answer than the one without")
			}
		})
	}
}

// TestSamplesBeyondTheDepth: what no decoder makes is white, not a crash.
func TestSamplesBeyondTheDepth(t *testing.T) {
	r := start(t, server.Limits{})
	s := &upscalev1.FramesStart{Width: 20, Height: 10, PixelFormat: "yuv444p10le"}
	beyond, white := bytes.Repeat([]byte{0xff, 0xff}, 20*10*3), bytes.Repeat([]byte{0xff, 0x03}, 20*10*3)
	got := r.upscale(t, s, nil, beyond, white)
	if !bytes.Equal(got[0], got[1]) {
		t.Error("samples of 65535 at 10 bits do not count as 1023")
	}
}

func TestWrongFrames(t *testing.T) {
	r := start(t, server.Limits{MaxInputPixels: 64 * 64, PlaneMemory: 128 * 128 * 2})
	good := func(change func(*upscalev1.FramesStart)) *upscalev1.UpscaleFramesRequest {
		s := &upscalev1.FramesStart{Width: 16, Height: 16, PixelFormat: "yuv420p"}
		if change != nil {
			change(s)
		}
		return startMessage(s)
	}
	first := good(nil)
	for name, c := range map[string]struct {
		field    string
		code     codes.Code
		messages []*upscalev1.UpscaleFramesRequest
	}{
		"nothing at all":      {"payload", codes.InvalidArgument, nil},
		"an empty message":    {"payload", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{{}}},
		"a frame first":       {"payload", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{frameMessage(nil, 0)}},
		"two starts":          {"payload", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{first, first}},
		"no width":            {"start.width", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.Width = 0 })}},
		"no height":           {"start.height", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.Height = 0 })}},
		"endless width":       {"start.width", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.Width = math.MaxUint32 })}},
		"endless height":      {"start.height", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.Height = math.MaxUint32 })}},
		"too many pixels":     {"start.width", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.Width, s.Height = 65, 64 })}},
		"too much memory":     {"start.width", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.Width, s.Height, s.PixelFormat = 64, 64, "yuv444p" })}},
		"no format":           {"start.pixel_format", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.PixelFormat = "" })}},
		"unknown format":      {"start.pixel_format", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.PixelFormat = "yuv999p" })}},
		"packed format":       {"start.pixel_format", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.PixelFormat = "yuyv422" })}},
		"RGB":                 {"start.pixel_format", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.PixelFormat = "gbrp" })}},
		"hardware":            {"start.pixel_format", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.PixelFormat = "cuda" })}},
		"big-endian":          {"start.pixel_format", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.PixelFormat = "yuv420p10be" })}},
		"unknown device":      {"start.device", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.Device = 99 })}},
		"device not there":    {"start.device", codes.FailedPrecondition, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.Device = upscalev1.Device_DEVICE_CUDA })}},
		"unknown model":       {"start.model", codes.NotFound, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.Model = "xxl" })}},
		"unknown scale":       {"start.model", codes.NotFound, []*upscalev1.UpscaleFramesRequest{good(func(s *upscalev1.FramesStart) { s.Scale = 7 })}},
		"no data":             {"frame.data", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{first, frameMessage(nil, 0)}},
		"a byte missing":      {"frame.data", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{first, frameMessage(make([]byte, 383), 0)}},
		"a byte too many":     {"frame.data", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{first, frameMessage(make([]byte, 385), 0)}},
		"too few strides":     {"frame.strides", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{first, frameMessage(make([]byte, 384), 0, 16, 8)}},
		"too many strides":    {"frame.strides", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{first, frameMessage(make([]byte, 384), 0, 16, 8, 8, 8)}},
		"stride too short":    {"frame.strides", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{first, frameMessage(make([]byte, 384), 0, 15, 8, 8)}},
		"stride zero":         {"frame.strides", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{first, frameMessage(make([]byte, 384), 0, 16, 0, 8)}},
		"endless strides":     {"frame.data", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{first, frameMessage(make([]byte, 384), 0, math.MaxUint32, math.MaxUint32, math.MaxUint32)}},
		"good, then bad data": {"frame.data", codes.InvalidArgument, []*upscalev1.UpscaleFramesRequest{first, frameMessage(make([]byte, 384), 0), frameMessage(nil, 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			stream, _ := r.open(t)
			for _, m := range c.messages {
				if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			_ = stream.CloseSend()
			var err error
			for err == nil {
				_, err = stream.Recv()
			}
			if field := fieldOf(err); status.Code(err) != c.code || field != c.field {
				t.Errorf("%v with the field %q, want %v with %q", err, field, c.code, c.field)
			}
		})
	}
}

// fieldOf returns the field that a status complains of.
func fieldOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			return bad.GetFieldViolations()[0].GetField()
		}
	}
	return ""
}

func TestHalfCloseWithoutFrames(t *testing.T) {
	r := start(t, server.Limits{})
	if got := r.upscale(t, &upscalev1.FramesStart{Width: 16, Height: 16, PixelFormat: "gray"}, nil); len(got) != 0 {
		t.Errorf("%d answers to nothing", len(got))
	}
}

// TestWindow: a client that sends without reading is taken a window of frames from, and no more, and loses nothing.
func TestWindow(t *testing.T) {
	r := start(t, server.Limits{})
	// Frames of 256 KiB and answers of 1 MiB: what waits in sockets and in gRPC's windows holds a few of the frames that follow,
	// and about one answer.
	const side, more = 512, 24
	stream, accepted, _ := r.call(t, &upscalev1.FramesStart{Width: side, Height: side, PixelFormat: "gray"})
	window := int(accepted.GetWindow())
	if window < 2 || accepted.GetWidth() != 2*side || accepted.GetHeight() != 2*side {
		t.Fatalf("accepted %v", accepted)
	}
	total := window + more
	var sent atomic.Int64
	go func() {
		for i := range total {
			if stream.Send(frameMessage(bytes.Repeat([]byte{byte(i)}, side*side), int64(i))) != nil {
				return
			}
			sent.Add(1)
		}
		_ = stream.CloseSend()
	}()
	// gRPC takes the first answer off the server's hands, and holds on to the second until the client reads.
	r.eventually(t, "upscale_engine_frames_total", func(v float64) bool { return v >= float64(window) })
	// Another call runs to its end meanwhile, so the first has had time to go too far.
	for range 3 {
		small := r.upscale(t, &upscalev1.FramesStart{Width: 64, Height: 64, PixelFormat: "gray"}, nil, make([]byte, 4096), make([]byte, 4096))
		if len(small) != 2 {
			t.Fatalf("%d answers", len(small))
		}
	}
	if n := r.gauge(t, "upscale_engine_frames_total") - 6; n > float64(window+2) {
		t.Errorf("%v frames were upscaled for a client that reads none, want no more than %d and those that gRPC has taken", n, window)
	}
	if sent.Load() >= int64(total) {
		t.Error("the server went on reading")
	}
	for i := range total {
		m, err := stream.Recv()
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if m.GetFrame().GetPts() != int64(i) || len(m.GetFrame().GetData()) != 4*side*side {
			t.Fatalf("answer %d has the PTS %d and %d bytes", i, m.GetFrame().GetPts(), len(m.GetFrame().GetData()))
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v", err)
	}
}

func TestCancelFrames(t *testing.T) {
	r := start(t, server.Limits{})
	stream, accepted, cancel := r.call(t, &upscalev1.FramesStart{Width: 512, Height: 512, PixelFormat: "yuv420p"})
	for i := range accepted.GetWindow() {
		if err := stream.Send(frameMessage(bytes.Repeat([]byte{byte(i)}, 512*512*3/2), 0)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	for {
		if _, err := stream.Recv(); err != nil {
			if status.Code(err) != codes.Canceled {
				t.Errorf("the call ended with %v", err)
			}
			return // the server's cleanup shows that nothing is held
		}
	}
}

func TestStalledFrames(t *testing.T) {
	r := start(t, server.Limits{StallTimeout: 100 * time.Millisecond})
	t.Run("nothing is sent", func(t *testing.T) {
		stream, _, _ := r.call(t, &upscalev1.FramesStart{Width: 16, Height: 16, PixelFormat: "gray"})
		if _, err := stream.Recv(); status.Code(err) != codes.Aborted {
			t.Errorf("got %v, want ABORTED", err)
		}
	})
	t.Run("nothing is read", func(t *testing.T) {
		stream, accepted, _ := r.call(t, &upscalev1.FramesStart{Width: 512, Height: 512, PixelFormat: "gray"})
		for range accepted.GetWindow() {
			if err := stream.Send(frameMessage(make([]byte, 512*512), 0)); err != nil {
				t.Fatal(err)
			}
		}
		r.eventually(t, "upscale_jobs_running", func(v float64) bool { return v == 0 })
		var err error
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Aborted {
			t.Errorf("got %v, want ABORTED", err)
		}
	})
}

func TestLargeFrames(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	r := start(t, server.Limits{})
	// 26 MB a frame; all black, so that one of the two is computed.
	s := &upscalev1.FramesStart{Width: 2048, Height: 1600, PixelFormat: "yuva444p16le"}
	black := make([]byte, 2048*1600*8)
	got := r.upscale(t, s, nil, black, black)
	if len(got[1]) != 4*len(black) || !bytes.Equal(got[0], got[1]) {
		t.Errorf("answers of %d and %d bytes, want twice %d", len(got[0]), len(got[1]), 4*len(black))
	}
}

// meteredConn counts the bytes that a client writes.
type meteredConn struct {
	net.Conn
	written *atomic.Int64
}

func (c meteredConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// TestNothingIsBufferedForCallsWithoutAPlace: a call that is refused has not made the server read its first message.
func TestNothingIsBufferedForCallsWithoutAPlace(t *testing.T) {
	r := start(t, server.Limits{MaxJobs: 1})
	_, _, done := r.call(t, &upscalev1.FramesStart{Width: 16, Height: 16, PixelFormat: "gray"})
	defer done()
	for name, begin := range map[string]func(upscalev1.UpscaleServiceClient, context.Context, []byte) error{
		"UpscaleFrames": func(c upscalev1.UpscaleServiceClient, ctx context.Context, data []byte) error {
			stream, err := c.UpscaleFrames(ctx)
			if err == nil {
				_ = stream.Send(frameMessage(data, 0))
				_, err = stream.Recv()
			}
			return err
		},
		"Upscale": func(c upscalev1.UpscaleServiceClient, ctx context.Context, data []byte) error {
			stream, err := c.Upscale(ctx)
			if err == nil {
				_ = stream.Send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Chunk{Chunk: &upscalev1.Chunk{Data: data}}})
				_, err = stream.Recv()
			}
			return err
		},
		"Probe": func(c upscalev1.UpscaleServiceClient, ctx context.Context, data []byte) error {
			stream, err := c.Probe(ctx)
			if err == nil {
				_ = stream.Send(&upscalev1.ProbeRequest{Payload: &upscalev1.ProbeRequest_Chunk{Chunk: &upscalev1.Chunk{Data: data}}})
				err = stream.RecvMsg(&upscalev1.ProbeResponse{})
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var written atomic.Int64
			conn := r.dial(t, func(ctx context.Context, _ string) (net.Conn, error) {
				c, err := (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(r.address, "unix:"))
				return meteredConn{c, &written}, err
			})
			ctx, cancel := context.WithTimeout(context.Background(), deadline)
			defer cancel()
			err := begin(upscalev1.NewUpscaleServiceClient(conn), ctx, make([]byte, 32<<20))
			if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "as many videos") {
				t.Errorf("got %v, want RESOURCE_EXHAUSTED of the server's own", err)
			}
			_ = conn.Close()
			if n := written.Load(); n > 4<<20 {
				t.Errorf("%d bytes of the refused message went to the server", n)
			}
		})
	}
}

// TestSilentCallsLoseTheirPlace: a call has a place before its first message, but not for long.
func TestSilentCallsLoseTheirPlace(t *testing.T) {
	r := start(t, server.Limits{MaxJobs: 1, FirstMessageTimeout: 100 * time.Millisecond})
	silent, _ := r.open(t)
	if _, err := silent.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("a call that says nothing: %v, want ABORTED", err)
	}
	r.eventually(t, "upscale_jobs_running", func(v float64) bool { return v == 0 })
	r.upscale(t, &upscalev1.FramesStart{Width: 16, Height: 16, PixelFormat: "gray"}, nil, make([]byte, 256))
}

// TestSmallCallsTakeTurns: one connection's large messages to calls without payload hold up that connection alone.
func TestSmallCallsTakeTurns(t *testing.T) {
	r := start(t, server.Limits{})
	var written atomic.Int64
	conn := r.dial(t, func(ctx context.Context, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(r.address, "unix:"))
		return meteredConn{c, &written}, err
	})
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	// Calls that wait for a message have a turn each.
	for range 4 {
		if _, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
			"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"); err != nil {
			t.Fatal(err)
		}
	}
	check := func(service string) error {
		short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		defer stop()
		_, err := healthgrpc.NewHealthClient(conn).Check(short, &healthgrpc.HealthCheckRequest{Service: service})
		return err
	}
	for status.Code(check("")) != codes.DeadlineExceeded { // until all four have come that far
		if ctx.Err() != nil {
			t.Fatal("a fifth call of the connection does not wait")
		}
	}
	if _, err := healthgrpc.NewHealthClient(r.conn).Check(ctx, &healthgrpc.HealthCheckRequest{}); err != nil {
		t.Errorf("another connection's health check: %v", err)
	}
	if _, err := r.ListModels(ctx, &upscalev1.ListModelsRequest{}); err != nil {
		t.Errorf("another connection's list: %v", err)
	}
	// What its own calls would send stays with the client.
	if err := check(strings.Repeat("x", 32<<20)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a fifth call of the connection: %v, want it to wait", err)
	}
	if n := written.Load(); n > 4<<20 {
		t.Errorf("%d bytes of it went to the server", n)
	}
}

// TestInterceptorsSeeEveryCall: what checks tokens must not be passed by, whatever a method is on the wire.
func TestInterceptorsSeeEveryCall(t *testing.T) {
	r := start(t, server.Limits{}, grpc.ChainStreamInterceptor(func(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error {
		return status.Error(codes.Unauthenticated, "no")
	}))
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for _, service := range []grpc.ServiceDesc{upscalev1.UpscaleService_ServiceDesc, healthgrpc.Health_ServiceDesc} {
		for _, m := range service.Methods {
			err := r.conn.Invoke(ctx, "/"+service.ServiceName+"/"+m.MethodName, &upscalev1.ListModelsRequest{}, &upscalev1.ListModelsResponse{})
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s: %v", m.MethodName, err)
			}
		}
		for _, m := range service.Streams {
			stream, err := r.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+service.ServiceName+"/"+m.StreamName)
			if err == nil {
				err = stream.RecvMsg(&upscalev1.ListModelsResponse{})
			}
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s: %v", m.StreamName, err)
			}
		}
	}
}

// TestClientUpscalesFrames: the Go client sends and takes at once, and returns what its callbacks or the server complain of.
func TestClientUpscalesFrames(t *testing.T) {
	r := start(t, server.Limits{})
	c, err := client.Dial(r.address, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const width, height, count = 640, 480, 20
	next := func(end error) func(context.Context) (*upscalev1.Frame, error) {
		n := 0
		return func(context.Context) (*upscalev1.Frame, error) {
			if n++; n > count {
				return nil, end
			}
			return &upscalev1.Frame{Data: bytes.Repeat([]byte{100}, width*height), Pts: int64(n)}, nil
		}
	}
	var accepted *upscalev1.FramesAccepted
	var pts []int64
	job := client.FrameJob{
		Settings: &upscalev1.FramesStart{Scale: 4, Width: width, Height: height, PixelFormat: "gray"}, // answers of 4.9 MB
		Next:     next(io.EOF),
		Accepted: func(a *upscalev1.FramesAccepted) { accepted = a },
		Answer: func(f *upscalev1.Frame) error {
			pts = append(pts, f.GetPts())
			return nil
		},
	}
	if err := c.UpscaleFrames(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	if accepted.GetWidth() != 4*width || len(pts) != count || pts[0] != 1 || pts[count-1] != count {
		t.Errorf("accepted %v, answers %v", accepted, pts)
	}

	broken := errors.New("the camera broke")
	job.Next = next(broken)
	if err := c.UpscaleFrames(t.Context(), job); !errors.Is(err, broken) {
		t.Errorf("Next fails: got %v, want %v", err, broken)
	}
	full := errors.New("the disk is full")
	job.Next, job.Answer = next(io.EOF), func(*upscalev1.Frame) error { return full }
	if err := c.UpscaleFrames(t.Context(), job); !errors.Is(err, full) {
		t.Errorf("Answer fails: got %v, want %v", err, full)
	}
	job.Settings, job.Next = &upscalev1.FramesStart{Width: 2, Height: 2, PixelFormat: "gray"}, next(io.EOF)
	var refused *client.Error
	if err := c.UpscaleFrames(t.Context(), job); !errors.As(err, &refused) || refused.Code != codes.InvalidArgument {
		t.Errorf("a wrong frame: got %v, want INVALID_ARGUMENT", err)
	}
}
