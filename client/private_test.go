//go:build unix

package client

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"upscaler/client/internal/scripted"
)

// startPrivate starts this test program as a private server that behaves as told.
func startPrivate(t *testing.T, how string) (*Private, error) {
	t.Helper()
	t.Setenv(behaviour, how)
	t.Setenv("TMPDIR", t.TempDir())
	p, err := StartPrivate(t.Context(), os.Args[0])
	if err == nil {
		t.Cleanup(p.Stop)
	}
	return p, err
}

// nothingLeft fails the test when the folder for temporary files is not empty.
func nothingLeft(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		t.Errorf("%s was left behind", l.Name())
	}
}

func TestPrivateServerDoesAJob(t *testing.T) {
	p, err := startPrivate(t, "serve")
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.Stat(p.folder)
	if err != nil {
		t.Fatal(err)
	}
	if folder.Mode().Perm() != 0o700 {
		t.Errorf("the socket's folder has mode %v, want 0700", folder.Mode().Perm())
	}
	c, err := Dial(p.Address(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var got bytes.Buffer
	if _, err := c.Upscale(t.Context(), Job{In: strings.NewReader("abc"), Out: ToStream(&got)}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), scripted.Result([]byte("abc"))) {
		t.Errorf("got %q", got.Bytes())
	}
	p.Stop()
	if state := p.command.ProcessState; !state.Success() {
		t.Errorf("the server ended with %v, not by itself", state)
	}
	nothingLeft(t)
}

func TestPrivateServerFailsToStart(t *testing.T) {
	_, err := startPrivate(t, "fail")
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no model found\n  sr-server: giving up") {
		t.Errorf("got %v, want the exit status and the log", err)
	}
	nothingLeft(t)
}

func TestPrivateServerIsNoProgram(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	if _, err := StartPrivate(t.Context(), filepath.Join(t.TempDir(), "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that it does not exist", err)
	}
	nothingLeft(t)
}

func TestPrivateServerIsAwaited(t *testing.T) {
	// Two named pipes: the server opens one when it listens, and goes on when the other is closed.
	ready, proceed := filepath.Join(t.TempDir(), "ready"), filepath.Join(t.TempDir(), "go")
	for _, path := range []string{ready, proceed} {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SR_TEST_READY", ready)
	t.Setenv("SR_TEST_GO", proceed)
	told := make(chan time.Time, 1)
	go func() {
		_, _ = os.ReadFile(ready)
		f, err := os.OpenFile(proceed, os.O_WRONLY, 0)
		told <- time.Now()
		if err == nil {
			_ = f.Close()
		}
	}()
	if _, err := startPrivate(t, "slow"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-told:
	default:
		t.Error("the server was said to serve before it did")
	}
}

func TestPrivateServerStartIsCancelled(t *testing.T) {
	t.Setenv(behaviour, "silent")
	t.Setenv("TMPDIR", t.TempDir())
	cause := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, cause)
	defer cancel()
	if _, err := StartPrivate(ctx, os.Args[0]); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
	nothingLeft(t)
}

// A server outlives neither its client's Stop nor, through its stdin, its client.
func TestPrivateServerEndsWithItsClient(t *testing.T) {
	p, err := startPrivate(t, "serve")
	if err != nil {
		t.Fatal(err)
	}
	_ = p.stdin.Close() // what the end of this process would do
	wait(t, p.Exited(), "the end of the server")
}

func TestPrivateServerThatDoesNotEndIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the grace time")
	}
	p, err := startPrivate(t, "stubborn")
	if err != nil {
		t.Fatal(err)
	}
	p.Stop()
	status, ok := p.command.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("the server ended with %v, want by SIGKILL", p.command.ProcessState)
	}
	nothingLeft(t)
}

func TestSocketPathIsNeverTooLong(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", long)
	folder, err := socketFolder()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(folder) }()
	if n := len(filepath.Join(folder, socketName)); n > maxSocketPath {
		t.Errorf("a path of %d bytes", n)
	}
	nothingLeft(t)
}

func TestFindServer(t *testing.T) {
	// In PATH only: nothing of that name lies beside the test program.
	folder := t.TempDir()
	t.Setenv("PATH", folder)
	if _, err := FindServer(); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v, want that it is not found", err)
	}
	program := filepath.Join(folder, ServerProgram)
	if err := os.WriteFile(program, nil, 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	if got, err := FindServer(); err != nil || got != program {
		t.Errorf("got %q, %v, want %q", got, err, program)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	tests := []struct {
		name   string
		limit  int
		writes []string
		want   string
	}{
		{"nothing", 10, nil, ""},
		{"fits", 10, []string{"one\n", "two\n"}, "one\ntwo\n"},
		{"whole lines", 10, []string{"one\n", "two\n", "three\n"}, "three\n"},
		{"one long line", 4, []string{"abcdefgh"}, "efgh"},
		{"exactly", 4, []string{"abcd"}, "abcd"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := &tail{limit: test.limit}
			for _, w := range test.writes {
				if n, err := l.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("Write returned %d, %v", n, err)
				}
			}
			if l.String() != test.want {
				t.Errorf("got %q, want %q", l.String(), test.want)
			}
		})
	}
}
