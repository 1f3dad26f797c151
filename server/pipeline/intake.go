package pipeline

import (
	"context"
	"sync"
)

// intake is what lies between a running source and the engine. The source never waits: when more frames come than may wait, the
// oldest goes. Packets of other streams keep their place and are bounded in bytes.
type intake struct {
	mu      sync.Mutex
	items   []item
	frames  int
	bytes   int64 // of packets
	most    int   // frames
	dropped uint64
	ended   bool
	ready   chan struct{} // holds a token when there may be something
}

func newIntake(most int) *intake { return &intake{most: most, ready: make(chan struct{}, 1)} }

// put takes over an item.
func (q *intake) put(it item) {
	q.mu.Lock()
	if it.packet != nil {
		q.bytes += it.size
	} else {
		q.frames++
	}
	q.items = append(q.items, it)
	for i := 0; i < len(q.items) && (q.frames > q.most || q.bytes > packetBudget); i++ {
		switch old := &q.items[i]; {
		case old.frame != nil && q.frames > q.most:
			old.free()
			*old = item{}
			q.frames--
			q.dropped++
		case old.packet != nil && q.bytes > packetBudget:
			q.bytes -= old.size
			old.free()
			*old = item{}
		}
	}
	for len(q.items) > 0 && q.items[0].packet == nil && q.items[0].frame == nil {
		q.items = q.items[1:]
	}
	q.mu.Unlock()
	q.wake()
}

func (q *intake) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// end says that nothing more will come.
func (q *intake) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.wake()
}

// take returns the oldest item, waiting for one. more is false when there will be none, or ctx has ended.
func (q *intake) take(ctx context.Context) (it item, more bool) {
	for {
		q.mu.Lock()
		for len(q.items) > 0 {
			it, q.items[0] = q.items[0], item{}
			q.items = q.items[1:]
			switch {
			case it.packet != nil:
				q.bytes -= it.size
			case it.frame != nil:
				q.frames--
			default:
				continue // dropped while it waited
			}
			q.mu.Unlock()
			return it, true
		}
		ended := q.ended
		q.mu.Unlock()
		if ended {
			return item{}, false
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
			return item{}, false
		}
	}
}

// waiting returns how many frames wait, and how many were dropped so far.
func (q *intake) waiting() (frames int, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.frames, q.dropped
}

// free drops everything that waits.
func (q *intake) free() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.items {
		q.items[i].free()
	}
	q.items, q.frames, q.bytes = nil, 0, 0
}
