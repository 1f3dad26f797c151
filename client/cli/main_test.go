//go:build unix

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	upscalev1 "upscaler/gen/upscale/v1"

	"upscaler/client/internal/scripted"
)

// program is the sr-client under test, built as users get it; beside it lies this test program under the name sr-server.
var program string

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "sr-server" {
		os.Exit(serve())
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	folder, err := os.MkdirTemp("", "sr-client-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	program = filepath.Join(folder, "sr-client")
	build := exec.Command("go", "build", "-o", program, "upscaler/cmd/sr-client") //nolint:gosec // the name is ours
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	if err := os.Symlink(self, filepath.Join(folder, "sr-server")); err != nil {
		panic(err)
	}
	return m.Run()
}

// Environment variables of the private server that this program becomes.
const (
	aliveEnv = "SR_TEST_ALIVE" // a named pipe that it holds open as long as it lives
	modeEnv  = "SR_TEST_MODE"  // "crash": it dies in the first job; "stubborn": it ends only when its client is gone
)

// serve is the main function of a private server. It must understand what the client passes to the real one.
func serve() int {
	if len(os.Args) != 4 || os.Args[1] != "--listen" || os.Args[3] != "--exit-on-stdin-close" {
		fmt.Fprintf(os.Stderr, "unexpected arguments %q\n", os.Args[1:])
		return 2
	}
	if path := os.Getenv(aliveEnv); path != "" {
		if _, err := os.OpenFile(path, os.O_WRONLY, 0); err != nil {
			panic(err)
		}
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	mode := os.Getenv(modeEnv)
	script := newScript()
	if mode == "crash" {
		script.OnUpscale = func(scripted.Upscale) error {
			fmt.Fprintln(os.Stderr, "sr-server: out of luck")
			os.Exit(4)
			return nil
		}
	}
	s, err := scripted.Start(strings.TrimPrefix(os.Args[2], "unix:"), script)
	if err != nil {
		panic(err)
	}
	closed := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(closed)
	}()
	if mode == "stubborn" {
		for parent := os.Getppid(); os.Getppid() == parent; {
			time.Sleep(20 * time.Millisecond)
		}
		return 0
	}
	select {
	case <-terminated:
	case <-closed:
	}
	s.Stop()
	return 0
}

// newScript is a server whose behaviour follows from the input's name.
func newScript() scripted.Script {
	transform := scripted.Transform(nil)
	return scripted.Script{
		OnUpscale: func(s scripted.Upscale) error {
			p := &peeked{Upscale: s}
			start, err := p.peek()
			if err != nil {
				return err
			}
			switch name := start.GetInput().GetName(); {
			case strings.HasPrefix(name, "bad"):
				return refuse("This is not a video.\x1b[31m")
			case strings.HasPrefix(name, "stall"):
				if err := s.Send(&upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Accepted{Accepted: scripted.Accept(start)}}); err != nil {
					return err
				}
				<-s.Context().Done()
				return s.Context().Err()
			case strings.HasPrefix(name, "noted"):
				if err := s.Send(&upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Notice{Notice: &upscalev1.Notice{
					Code: upscalev1.NoticeCode_NOTICE_CODE_INPUT_SPOOLED, Text: "The index lies at the end.",
				}}}); err != nil {
					return err
				}
			}
			return transform(p)
		},
		OnProbe: func(s scripted.Probe) error {
			first, err := s.Recv()
			if err != nil {
				return err
			}
			accepted := scripted.Accept(first.GetStart())
			accepted.Input.Streams = append(accepted.Input.Streams, &upscalev1.StreamInfo{
				Index: 2, Kind: upscalev1.StreamKind_STREAM_KIND_SUBTITLE, Codec: "hdmv_pgs_subtitle", Title: "signs\x07 & songs",
				Action: upscalev1.StreamAction_STREAM_ACTION_DROP,
			})
			return s.SendAndClose(&upscalev1.ProbeResponse{
				Accepted: accepted,
				Notices:  []*upscalev1.Notice{{Text: "Stream 2 cannot be kept in MP4; Matroska could."}},
			})
		},
		Models: []*upscalev1.Model{
			{Name: "lmswn-s-x2-video", Scale: 2, Tier: "s", Flavour: "video", Precision: "fp32", IsDefault: true, Parameters: 12345},
			{Name: "lmswn-s-x4-video", Scale: 4, Tier: "s", Flavour: "video", Precision: "int8"},
		},
		Info: &upscalev1.GetServerInfoResponse{
			Version: "v1", FfmpegVersion: "7.1.5", OnnxruntimeVersion: "1.27.0", MaxJobs: 4, RunningJobs: 1,
			Devices: []upscalev1.Device{upscalev1.Device_DEVICE_CPU}, MaxInputPixels: 4096 * 2304, JobMemoryBytes: 512 << 20,
		},
	}
}

// peeked gives its first message twice.
type peeked struct {
	scripted.Upscale
	first *upscalev1.UpscaleRequest
}

func (p *peeked) peek() (*upscalev1.Start, error) {
	var err error
	p.first, err = p.Upscale.Recv()
	return p.first.GetStart(), err
}

func (p *peeked) Recv() (*upscalev1.UpscaleRequest, error) {
	if r := p.first; r != nil {
		p.first = nil
		return r, nil
	}
	return p.Upscale.Recv()
}

func refuse(text string) error {
	st, err := status.New(codes.InvalidArgument, text).WithDetails(&errdetails.ErrorInfo{Domain: "upscale.v1", Reason: "NOT_VIDEO"})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

// startServer starts a server in this process and returns its address.
func startServer(t *testing.T) string {
	t.Helper()
	s, err := scripted.Start("", newScript())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s.Address()
}

// call is one run of the program.
type call struct {
	args  []string
	stdin string
	env   []string
}

// outcome is what came of it.
type outcome struct {
	stdout, stderr string
	code           int
}

// run runs the program in the current folder and waits for its end.
func run(t *testing.T, c call) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, c.args...) //nolint:gosec // built above
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.stdin), &stdout, &stderr
	cmd.Env = append(os.Environ(), c.env...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("sr-client %q did not end; it wrote %s", c.args, stderr.String())
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// files makes files in a new current folder: each holds its own name.
func files(t *testing.T, names ...string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for _, name := range names {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// tree lists the files in the current folder and below, hidden ones as well.
func tree(t *testing.T) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// wantUpscaled checks that path holds what the scripted server makes of original.
func wantUpscaled(t *testing.T, path, original string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	} else if !bytes.Equal(got, scripted.Result([]byte(original))) {
		t.Errorf("%s holds %q, which is not what becomes of %q", path, got, original)
	}
}
