package server

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"upscaler/decode"
	"upscaler/encode"
	"upscaler/internal/frame"
	"upscaler/live"
	"upscaler/server/frames"
	"upscaler/server/pipeline"
	"upscaler/sr"
)

// errorDomain is the domain of every ErrorInfo this service sends.
const errorDomain = "upscale.v1"

// Why a job was ended from within the server; context causes, turned into statuses here like every other error.
var (
	errShutdown = errors.New("the server is shutting down; send the job to another or try again later")
	errStalled  = errors.New("the job made no progress: no input came, or its output was not read")
	errTooLong  = errors.New("the job took longer than this server allows")
	errTooMuch  = errors.New("the upload is larger than this server allows")
)

// errNoStart is a call that begins with something else, or with nothing.
var errNoStart = &protocolError{"payload", "the first message must say what is to be done (start)"}

// protocolError is a client that does not keep to the contract's order of messages.
type protocolError struct{ field, text string }

func (e *protocolError) Error() string { return e.text }

// toStatus turns any error of a job into the gRPC status that tells the client what happened and what to do. This is the
// only place where statuses are made.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	var (
		input    *decode.InputError
		option   *encode.OptionError
		keep     *encode.UnsupportedError
		noModel  *sr.NoModelError
		device   *sr.DeviceError
		spool    *decode.SpoolLimitError
		tooLarge *frame.TooLargeError
		count    *pipeline.FrameCountError
		gone     *pipeline.SourceGoneError
		address  *addressError
		refused  *live.RefusedError
		protocol *protocolError
		resume   *encode.ResumeError
		picture  *frames.InputError
	)
	switch {
	case errors.Is(err, context.Canceled):
		return newStatus(codes.Canceled, "CANCELLED", "the job was cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return newStatus(codes.DeadlineExceeded, "DEADLINE", "the call's deadline passed before the job was done")
	case errors.Is(err, errShutdown):
		return newStatus(codes.Unavailable, "SHUTDOWN", err.Error(), retryInfo())
	case errors.Is(err, errStalled):
		return newStatus(codes.Aborted, "STALLED", err.Error())
	case errors.Is(err, errTooLong), errors.Is(err, errTooMuch):
		return newStatus(codes.ResourceExhausted, "LIMIT", err.Error())
	case errors.As(err, &protocol):
		return newStatus(codes.InvalidArgument, "PROTOCOL", err.Error(), badField(protocol.field, err.Error()))
	case errors.As(err, &picture):
		return newStatus(codes.InvalidArgument, "PICTURE", err.Error(), badField(picture.Field, err.Error()))
	case errors.As(err, &option):
		return newStatus(codes.InvalidArgument, "OPTION", err.Error(), badField("start."+option.Field, err.Error()))
	case errors.As(err, &keep):
		return newStatus(codes.FailedPrecondition, "STREAM_NOT_KEPT", err.Error())
	case errors.As(err, &resume):
		return newStatus(codes.FailedPrecondition, "RESUME", err.Error(), badField("start.resume", err.Error()))
	case errors.As(err, &noModel):
		return newStatus(codes.NotFound, "NO_SUCH_MODEL", err.Error(), badField("start.model", err.Error()))
	case errors.As(err, &device):
		return newStatus(codes.FailedPrecondition, "NO_SUCH_DEVICE", err.Error(), badField("start.device", err.Error()))
	case errors.As(err, &input):
		return inputStatus(input, err)
	case errors.As(err, &spool):
		return newStatus(codes.InvalidArgument, "SPOOL_LIMIT", err.Error(), badField("chunk", err.Error()))
	case errors.As(err, &tooLarge):
		return newStatus(codes.InvalidArgument, "FRAME_TOO_LARGE", err.Error())
	case errors.As(err, &refused):
		return newStatus(codes.PermissionDenied, "ADDRESS_NOT_ALLOWED", err.Error())
	case errors.As(err, &address):
		return newStatus(codes.InvalidArgument, "ADDRESS", err.Error(), badField(address.field, err.Error()))
	case errors.As(err, &gone):
		return newStatus(codes.Unavailable, "SOURCE_GONE", err.Error())
	case errors.As(err, &count):
		return newStatus(codes.DataLoss, "FRAME_COUNT", err.Error())
	}
	return newStatus(codes.Internal, "INTERNAL", err.Error())
}

func inputStatus(input *decode.InputError, err error) error {
	switch input.Kind {
	case decode.Damaged:
		return newStatus(codes.DataLoss, "INPUT_DAMAGED", err.Error())
	case decode.OutsidePart:
		return newStatus(codes.InvalidArgument, "PART", err.Error(), badField("start.start_time", err.Error()))
	default:
		reason := "INPUT_" + strings.ReplaceAll(strings.ToUpper(input.Kind.String()), " ", "_")
		return newStatus(codes.InvalidArgument, reason, err.Error(), badField("chunk", err.Error()))
	}
}

func newStatus(code codes.Code, reason, text string, details ...protoadapt.MessageV1) error {
	s := status.New(code, text)
	with, err := s.WithDetails(append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain}}, details...)...)
	if err != nil {
		return s.Err() // a detail that cannot be packed must not hide the failure itself
	}
	return with.Err()
}

func badField(field, text string) protoadapt.MessageV1 {
	return &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: text}}}
}

func retryInfo() protoadapt.MessageV1 {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}
}

func exhausted() error {
	return newStatus(codes.ResourceExhausted, "TOO_MANY_JOBS",
		"the server is working on as many videos as it takes at once; try again in "+retryAfter.Round(time.Second).String(), retryInfo())
}
