package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"google.golang.org/grpc"

	upscalev1 "upscaler/gen/upscale/v1"
)

// FrameJob is a row of pictures to upscale that the program has decoded itself.
type FrameJob struct {
	// Settings are what the pictures have in common, and the network.
	Settings *upscalev1.FramesStart
	// Next returns the next picture, or io.EOF after the last. It is called by a goroutine of its own, and must return when the
	// context ends. A picture it has returned must not change.
	Next func(context.Context) (*upscalev1.Frame, error)
	// Accepted, when set, is told what the answers will be like.
	Accepted func(*upscalev1.FramesAccepted)
	// Answer takes the upscaled pictures in the order in which Next gave them, one for each. It is called by the goroutine that
	// called UpscaleFrames, as Accepted is; while it does not return, the server soon stops taking pictures.
	Answer func(*upscalev1.Frame) error
}

// UpscaleFrames runs a job to its end. Its errors are Next's and Answer's own, *Error (what the server said), *ProtocolError
// (an answer is missing), or ctx's cause when it ended.
func (c *Client) UpscaleFrames(ctx context.Context, job FrameJob) error {
	ctx, cancel := context.WithCancelCause(ctx)
	stream, err := c.api.UpscaleFrames(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32)) // an answer is one message
	if err != nil {
		cancel(nil)
		return c.translate(ctx, err)
	}
	sent := make(chan uint64, 1)
	go func() {
		n, err := sendFrames(ctx, stream, job)
		if err != nil && !errors.Is(err, io.EOF) { // with io.EOF gRPC leaves it to the receiver to say what broke
			cancel(err)
		}
		sent <- n
	}()
	received, answerErr, err := receiveFrames(stream, job)
	if err != nil {
		err = c.translate(ctx, err)
	}
	if answerErr != nil {
		err = answerErr
	}
	cancel(nil)
	if n := <-sent; err == nil && n != received {
		err = &ProtocolError{Text: fmt.Sprintf("the server answered %d of %d frames", received, n)}
	}
	return err
}

// sendFrames returns how many it sent, and an error of Next or of the stream.
func sendFrames(ctx context.Context, stream grpc.BidiStreamingClient[upscalev1.UpscaleFramesRequest, upscalev1.UpscaleFramesResponse], job FrameJob) (uint64, error) {
	if err := stream.Send(&upscalev1.UpscaleFramesRequest{Payload: &upscalev1.UpscaleFramesRequest_Start{Start: job.Settings}}); err != nil {
		return 0, err
	}
	for n := uint64(0); ; n++ {
		f, err := job.Next(ctx)
		if errors.Is(err, io.EOF) {
			return n, stream.CloseSend()
		}
		if err != nil {
			return n, err
		}
		if err := stream.Send(&upscalev1.UpscaleFramesRequest{Payload: &upscalev1.UpscaleFramesRequest_Frame{Frame: f}}); err != nil {
			return n, err
		}
	}
}

// receiveFrames returns how many answers came, and an error of Answer or one of the stream.
func receiveFrames(stream grpc.BidiStreamingClient[upscalev1.UpscaleFramesRequest, upscalev1.UpscaleFramesResponse], job FrameJob) (n uint64, answerErr, err error) {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n, nil, nil
		}
		if err != nil {
			return n, nil, err
		}
		if a := m.GetAccepted(); a != nil && job.Accepted != nil {
			job.Accepted(a)
		}
		if f := m.GetFrame(); f != nil {
			n++
			if err := job.Answer(f); err != nil {
				return n, err, nil
			}
		}
	}
}
