//go:build unix

package client

import (
	"os"
	"os/exec"
	"syscall"
)

// detach keeps the terminal's Ctrl+C from the server: this process gets it, ends the job in order, and then the server.
func detach(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
