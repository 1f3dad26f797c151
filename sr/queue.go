package sr

import "sync"

// shape is what tiles of one batch have in common: the network and the tensor's size and sample type. Jobs and depths above
// 8 bits may differ.
type shape struct {
	net           *network
	width, height int
	sampleBytes   int
}

// piece is one tile of one frame on its way.
type piece struct {
	ticket *Ticket
	shape  shape
	window Window
	pixels int // of the input that this tile's kept part covers
	index  int // among the frame's tiles

	// Guarded by the job's mutex.
	memo      *memo
	finished  bool
	followers []*piece // later pieces with the same input, which take over the result
}

// queue holds the tiles that wait for a device and gives them out in turn: one of each job, then again from the first.
type queue struct {
	mu      sync.Mutex
	waiting []*Job // jobs with waiting pieces; the next to be served is first
	changed chan struct{}
	length  int
}

func newQueue() *queue { return &queue{changed: make(chan struct{})} }

// push adds a job's pieces behind those it has waiting already.
func (q *queue) push(j *Job, ps []*piece) {
	if len(ps) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(j.waiting) == 0 {
		q.waiting = append(q.waiting, j)
	}
	j.waiting = append(j.waiting, ps...)
	q.length += len(ps)
	close(q.changed) // wakes every lane that found nothing
	q.changed = make(chan struct{})
}

// tryTake removes the next piece in turn, of the given shape when that is not nil. When there is none, the channel it returns
// is closed as soon as trying again makes sense.
func (q *queue) tryTake(want *shape) (*piece, <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, j := range q.waiting {
		p := j.waiting[0]
		if want != nil && p.shape != *want {
			continue
		}
		j.waiting[0] = nil
		j.waiting = j.waiting[1:]
		q.length--
		copy(q.waiting[i:], q.waiting[i+1:])
		q.waiting[len(q.waiting)-1] = nil
		q.waiting = q.waiting[:len(q.waiting)-1]
		if len(j.waiting) > 0 {
			q.waiting = append(q.waiting, j) // its turn comes again after all others
		}
		return p, nil
	}
	return nil, q.changed
}

// take waits for a piece. It returns nil when stop is closed first.
func (q *queue) take(stop <-chan struct{}) *piece {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		p, changed := q.tryTake(nil)
		if p != nil {
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
	for i, other := range q.waiting {
		if other == j {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			break
		}
	}
	return ps
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.length
}
