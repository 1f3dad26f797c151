package server

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"upscaler/decode"
	"upscaler/encode"
	"upscaler/internal/frame"
	"upscaler/server/frames"
	"upscaler/server/pipeline"
	"upscaler/sr"
)

func TestToStatus(t *testing.T) {
	table := []struct {
		name   string
		err    error
		code   codes.Code
		reason string
		field  string // of the BadRequest; "" for none
		retry  bool
	}{
		{"cancelled", fmt.Errorf("read: %w", context.Canceled), codes.Canceled, "CANCELLED", "", false},
		{"picture", &frames.InputError{Field: "frame.strides", Text: "x"}, codes.InvalidArgument, "PICTURE", "frame.strides", false},
		{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE", "", false},
		{"shutdown", errShutdown, codes.Unavailable, "SHUTDOWN", "", true},
		{"stalled", errStalled, codes.Aborted, "STALLED", "", false},
		{"too long", errTooLong, codes.ResourceExhausted, "LIMIT", "", false},
		{"too much", errTooMuch, codes.ResourceExhausted, "LIMIT", "", false},
		{"protocol", &protocolError{"payload", "x"}, codes.InvalidArgument, "PROTOCOL", "payload", false},
		{"option", &encode.OptionError{Field: "output.crf", Text: "x"}, codes.InvalidArgument, "OPTION", "start.output.crf", false},
		{"strict", &encode.UnsupportedError{Text: "x"}, codes.FailedPrecondition, "STREAM_NOT_KEPT", "", false},
		{"model", &sr.NoModelError{Spec: sr.Spec{Scale: 7}}, codes.NotFound, "NO_SUCH_MODEL", "start.model", false},
		{"device", &sr.DeviceError{Device: sr.CUDA, Err: errors.New("x")}, codes.FailedPrecondition, "NO_SUCH_DEVICE", "start.device", false},
		{"empty input", &decode.InputError{Kind: decode.Empty, Text: "x"}, codes.InvalidArgument, "INPUT_EMPTY", "chunk", false},
		{"no video stream", &decode.InputError{Kind: decode.NoVideoStream, Text: "x"}, codes.InvalidArgument, "INPUT_NO_VIDEO_STREAM", "chunk", false},
		{"damaged input", fmt.Errorf("open: %w", &decode.InputError{Kind: decode.Damaged, Text: "x"}), codes.DataLoss, "INPUT_DAMAGED", "", false},
		{"spool", &decode.SpoolLimitError{Limit: 1}, codes.InvalidArgument, "SPOOL_LIMIT", "chunk", false},
		{"frame too large", &frame.TooLargeError{Need: 2, Budget: 1}, codes.InvalidArgument, "FRAME_TOO_LARGE", "", false},
		{"frame count", &pipeline.FrameCountError{Decoded: 2, Encoded: 1}, codes.DataLoss, "FRAME_COUNT", "", false},
		{"anything else", errors.New("x"), codes.Internal, "INTERNAL", "", false},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			st := status.Convert(toStatus(c.err))
			if st.Code() != c.code || st.Message() == "" {
				t.Errorf("got %v %q, want %v and a message", st.Code(), st.Message(), c.code)
			}
			var reason, field string
			var retry bool
			for _, d := range st.Details() {
				switch d := d.(type) {
				case *errdetails.ErrorInfo:
					reason = d.GetReason()
					if d.GetDomain() != errorDomain {
						t.Errorf("domain %q", d.GetDomain())
					}
				case *errdetails.BadRequest:
					field = d.GetFieldViolations()[0].GetField()
				case *errdetails.RetryInfo:
					retry = d.GetRetryDelay().AsDuration() > 0
				}
			}
			if reason != c.reason || field != c.field || retry != c.retry {
				t.Errorf("reason %q, field %q, retry %v; want %q, %q, %v", reason, field, retry, c.reason, c.field, c.retry)
			}
		})
	}
	if toStatus(nil) != nil {
		t.Error("no error became a status")
	}
	own := status.Error(codes.Unauthenticated, "x")
	if got := toStatus(own); got != own {
		t.Errorf("a status became %v", got)
	}
}
