package sr

import (
	"slices"
	"sync"
)

// shape is what tiles of one batch have in common: the network and the tensor's size and sample type. Jobs and depths above
// 8 bits may differ.
type shape struct {
	net           *network
	width, height int
	sampleBytes   int
}

// piece is a tile of a frame, or some bands of it, on its way.
type piece struct {
	ticket     *Ticket
	shape      shape
	window     Window
	first, end int // its bands, first to end-1
	pixels     int // of input, whose result is kept
	// effort is the pixels that a device computes for them, about: layer by layer less of the halo above and below is needed.
	effort int

	// Guarded by the job's mutex.
	memo      *memo
	followers []follower
}

// follower is bands of a later frame that take over the result of a piece, because their input is the same.
type follower struct {
	ticket     *Ticket
	first, end int
}

// queue holds the tiles that wait for a device and gives them out in turn: one of each job, then again from the first. Jobs that
// are live come before all others.
type queue struct {
	mu      sync.Mutex
	live    turns
	rest    turns
	length  int
	changed []chan struct{} // one a lane; holds a token when something was pushed since the lane took the last
}

// turns are jobs with waiting pieces; the next to be served is first.
type turns []*Job

func newQueue(lanes int) *queue {
	q := &queue{}
	for range lanes {
		q.changed = append(q.changed, make(chan struct{}, 1))
	}
	return q
}

func (q *queue) turnsOf(j *Job) *turns {
	if j.live {
		return &q.live
	}
	return &q.rest
}

// push adds a job's pieces behind those it has waiting already.
func (q *queue) push(j *Job, ps []*piece) {
	if len(ps) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(j.waiting) == 0 {
		t := q.turnsOf(j)
		*t = append(*t, j)
	}
	j.waiting = append(j.waiting, ps...)
	q.length += len(ps)
	for _, c := range q.changed {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// tryTake removes the next piece in turn, of the given shape when that is not nil. When there is none, trying again makes sense once
// the lane's channel holds a token.
func (q *queue) tryTake(want *shape) *piece {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.live.take(want)
	if p == nil {
		p = q.rest.take(want)
	}
	if p != nil {
		q.length--
	}
	return p
}

// take removes the next piece of the given shape, or of any.
func (t *turns) take(want *shape) *piece {
	jobs := *t
	for i, j := range jobs {
		p := j.waiting[0]
		if want != nil && p.shape != *want {
			continue
		}
		j.waiting = slices.Delete(j.waiting, 0, 1)
		copy(jobs[i:], jobs[i+1:])
		jobs[len(jobs)-1] = nil
		jobs = jobs[:len(jobs)-1]
		if len(j.waiting) > 0 {
			jobs = append(jobs, j) // its turn comes again after all others
		}
		*t = jobs
		return p
	}
	return nil
}

// take waits for a piece, on the lane's channel. It returns nil when stop is closed first.
func (q *queue) take(changed, stop <-chan struct{}) *piece {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		if p := q.tryTake(nil); p != nil {
			return p
		}
		select {
		case <-changed:
		case <-stop:
			return nil
		}
	}
}

// drop removes and returns all pieces of a job that wait.
func (q *queue) drop(j *Job) []*piece {
	q.mu.Lock()
	defer q.mu.Unlock()
	ps := j.waiting
	j.waiting = nil
	q.length -= len(ps)
	t := q.turnsOf(j)
	*t = slices.DeleteFunc(*t, func(other *Job) bool { return other == j })
	return ps
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.length
}

// waiting tells whether pieces wait that come before those that j may push.
func (q *queue) waiting(j *Job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.live) > 0 || !j.live && len(q.rest) > 0
}
