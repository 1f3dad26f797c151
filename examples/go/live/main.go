// Command live upscales a camera's stream as it comes, with a running sr-server, through the generated stubs alone.
//
//	go run ./examples/go/live -o - | mpv -
//
// The camera here is a test picture that FFmpeg's program makes; put the command of a real one in its place.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	upscalev1 "upscaler/gen/upscale/v1"
)

// chunkSize is the most that is sent in one message; with its framing it fits the buffers that gRPC reuses.
const chunkSize = 31 << 10

func main() {
	server := flag.String("server", "127.0.0.1:50051", "host:port or unix:/path of the server")
	target := flag.String("o", "-", "file to write the upscaled MPEG-TS to, - for standard output")
	seconds := flag.Int("seconds", 10, "how long the camera runs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *server, *target, *seconds)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "live:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, server, target string, seconds int) error {
	out := os.Stdout
	if target != "-" {
		file, err := os.Create(target)
		if err != nil {
			return err
		}
		defer file.Close()
		out = file
	}
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx) // ends the call and the camera, whichever is left
	defer cancel(nil)
	stream, err := upscalev1.NewUpscaleServiceClient(conn).Upscale(ctx)
	if err != nil {
		return err
	}
	camera, wait, err := startCamera(ctx, seconds)
	if err != nil {
		return err
	}
	defer wait()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if err := send(stream, camera); err != nil && !errors.Is(err, io.EOF) { // io.EOF: receive learns what broke
			cancel(err)
		}
	}()
	err = receive(stream, out)
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	cancel(nil)
	<-sent
	return err
}

// startCamera starts a program that writes MPEG-TS as it happens: H.264 with the least delay, and a tone. It ends with ctx; wait
// returns when it has.
func startCamera(ctx context.Context, seconds int) (stream io.Reader, wait func(), err error) {
	cmd := exec.CommandContext(ctx, "ffmpeg", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25",
		"-re", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", fmt.Sprint(seconds),
		"-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25", "-pix_fmt", "yuv420p",
		"-c:a", "aac", "-f", "mpegts", "-flush_packets", "1", "-")
	cmd.Stderr = os.Stderr
	stream, err = cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return stream, func() { _ = cmd.Wait() }, cmd.Start()
}

// send sends the settings once, then what the camera has written, without waiting until it is much.
func send(stream grpc.BidiStreamingClient[upscalev1.UpscaleRequest, upscalev1.UpscaleResponse], camera io.Reader) error {
	err := stream.Send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Start{Start: &upscalev1.Start{
		Mode:   upscalev1.Mode_MODE_LIVE,
		Input:  &upscalev1.Input{Name: "camera.ts"},
		Output: &upscalev1.Output{Container: upscalev1.Container_CONTAINER_MPEGTS},
	}}})
	if err != nil {
		return err
	}
	for {
		data := make([]byte, chunkSize) // gRPC may hold on to it after Send has returned
		n, err := camera.Read(data)
		if n > 0 {
			chunk := &upscalev1.UpscaleRequest_Chunk{Chunk: &upscalev1.Chunk{Data: data[:n]}}
			if err := stream.Send(&upscalev1.UpscaleRequest{Payload: chunk}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return stream.CloseSend()
		}
		if err != nil {
			return err
		}
	}
}

// receive writes what the server answers to out, piece by piece, until its summary.
func receive(stream grpc.BidiStreamingClient[upscalev1.UpscaleRequest, upscalev1.UpscaleResponse], out io.Writer) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the stream ended without a summary")
		}
		if err != nil {
			return err
		}
		switch p := m.GetPayload().(type) {
		case *upscalev1.UpscaleResponse_Chunk:
			if _, err := out.Write(p.Chunk.GetData()); err != nil {
				return err
			}
		case *upscalev1.UpscaleResponse_Progress:
			live := p.Progress.GetLive()
			fmt.Fprintf(os.Stderr, "%s: %.1f fps in, %.1f out, %d ms behind, %d frames dropped\n", live.GetLevel(), live.GetFpsIn(), live.GetFpsOut(),
				live.GetLatencyP50().AsDuration().Milliseconds(), live.GetDroppedLate()+live.GetDroppedUndecoded())
		case *upscalev1.UpscaleResponse_Notice:
			fmt.Fprintf(os.Stderr, "note: %s\n", p.Notice.GetText())
		case *upscalev1.UpscaleResponse_Summary:
			fmt.Fprintf(os.Stderr, "%d of %d frames, %d bytes\n", p.Summary.GetFramesEncoded(), p.Summary.GetFramesDecoded(), p.Summary.GetBytesOut())
			return nil
		}
	}
}
