package pipeline

import (
	"slices"
	"sync"
	"time"
)

// latencyWindow is how many frames the percentiles are taken over: some seconds of video.
const latencyWindow = 256

// latencies keeps how long the last frames took.
type latencies struct {
	mu   sync.Mutex
	all  [latencyWindow]time.Duration
	n    int // kept
	next int
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[l.next] = d
	l.next = (l.next + 1) % latencyWindow
	l.n = min(l.n+1, latencyWindow)
}

// percentiles returns the 50th, 95th and 99th, zeros when there is nothing yet.
func (l *latencies) percentiles() (p50, p95, p99 time.Duration) {
	l.mu.Lock()
	sorted := slices.Clone(l.all[:l.n])
	l.mu.Unlock()
	if len(sorted) == 0 {
		return 0, 0, 0
	}
	slices.Sort(sorted)
	at := func(percent int) time.Duration { return sorted[(len(sorted)-1)*percent/100] }
	return at(50), at(95), at(99)
}
