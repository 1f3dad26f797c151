package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	upscalev1 "upscaler/gen/upscale/v1"

	"upscaler/client/internal/scripted"
)

// dial starts a server that follows script and connects to it.
func dial(t *testing.T, script scripted.Script) (*Client, *scripted.Server) {
	t.Helper()
	server, err := scripted.Start("", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	c, err := Dial(server.Address(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, server
}

// randomBytes returns n bytes that are the same in every run.
func randomBytes(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data)
	return data
}

// onlyReader hides that a reader can seek.
func onlyReader(r io.Reader) io.Reader { return struct{ io.Reader }{r} }

func TestUpscaleTransfersEveryByte(t *testing.T) {
	c, _ := dial(t, scripted.Script{OnUpscale: scripted.Transform(nil)})
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 1 << 20} {
		input := randomBytes(size)
		t.Run(fmt.Sprintf("file of %d", size), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			file, err := CreateFile(path, false)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Abort()
			out := ToFile(file)
			if _, err := c.Upscale(t.Context(), Job{In: bytes.NewReader(input), Out: out}); err != nil {
				t.Fatal(err)
			}
			if err := file.Commit(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, scripted.Result(input)) {
				t.Fatalf("the file differs: %d bytes, want %d", len(got), 2*size+1)
			}
			if out.Size() != uint64(len(got)) {
				t.Errorf("Size is %d, the file has %d bytes", out.Size(), len(got))
			}
		})
		t.Run(fmt.Sprintf("stream of %d", size), func(t *testing.T) {
			var got bytes.Buffer
			in := iotest.HalfReader(onlyReader(bytes.NewReader(input))) // short reads, as from a pipe
			if _, err := c.Upscale(t.Context(), Job{In: in, Out: ToStream(&got)}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), scripted.Result(input)) {
				t.Fatalf("the stream differs: %d bytes, want %d", got.Len(), 2*size+1)
			}
		})
	}
}

func TestUpscaleTellsEventsInOrder(t *testing.T) {
	c, _ := dial(t, scripted.Script{OnUpscale: scripted.Transform(nil)})
	var events []Event
	summary, err := c.Upscale(t.Context(), Job{
		Settings: &upscalev1.Start{Scale: 3, Output: &upscalev1.Output{Preset: "fast"}},
		In:       bytes.NewReader(randomBytes(10)),
		Out:      ToFile(discardAt{}),
		On:       func(e Event) { events = append(events, e) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if summary.GetFramesEncoded() != 100 {
		t.Errorf("the summary tells of %d frames, want 100", summary.GetFramesEncoded())
	}
	if len(events) != 2 || events[0].Accepted == nil || events[1].Progress == nil {
		t.Fatalf("got %v, want accepted and progress", events)
	}
	settings := events[0].Accepted.GetSettings()
	if settings.GetScale() != 3 || settings.GetOutput().GetPreset() != "fast" || !settings.GetOutput().GetSeekable() {
		t.Errorf("the server got the settings %v", settings)
	}
}

// discardAt is an io.WriterAt that takes everything.
type discardAt struct{}

func (discardAt) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestUpscaleRefusesSpoiledResults(t *testing.T) {
	type response = upscalev1.UpscaleResponse
	tests := []struct {
		name   string
		stream bool
		change func(*response) *response
		want   string
	}{
		{
			name: "byte changed",
			change: func(r *response) *response {
				if c := r.GetChunk(); len(c.GetData()) > 10 {
					c.Data = bytes.Clone(c.GetData())
					c.Data[5] ^= 1
				}
				return r
			},
			want: "damaged",
		},
		{
			name: "chunk lost",
			change: func(r *response) *response {
				if len(r.GetChunk().GetData()) == 1 {
					return nil
				}
				return r
			},
			want: "offset 1",
		},
		{
			name: "fewer frames encoded",
			change: func(r *response) *response {
				if s := r.GetSummary(); s != nil {
					s.FramesEncoded--
				}
				return r
			},
			want: "100 frames were decoded and 99 encoded",
		},
		{
			name: "no summary",
			change: func(r *response) *response {
				if r.GetSummary() != nil {
					return nil
				}
				return r
			},
			want: "without a summary",
		},
		{
			name: "hole",
			change: func(r *response) *response {
				if c := r.GetChunk(); c.GetOffset() > 0 {
					c.Offset++
				}
				return r
			},
			want: "offset 2",
		},
		{
			name: "absurd offset",
			change: func(r *response) *response {
				if c := r.GetChunk(); c.GetOffset() > 0 {
					c.Offset = 1<<64 - 1
				}
				return r
			},
			want: "offset 18446744073709551615",
		},
		{
			name:   "return to earlier offset in a stream",
			stream: true,
			change: func(r *response) *response {
				if r.GetProgress() != nil || r.GetAccepted() != nil {
					return &response{Payload: &upscalev1.UpscaleResponse_Chunk{Chunk: &upscalev1.Chunk{Data: []byte{1}}}}
				}
				return r
			},
			want: "offset 0",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, _ := dial(t, scripted.Script{OnUpscale: scripted.Transform(test.change)})
			out := ToFile(discardAt{})
			if test.stream {
				out = ToStream(io.Discard)
			}
			_, err := c.Upscale(t.Context(), Job{In: bytes.NewReader(randomBytes(100)), Out: out})
			var protocol *ProtocolError
			if !errors.As(err, &protocol) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %T %v, want a *ProtocolError with %q", err, err, test.want)
			}
		})
	}
}

func TestUpscaleRefusesAnswersAfterTheSummary(t *testing.T) {
	c, _ := dial(t, scripted.Script{OnUpscale: func(s scripted.Upscale) error {
		if err := scripted.Transform(nil)(s); err != nil {
			return err
		}
		return s.Send(&upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Chunk{Chunk: &upscalev1.Chunk{Data: []byte{1}}}})
	}})
	_, err := c.Upscale(t.Context(), Job{In: strings.NewReader("x"), Out: ToStream(io.Discard)})
	var protocol *ProtocolError
	if !errors.As(err, &protocol) {
		t.Errorf("got %v, want a *ProtocolError", err)
	}
}

// fail returns a status with details.
func fail(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	st, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func ours(reason string) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Domain: errorDomain, Reason: reason}
}

func TestUpscaleReadsStatuses(t *testing.T) {
	tests := []struct {
		name   string
		status error
		want   Error
	}{
		{
			name:   "the service's sentence stays",
			status: fail(codes.DataLoss, "The video ends in the middle of a frame.", ours("INPUT_TRUNCATED")),
			want:   Error{Code: codes.DataLoss, Reason: "INPUT_TRUNCATED", Text: "The video ends in the middle of a frame."},
		},
		{
			name: "field",
			status: fail(codes.InvalidArgument, "The settings cannot be used.", ours("BAD_OPTION"), &errdetails.BadRequest{
				FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "output.crf", Description: "crf must be at most 51"}},
			}),
			want: Error{
				Code: codes.InvalidArgument, Reason: "BAD_OPTION",
				Fields: []Field{{"output.crf", "crf must be at most 51"}},
				Text:   "The settings cannot be used. (output.crf: crf must be at most 51)",
			},
		},
		{
			name: "field already said",
			status: fail(codes.InvalidArgument, "crf must be at most 51", ours("BAD_OPTION"), &errdetails.BadRequest{
				FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "output.crf", Description: "crf must be at most 51"}},
			}),
			want: Error{
				Code: codes.InvalidArgument, Reason: "BAD_OPTION",
				Fields: []Field{{"output.crf", "crf must be at most 51"}}, Text: "crf must be at most 51",
			},
		},
		{
			name:   "another service's details do not count",
			status: fail(codes.Internal, "oops", &errdetails.ErrorInfo{Domain: "example.com", Reason: "OOPS"}),
			want:   Error{Code: codes.Internal, Text: "the server at ADDR failed (Internal): oops"},
		},
		{
			name:   "unavailable by the service",
			status: fail(codes.Unavailable, "The server is shutting down.", ours("SHUTTING_DOWN")),
			want:   Error{Code: codes.Unavailable, Reason: "SHUTTING_DOWN", Text: "The server is shutting down."},
		},
		{
			name:   "not this service",
			status: status.Error(codes.Unimplemented, "unknown service upscale.v1.UpscaleService"),
			want:   Error{Code: codes.Unimplemented, Text: "what answers at ADDR is not an upscaling server, or one of another version: unknown service upscale.v1.UpscaleService"},
		},
		{
			name:   "cancelled by the server",
			status: status.Error(codes.Canceled, "enough"),
			want:   Error{Code: codes.Canceled, Text: "the server at ADDR cancelled the call: enough"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, server := dial(t, scripted.Script{OnUpscale: func(scripted.Upscale) error { return test.status }})
			_, err := c.Upscale(t.Context(), Job{In: strings.NewReader("x"), Out: ToStream(io.Discard)})
			var got *Error
			if !errors.As(err, &got) {
				t.Fatalf("got %T %v, want an *Error", err, err)
			}
			want := test.want
			want.Text = strings.ReplaceAll(want.Text, "ADDR", server.Address())
			if got.Code != want.Code || got.Reason != want.Reason || got.Text != want.Text || fmt.Sprint(got.Fields) != fmt.Sprint(want.Fields) {
				t.Errorf("got  %+v\nwant %+v", *got, want)
			}
			if status.Code(err) != want.Code {
				t.Errorf("as a gRPC status it is %v, want %v", status.Code(err), want.Code)
			}
		})
	}
}

func TestUpscaleWithoutServer(t *testing.T) {
	c, server := dial(t, scripted.Script{})
	server.Stop()
	_, err := c.Upscale(t.Context(), Job{In: strings.NewReader("x"), Out: ToStream(io.Discard)})
	if want := "no server answers at " + server.Address(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want %q and why", err, want)
	}
}

// busy refuses the first n jobs and asks to be asked again after delay.
func busy(n int32, delay time.Duration, then func(scripted.Upscale) error) (func(scripted.Upscale) error, *atomic.Int32) {
	asked := &atomic.Int32{}
	return func(s scripted.Upscale) error {
		if asked.Add(1) > n {
			return then(s)
		}
		// Some of the input is taken first, as a server may: it must be sent anew.
		for range 2 {
			if _, err := s.Recv(); err != nil {
				return err
			}
		}
		return fail(codes.ResourceExhausted, "All places are taken.", ours("NO_ROOM"),
			&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	}, asked
}

func TestUpscaleAsksABusyServerAgain(t *testing.T) {
	const delay = 30 * time.Millisecond
	upscale, asked := busy(2, delay, scripted.Transform(nil))
	c, _ := dial(t, scripted.Script{OnUpscale: upscale})
	input := randomBytes(3 * chunkSize)
	in := bytes.NewReader(append([]byte("before"), input...))
	if _, err := in.Seek(int64(len("before")), io.SeekStart); err != nil { // the job begins here, not at the file's start
		t.Fatal(err)
	}
	var got bytes.Buffer
	var pauses []time.Duration
	began := time.Now()
	_, err := c.Upscale(t.Context(), Job{In: in, Out: ToStream(&got), On: func(e Event) {
		if e.Busy != nil {
			pauses = append(pauses, e.Busy.Pause)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), scripted.Result(input)) {
		t.Error("the result differs")
	}
	if asked.Load() != 3 || len(pauses) != 2 {
		t.Fatalf("asked %d times after the pauses %v, want 3 times after 2 pauses", asked.Load(), pauses)
	}
	for _, p := range pauses {
		if p < delay {
			t.Errorf("a pause of %v, the server wanted at least %v", p, delay)
		}
	}
	if spent := time.Since(began); spent < pauses[0]+pauses[1] {
		t.Errorf("asked again after %v, sooner than the pauses %v", spent, pauses)
	}
}

func TestUpscaleDoesNotAskAgain(t *testing.T) {
	tests := []struct {
		name   string
		job    Job
		refuse func(scripted.Upscale) error
	}{
		{name: "input that cannot seek", job: Job{In: onlyReader(bytes.NewReader(randomBytes(chunkSize)))}},
		{name: "no patience", job: Job{In: bytes.NewReader(randomBytes(chunkSize)), Patience: -1}},
		{name: "pause longer than patience", job: Job{In: bytes.NewReader(randomBytes(chunkSize)), Patience: time.Millisecond}},
		{
			name: "no delay named", // gRPC itself refuses with this code, too, and would again
			job:  Job{In: bytes.NewReader(randomBytes(chunkSize))},
			refuse: func(scripted.Upscale) error {
				return status.Error(codes.ResourceExhausted, "message larger than max")
			},
		},
		{
			name: "result begun",
			job:  Job{In: bytes.NewReader(randomBytes(chunkSize))},
			refuse: func(s scripted.Upscale) error {
				if err := s.Send(&upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Chunk{Chunk: &upscalev1.Chunk{Data: []byte{1}}}}); err != nil {
					return err
				}
				return fail(codes.ResourceExhausted, "The disk is full.", ours("NO_ROOM"),
					&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)})
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			upscale, asked := busy(1, 10*time.Millisecond, scripted.Transform(nil))
			if test.refuse != nil {
				upscale = func(s scripted.Upscale) error {
					asked.Add(1)
					return test.refuse(s)
				}
			}
			c, _ := dial(t, scripted.Script{OnUpscale: upscale})
			job := test.job
			job.Out = ToStream(io.Discard)
			_, err := c.Upscale(t.Context(), job)
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("got %v, want RESOURCE_EXHAUSTED", err)
			}
			if asked.Load() != 1 {
				t.Errorf("asked %d times, want once", asked.Load())
			}
		})
	}
}

// stall takes the first message, says so, and waits for the end of the call.
func stall() (func(scripted.Upscale) error, chan struct{}, chan struct{}) {
	begun, ended := make(chan struct{}), make(chan struct{})
	return func(s scripted.Upscale) error {
		defer close(ended)
		if _, err := s.Recv(); err != nil {
			return err
		}
		close(begun)
		<-s.Context().Done()
		return s.Context().Err()
	}, begun, ended
}

// wait fails the test when c is not closed soon.
func wait(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not happen", what)
	}
}

// endless is an input without an end that never blocks.
type endless struct{ read atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.read.Add(int64(len(p)))
	return len(p), nil
}

func TestUpscaleCancel(t *testing.T) {
	pipe, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	for name, in := range map[string]io.Reader{
		"endless input": &endless{},
		"file":          bytes.NewReader(randomBytes(1 << 20)),
		"blocked pipe":  pipe,
	} {
		t.Run(name, func(t *testing.T) {
			upscale, begun, ended := stall()
			c, _ := dial(t, scripted.Script{OnUpscale: upscale})
			ctx, cancel := context.WithCancelCause(t.Context())
			cause := errors.New("enough")
			go func() {
				<-begun
				cancel(cause)
			}()
			if _, err := c.Upscale(ctx, Job{In: in, Out: ToStream(io.Discard)}); !errors.Is(err, cause) {
				t.Errorf("got %v, want the cause", err)
			}
			wait(t, ended, "the end of the server's call")
		})
	}
}

func TestUpscaleCancelWhileWaitingForRoom(t *testing.T) {
	upscale, _ := busy(1, time.Hour, nil)
	c, _ := dial(t, scripted.Script{OnUpscale: upscale})
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	_, err := c.Upscale(ctx, Job{In: bytes.NewReader(randomBytes(chunkSize)), Out: ToStream(io.Discard), Patience: 2 * time.Hour, On: func(e Event) {
		if e.Busy != nil {
			cancel(cause)
		}
	}})
	if !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
}

func TestUpscaleInputFails(t *testing.T) {
	upscale, _, ended := stall()
	c, _ := dial(t, scripted.Script{OnUpscale: upscale})
	broken := errors.New("the disk is broken")
	in := io.MultiReader(bytes.NewReader(randomBytes(100)), iotest.ErrReader(broken))
	_, err := c.Upscale(t.Context(), Job{In: in, Out: ToStream(io.Discard)})
	var input *InputError
	if !errors.As(err, &input) || !errors.Is(err, broken) {
		t.Errorf("got %v, want an *InputError around the reader's error", err)
	}
	wait(t, ended, "the end of the server's call")
}

// brokenWriter fails after some bytes.
type brokenWriter struct {
	left int
	err  error
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, w.err
	}
	return len(p), nil
}

func (w *brokenWriter) WriteAt(p []byte, _ int64) (int, error) { return w.Write(p) }

func TestUpscaleOutputFails(t *testing.T) {
	full := errors.New("no space left")
	for name, out := range map[string]*Output{
		"file":   ToFile(&brokenWriter{1000, full}),
		"stream": ToStream(&brokenWriter{1000, full}),
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := dial(t, scripted.Script{OnUpscale: scripted.Transform(nil)})
			_, err := c.Upscale(t.Context(), Job{In: bytes.NewReader(randomBytes(1 << 20)), Out: out})
			var output *OutputError
			if !errors.As(err, &output) || !errors.Is(err, full) {
				t.Errorf("got %v, want an *OutputError around the writer's error", err)
			}
		})
	}
}

func TestUpscaleServerDies(t *testing.T) {
	upscale, begun, _ := stall()
	c, server := dial(t, scripted.Script{OnUpscale: upscale})
	go func() {
		<-begun
		server.Stop()
	}()
	_, err := c.Upscale(t.Context(), Job{In: &endless{}, Out: ToStream(io.Discard)})
	var e *Error
	if !errors.As(err, &e) || e.Code != codes.Unavailable || !strings.Contains(e.Text, "connection to the server") {
		t.Errorf("got %v, want an *Error that names the connection", err)
	}
}

// backlog is far more than the two flow-control windows and buffers of a connection hold, and how long the tests below look
// for the fast side to run that far ahead: they cannot fail by being slow.
const (
	backlog     = 64 << 20
	backlogTime = 300 * time.Millisecond
)

func TestUpscaleSlowServerSlowsTheInput(t *testing.T) {
	upscale, begun, _ := stall()
	c, _ := dial(t, scripted.Script{OnUpscale: upscale})
	in := &endless{}
	ctx, cancel := context.WithCancel(t.Context())
	var read int64
	go func() {
		<-begun
		time.Sleep(backlogTime)
		read = in.read.Load()
		cancel()
	}()
	if _, err := c.Upscale(ctx, Job{In: in, Out: ToStream(io.Discard)}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if read >= backlog {
		t.Errorf("%d bytes were read for a server that takes none", read)
	}
}

// stuckWriter takes nothing until it is released.
type stuckWriter struct{ begun, release chan struct{} }

func (w *stuckWriter) Write(p []byte) (int, error) {
	select {
	case <-w.begun:
	default:
		close(w.begun)
	}
	<-w.release
	return len(p), nil
}

func TestUpscaleSlowOutputSlowsTheServer(t *testing.T) {
	var sent atomic.Int64
	c, _ := dial(t, scripted.Script{OnUpscale: func(s scripted.Upscale) error {
		data := make([]byte, chunkSize)
		for {
			at := sent.Load()
			err := s.Send(&upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Chunk{
				Chunk: &upscalev1.Chunk{Data: data, Offset: uint64(at)},
			}})
			if err != nil {
				return err
			}
			sent.Add(int64(len(data)))
		}
	}})
	w := &stuckWriter{make(chan struct{}), make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	var ahead int64
	go func() {
		<-w.begun
		time.Sleep(backlogTime)
		ahead = sent.Load()
		cancel()
		close(w.release)
	}()
	if _, err := c.Upscale(ctx, Job{In: strings.NewReader(""), Out: ToStream(w)}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if ahead >= backlog {
		t.Errorf("the server could send %d bytes to a client that wrote none", ahead)
	}
}

func TestOutputServesOneJob(t *testing.T) {
	c, _ := dial(t, scripted.Script{OnUpscale: scripted.Transform(nil)})
	out := ToStream(io.Discard)
	if _, err := c.Upscale(t.Context(), Job{In: strings.NewReader("x"), Out: out}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Upscale(t.Context(), Job{In: strings.NewReader("x"), Out: out}); err == nil {
		t.Error("a second job into the same Output must fail")
	}
}

func TestProbe(t *testing.T) {
	// The server answers after the first chunk, while the upload still goes on.
	early := func(s scripted.Probe) error {
		first, err := s.Recv()
		if err != nil {
			return err
		}
		if _, err := s.Recv(); err != nil {
			return err
		}
		return s.SendAndClose(&upscalev1.ProbeResponse{Accepted: scripted.Accept(first.GetStart())})
	}
	refuse := func(scripted.Probe) error {
		return fail(codes.InvalidArgument, "This is not a video.", ours("NOT_VIDEO"))
	}
	pipe, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	go func() { _, _ = writer.Write([]byte("head")) }() // then nothing, and no end

	for name, in := range map[string]io.Reader{
		"file":    bytes.NewReader(randomBytes(1 << 20)),
		"endless": &endless{},
		"pipe":    pipe,
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := dial(t, scripted.Script{OnProbe: early})
			r, err := c.Probe(t.Context(), &upscalev1.Start{Scale: 4}, in)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.GetAccepted().GetSettings().GetScale(); got != 4 {
				t.Errorf("the server got scale %d, want 4", got)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		c, _ := dial(t, scripted.Script{OnProbe: refuse})
		_, err := c.Probe(t.Context(), &upscalev1.Start{}, &endless{})
		var e *Error
		if !errors.As(err, &e) || e.Text != "This is not a video." {
			t.Errorf("got %v, want the server's sentence", err)
		}
	})
	t.Run("input fails", func(t *testing.T) {
		c, _ := dial(t, scripted.Script{OnProbe: func(s scripted.Probe) error {
			<-s.Context().Done()
			return s.Context().Err()
		}})
		_, err := c.Probe(t.Context(), &upscalev1.Start{}, iotest.ErrReader(io.ErrUnexpectedEOF))
		var input *InputError
		if !errors.As(err, &input) {
			t.Errorf("got %v, want an *InputError", err)
		}
	})
}
