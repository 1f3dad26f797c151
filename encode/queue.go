package encode

import (
	"container/heap"

	"upscaler/internal/av"
)

// maxQueued is the most bytes of passed-through packets that wait for the video to reach their time. The video comes late, since
// network and encoder hold frames back; the audio of that time is small (64 MiB are 40 minutes of AAC, or half a minute of
// eight-channel PCM), a second video stream may not be. Beyond it the oldest packet is written at once: the file is as valid,
// only less well interleaved.
const maxQueued = 64 << 20

// queue orders packets of all streams by decoding time, and keeps those of one stream in the order they came.
type queue struct {
	items []queued
	bytes int
	seq   int64
	last  map[int]int64 // highest key of each stream so far
}

type queued struct {
	p   *av.Packet
	key int64 // microseconds
	seq int64
}

// push adds p, which the queue owns until pop. key is its decoding time in microseconds.
func (q *queue) push(p *av.Packet, key int64) {
	if q.last == nil {
		q.last = map[int]int64{}
	}
	if last, ok := q.last[p.Stream()]; ok {
		key = max(key, last)
	}
	q.last[p.Stream()] = key
	q.seq++
	q.bytes += p.Size()
	heap.Push((*byTime)(q), queued{p, key, q.seq})
}

// popUntil returns the oldest packet if its time is not after key, or if too much is queued; else nil.
func (q *queue) popUntil(key int64) *av.Packet {
	if len(q.items) == 0 || q.items[0].key > key && q.bytes <= maxQueued {
		return nil
	}
	return q.pop()
}

// pop returns the oldest packet, nil when there is none.
func (q *queue) pop() *av.Packet {
	if len(q.items) == 0 {
		return nil
	}
	p := heap.Pop((*byTime)(q)).(queued).p
	q.bytes -= p.Size()
	return p
}

// free drops everything.
func (q *queue) free() {
	for p := q.pop(); p != nil; p = q.pop() {
		p.Free()
	}
}

// byTime is the heap of a queue.
type byTime queue

func (h *byTime) Len() int { return len(h.items) }

func (h *byTime) Less(i, j int) bool {
	a, b := h.items[i], h.items[j]
	return a.key < b.key || a.key == b.key && a.seq < b.seq
}

func (h *byTime) Swap(i, j int) { h.items[i], h.items[j] = h.items[j], h.items[i] }

func (h *byTime) Push(x any) { h.items = append(h.items, x.(queued)) }

func (h *byTime) Pop() any {
	n := len(h.items) - 1
	x := h.items[n]
	h.items[n] = queued{}
	h.items = h.items[:n]
	return x
}
