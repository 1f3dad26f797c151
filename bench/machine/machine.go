// Package machine tells what a benchmark ran on and how much of its processor a process has had.
package machine

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Name returns the processor's name, its family and model, the vector instructions that matter here, and the number of cores.
func Name() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return fmt.Sprintf("%s, %d cores", runtime.GOARCH, runtime.NumCPU())
	}
	says := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			says[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	name := says["model name"]
	if name == "" {
		name = runtime.GOARCH
	}
	if says["cpu family"] != "" {
		name += fmt.Sprintf(" (family %s, model %s)", says["cpu family"], says["model"])
	}
	flags := strings.Fields(says["flags"])
	for _, f := range []string{"avx2", "avx_vnni", "avx512_vnni"} {
		if slices.Contains(flags, f) {
			name += " " + f
		}
	}
	return fmt.Sprintf("%s, %d cores", name, runtime.NumCPU())
}

// Processor returns the processor time that this process has had, with all its threads.
func Processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
