package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	// ServerProgram is the name of the server's executable.
	ServerProgram = "sr-server"

	// startTimeout bounds how long a private server may take until it serves: loading the libraries and a network takes
	// a second, on a busy machine with cold disks a good deal more.
	startTimeout = time.Minute
	// stopTimeout is what a private server gets to end after it was told to. Its jobs are over or given up by then, and
	// nobody else's are on it: after Ctrl+C there is nothing to wait for.
	stopTimeout = 2 * time.Second
	// maxServerLog is how much of the end of its log is kept to explain a failure, in bytes.
	maxServerLog = 16 << 10
	// maxSocketPath is what fits into a unix socket's address on every system (104 on some), with its final zero.
	maxSocketPath = 103
)

// Private is a server started for one user: it listens on a unix socket in a folder that only this user may enter, and ends
// with Stop, or by itself when this process ends in whatever way.
type Private struct {
	folder  string
	command *exec.Cmd
	// stdin is a pipe that the server watches: it closes when this process ends, even when it is killed.
	stdin io.Closer
	log   *tail
	// exited is closed once the process has ended; err is set before.
	exited chan struct{}
	err    error
}

// FindServer returns the path of the server's program: beside this executable, else in PATH.
func FindServer() (string, error) {
	name := ServerProgram
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && !info.IsDir() {
			return beside, nil
		}
	}
	return exec.LookPath(name)
}

// StartPrivate starts program and returns once it takes jobs. The folder of its socket lies in the system's folder for
// temporary files. When the server fails to start, the error holds the end of its log. The caller must Stop it.
func StartPrivate(ctx context.Context, program string, args ...string) (*Private, error) {
	folder, err := socketFolder()
	if err != nil {
		return nil, fmt.Errorf("make a folder for the private server's socket: %w", err)
	}
	p := &Private{folder: folder, log: &tail{limit: maxServerLog}, exited: make(chan struct{})}
	p.command = exec.Command(program, append([]string{ //nolint:gosec // found by FindServer or named by the user
		"--listen", p.Address(),
		"--exit-on-stdin-close",
	}, args...)...)
	p.command.Stderr = p.log
	p.command.WaitDelay = stopTimeout // in case something else still holds its standard error
	detach(p.command)
	if p.stdin, err = p.command.StdinPipe(); err == nil {
		err = p.command.Start()
	}
	if err != nil {
		_ = os.RemoveAll(folder)
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go func() {
		defer close(p.exited)
		p.err = p.command.Wait()
	}()

	if err := p.waitServing(ctx); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// waitServing returns once the server takes jobs, or has ended, or startTimeout is over.
func (p *Private) waitServing(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(startTimeout, func() {
		cancel(fmt.Errorf("the private server took no jobs within %v of its start%s", startTimeout, p.Log()))
	})
	defer late.Stop()
	go func() {
		select {
		case <-p.exited:
			cancel(fmt.Errorf("the private server ended at its start (%w)%s", cmp.Or(p.err, errEnded), p.Log()))
		case <-ctx.Done():
		}
	}()
	c, err := Dial(p.Address(), Options{})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.WaitServing(ctx)
}

var errEnded = errors.New("exit status 0")

// socketFolder makes a folder with mode 0700 whose path leaves room for a socket's name.
func socketFolder() (string, error) {
	folder, err := os.MkdirTemp("", "sr-client-")
	if err == nil && len(filepath.Join(folder, socketName)) > maxSocketPath {
		_ = os.Remove(folder)
		folder, err = os.MkdirTemp("/tmp", "sr-client-")
	}
	return folder, err
}

const socketName = "server.sock"

// Address is where the server listens.
func (p *Private) Address() string { return "unix:" + filepath.Join(p.folder, socketName) }

// Exited is closed once the server's process has ended.
func (p *Private) Exited() <-chan struct{} { return p.exited }

// Log returns the end of what the server wrote to its standard error, on lines of its own after a colon; empty when it
// wrote nothing. It is meant to be appended to an error.
func (p *Private) Log() string {
	text := strings.TrimSpace(p.log.String())
	if text == "" {
		return ""
	}
	return "; its log ends with:\n  " + strings.ReplaceAll(text, "\n", "\n  ")
}

// Stop ends the server: politely first, and for good after stopTimeout. It returns when the process is gone and its
// folder removed.
func (p *Private) Stop() {
	_ = terminate(p.command.Process)
	_ = p.stdin.Close()
	kill := time.AfterFunc(stopTimeout, func() { _ = p.command.Process.Kill() })
	<-p.exited
	kill.Stop()
	_ = os.RemoveAll(p.folder)
}

// tail keeps the last bytes written to it.
type tail struct {
	limit int

	mu   sync.Mutex
	data []byte
	cut  bool
}

// Write implements io.Writer; it never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
		t.cut = true
	}
	return len(p), nil
}

// String returns what is kept, from the start of a line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := string(t.data)
	if t.cut {
		if _, rest, ok := strings.Cut(s, "\n"); ok {
			s = rest
		}
	}
	return s
}
