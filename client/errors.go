package client

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errorDomain is the ErrorInfo domain of errors that the service itself raised. A status without it comes from gRPC, from
// something in between, or from another service.
const errorDomain = "upscale.v1"

// Error is a call's failure as the server or the connection to it told it.
type Error struct {
	Code codes.Code
	// Reason is the ErrorInfo's machine-readable reason, empty when the status carries none of this service.
	Reason string
	// Fields are the settings that the server objects to.
	Fields []Field
	// RetryAfter is the time after which the server wants to be asked again; 0 when it does not say.
	RetryAfter time.Duration
	// Text is one sentence for people.
	Text string

	status *status.Status
}

// Field is a setting that is wrong, by its path in Start ("output.crf"), and why.
type Field struct{ Path, Text string }

func (e *Error) Error() string { return e.Text }

// GRPCStatus returns the status as it was received.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Busy reports whether the server only has no room now and wants to be asked again.
func (e *Error) Busy() bool { return e.Code == codes.ResourceExhausted && e.RetryAfter > 0 }

// ProtocolError says that the server's answers do not fit together: the result must not be used.
type ProtocolError struct{ Text string }

func (e *ProtocolError) Error() string { return e.Text }

// translate makes a call's error one for people. A call that ended because ctx did has ctx's cause as its reason.
func (c *Client) translate(ctx context.Context, err error) error {
	if code := status.Code(err); code == codes.Canceled || code == codes.DeadlineExceeded {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
	}
	return newError(c.Address(), err)
}

// newError reads the details of a gRPC status.
func newError(address string, err error) *Error {
	st := status.Convert(err)
	e := &Error{Code: st.Code(), status: st}
	ours := false
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == errorDomain {
				ours = true
				e.Reason = d.GetReason()
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Fields = append(e.Fields, Field{Path: v.GetField(), Text: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if ours {
		e.Text = st.Message()
		for _, f := range e.Fields {
			if f.Text != "" && !strings.Contains(e.Text, f.Text) {
				e.Text += fmt.Sprintf(" (%s: %s)", f.Path, f.Text)
			}
		}
		return e
	}

	message := innermost(st.Message())
	switch st.Code() {
	case codes.Unavailable:
		switch {
		case strings.Contains(message, "name resolver error"):
			e.Text = fmt.Sprintf("no server answers at %s: the host's name cannot be resolved", address)
		case strings.Contains(message, "while dialing"):
			// ...: dial tcp 127.0.0.1:1: connect: connection refused
			cause := message[strings.LastIndex(message, ": ")+1:]
			e.Text = fmt.Sprintf("no server answers at %s:%s", address, cause)
		default:
			e.Text = fmt.Sprintf("the connection to the server at %s failed: %s", address, message)
		}
	case codes.Unimplemented:
		e.Text = fmt.Sprintf("what answers at %s is not an upscaling server, or one of another version: %s", address, message)
	case codes.Unauthenticated, codes.PermissionDenied:
		e.Text = fmt.Sprintf("the server at %s refuses: %s", address, message)
	case codes.DeadlineExceeded:
		e.Text = fmt.Sprintf("the server at %s did not answer in time", address)
	case codes.Canceled:
		e.Text = fmt.Sprintf("the server at %s cancelled the call: %s", address, message)
	default:
		e.Text = fmt.Sprintf("the server at %s failed (%s): %s", address, st.Code(), message)
	}
	return e
}

// innermost returns the last part of an error that gRPC wrapped in itself several times.
func innermost(message string) string {
	if i := strings.LastIndex(message, "desc = "); i >= 0 {
		message = message[i+len("desc = "):]
	}
	message = strings.Trim(message, `" `)
	return strings.TrimPrefix(message, "transport: ")
}
