//go:build !unix

package client

import (
	"os"
	"os/exec"
)

func detach(*exec.Cmd) {}

// terminate leaves it to the closing of the server's stdin: there is no polite signal here.
func terminate(*os.Process) error { return nil }
