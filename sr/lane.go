package sr

import (
	"fmt"
	"sync"
	"time"
)

// keptBatches is how many shapes of buffers a lane keeps for reuse: two or three videos side by side, of 8 and of more bits.
const keptBatches = 4

// set is a lane's batch in the making: the buffers of one shape and the pieces in them.
type set struct {
	dev     *device
	changed <-chan struct{} // the queue's for this lane
	cache   []cachedBatch   // the most recently used is last
	shape   shape
	batch   Batch
	slots   int
	pieces  []*piece
	busy    time.Duration // inference time of the batch
	err     error
}

type cachedBatch struct {
	shape shape
	batch Batch
	slots int
}

// begin makes the set ready for pieces of p's shape and loads p.
func (s *set) begin(p *piece) error {
	s.pieces, s.err, s.busy = s.pieces[:0], nil, 0
	s.shape = p.shape
	for i, c := range s.cache {
		if c.shape == p.shape {
			s.batch, s.slots = c.batch, c.slots
			copy(s.cache[i:], s.cache[i+1:])
			s.cache[len(s.cache)-1] = c
			s.load(p)
			return nil
		}
	}
	if len(s.cache) == keptBatches {
		if err := s.cache[0].batch.Close(); err != nil {
			return err
		}
		s.cache = append(s.cache[:0], s.cache[1:]...)
	}
	slots := min(s.dev.lanes.Batch, max(1, p.shape.net.MaxPixels()/(p.shape.width*p.shape.height)))
	batch, err := p.shape.net.NewBatch(p.shape.width, p.shape.height, p.shape.sampleBytes, slots)
	if err != nil {
		return err
	}
	s.batch, s.slots = batch, slots
	s.cache = append(s.cache, cachedBatch{p.shape, batch, slots})
	s.load(p)
	return nil
}

func (s *set) load(p *piece) {
	s.batch.Load(len(s.pieces), p.window)
	s.pieces = append(s.pieces, p)
}

func (s *set) full() bool { return len(s.pieces) == s.slots }

func (s *set) infer() {
	start := time.Now()
	s.err = s.batch.Infer(len(s.pieces))
	s.busy = time.Since(start)
}

// finish stores the results and ends the pieces.
func (s *set) finish() {
	pixels, effort := 0, 0
	for _, p := range s.pieces {
		pixels += p.pixels
		effort += p.effort
	}
	if s.err == nil {
		s.shape.net.measured(effort, s.busy)
	}
	for i, p := range s.pieces {
		j := p.ticket.job
		if s.err == nil {
			s.batch.Store(i)
		}
		j.busy.Add(int64(s.busy) * int64(p.pixels) / int64(pixels))
		j.mu.Lock()
		j.finish(p, s.err)
		j.mu.Unlock()
		s.pieces[i] = nil
	}
	s.dev.busy.Add(int64(s.busy))
	s.dev.batches.Add(1)
}

func (s *set) close() error {
	for _, c := range s.cache {
		if err := c.batch.Close(); err != nil {
			return err
		}
	}
	s.cache = nil
	return nil
}

// next waits for a piece that is still wanted and begins a batch with it; false means that the device is to stop.
func (s *set) next() bool {
	for {
		p := s.dev.queue.take(s.changed, s.dev.stop)
		if p == nil {
			return false
		}
		if s.dropped(p) {
			continue
		}
		err := s.begin(p)
		if err == nil {
			return true
		}
		j := p.ticket.job
		j.mu.Lock()
		j.finish(p, fmt.Errorf("no room for a batch of %dx%d pixels: %w", p.shape.width, p.shape.height, err))
		j.mu.Unlock()
	}
}

// more adds another waiting piece of the same shape; false when there is none.
func (s *set) more() bool {
	for {
		p := s.dev.queue.tryTake(&s.shape)
		if p == nil {
			return false
		}
		if !s.dropped(p) {
			s.load(p)
			return true
		}
	}
}

// dropped ends a piece whose frame nobody wants any more, and reports whether it did.
func (s *set) dropped(p *piece) bool {
	j := p.ticket.job
	if p.ticket.ctx.Err() == nil {
		return false
	}
	j.mu.Lock()
	j.abandon(p)
	j.mu.Unlock()
	return true
}

// serial is a lane whose one goroutine loads, infers and stores: the whole of a CPU core's work.
func serial(s *set) {
	for s.next() {
		for !s.full() && s.more() {
		}
		s.infer()
		s.finish()
	}
}

// overlapped is a lane with two sets: while one infers, the results of the other are stored and its next batch is collected. A
// batch goes to the device as soon as the device is free, full or not, so that a lone job never waits for others.
func overlapped(a, b *set) {
	free, ready, inferred := make(chan *set, 2), make(chan *set), make(chan *set, 2)
	free <- a
	free <- b
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(inferred)
		for s := range ready {
			s.infer()
			inferred <- s
		}
	})
	wg.Go(func() {
		for s := range inferred {
			s.finish()
			free <- s
		}
	})
	for s := <-free; s.next(); s = <-free {
		collect(s, ready)
	}
	close(ready)
	wg.Wait()
}

// collect fills s until it is full or the device takes it.
func collect(s *set, ready chan<- *set) {
	for !s.full() {
		if s.more() {
			continue
		}
		select {
		case ready <- s:
			return
		case <-s.changed:
		}
	}
	ready <- s
}
