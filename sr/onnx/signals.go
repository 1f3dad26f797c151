package onnx

/*
#include <signal.h>

#define SIGNALS 65 // Linux has 1 to 64

static struct sigaction saved[SIGNALS];

static void save_signals(void) {
	for (int i = 1; i < SIGNALS; i++) sigaction(i, 0, &saved[i]);
}

static void restore_signals(void) {
	for (int i = 1; i < SIGNALS; i++) sigaction(i, &saved[i], 0);
}
*/
import "C"

import "sync"

var signals sync.Mutex // guards C's saved

// keepSignals calls f and puts back the signal handlers that f replaced. CUDA's libraries install their own when they are loaded and
// first used; without Go's, SIGTERM would abort the process instead of ending it in order.
func keepSignals(f func() error) error {
	signals.Lock()
	defer signals.Unlock()
	C.save_signals()
	defer C.restore_signals()
	return f()
}
