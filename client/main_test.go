package client

import (
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"upscaler/client/internal/scripted"
)

// behaviour is the environment variable that tells a copy of this test program, started as a private server, what to do.
const behaviour = "SR_TEST_SERVER"

func TestMain(m *testing.M) {
	if how := os.Getenv(behaviour); how != "" {
		os.Exit(serve(how))
	}
	goleak.VerifyTestMain(m,
		// An input that cannot seek and blocks in Read is left to itself, as documented; the tests' pipes are such.
		goleak.IgnoreAnyFunction("io.(*pipe).read"))
}

// serve is the main function of a private server for tests.
func serve(how string) int {
	if how == "fail" {
		_, _ = os.Stderr.WriteString("sr-server: no model found\nsr-server: giving up\n")
		return 3
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	closed := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(closed)
	}()
	if how != "silent" {
		s, err := scripted.Start(argument("--listen")[len("unix:"):], scripted.Script{OnUpscale: scripted.Transform(nil)})
		if err != nil {
			panic(err)
		}
		if how == "slow" { // it listens, but loads its models until it is told to go on
			s.Health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
			if err := os.WriteFile(os.Getenv("SR_TEST_READY"), nil, 0o600); err != nil {
				panic(err)
			}
			_, _ = os.ReadFile(os.Getenv("SR_TEST_GO"))
			s.Health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
		}
		defer s.Stop()
	}
	for {
		select {
		case <-terminated:
			if how != "stubborn" {
				return 0
			}
		case <-closed:
			if how != "stubborn" {
				return 0
			}
			closed = nil
		}
	}
}

// argument returns the command line argument that follows name.
func argument(name string) string {
	for i, a := range os.Args[:len(os.Args)-1] {
		if a == name {
			return os.Args[i+1]
		}
	}
	panic(name + " is missing in " + filepath.Base(os.Args[0]))
}
