package pipeline

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"upscaler/decode"
	"upscaler/encode"
	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/notice"
	"upscaler/sr"
)

const (
	// liveQueue is the most frames and packets between the engine and the encoder of a live job: enough for the engine to work on
	// the next frames while one is encoded. What waits here is late, so it is few; what waits before the engine can be dropped.
	liveQueue = 8

	// maxLiveRate is the highest frame rate that the places for waiting frames are reckoned with.
	maxLiveRate = 60

	// fewestWaiting is how many frames may wait at least, whatever the latency asked for: a burst of the network is no reason to
	// drop any.
	fewestWaiting = 4

	// silence is how long there may be no picture before the last one is repeated. Slow slide shows are not silent sources, but
	// repeating a picture costs them nothing.
	silence = time.Second

	// toldEvery is how often dropped frames are told of at most.
	toldEvery = time.Second

	// undropped is for how long there must have been no drop before pictures that no other needs are decoded again.
	undropped = 5 * time.Second

	// The waits between attempts to reach a source that is gone.
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Bicubic is the name of the level that has no network.
const Bicubic = "bicubic"

// Level is one way to upscale a live job's frames.
type Level struct {
	Name   string  // the model's, or Bicubic
	Engine *sr.Job // nil for bicubic interpolation
}

// SourceGoneError says that a live source was silent or away for longer than the job holds its last picture.
type SourceGoneError struct {
	After time.Duration
	Err   error // why it could not be reached, nil when it is merely silent
}

func (e *SourceGoneError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the source could not be reached for %v: %v", e.After, e.Err)
	}
	return fmt.Sprintf("the source has sent no picture for %v", e.After)
}

func (e *SourceGoneError) Unwrap() error { return e.Err }

// LiveConfig is what a live job is made of. The caller owns Source, the engines of Levels and Sink, and closes them after Run
// has returned.
type LiveConfig struct {
	Source *decode.Source
	// Reopen opens the source again after its streams have changed and, with Reconnect, after it has ended. Its frames are to be
	// like those of the first. unread is what was read already of a connection that goes on, nil for a new one.
	Reopen    func(ctx context.Context, like *av.Media, unread []byte) (*decode.Source, error)
	Reconnect bool
	// Interrupt makes a read of the source's bytes that waits return with an error. It may be called at any time.
	Interrupt func()
	Levels    []Level // the best first
	// Estimate returns the time that a frame takes at a level when the device has nothing else to do; false when not known.
	Estimate func(level int) (time.Duration, bool)
	Sink     *encode.Sink
	Frames   *frame.Pool // that the source's frames come from
	Luma     *frame.Pool // as Job.Luma
	Scale    int
	Latency  time.Duration
	Hold     time.Duration
	Paced    bool // the source is a file, which is read no faster than it plays
	Notify   notice.Func
}

// Live is one running stream on its way through: it keeps up with its source, at a lower level where the machine is too slow,
// and goes on with the last picture while the source is away.
//
// Four goroutines work on it: one owns the source, one gives frames to the engines or drops them, one owns the sink, and one
// tells of drops. What waits for the engine is bounded in frames, the oldest goes first; nothing ever holds up the source.
type Live struct {
	LiveConfig
	intake *intake
	ladder ladder         // of the engines' goroutine
	clock  clock          // of the sink's goroutine, as are the next three
	luma   *av.LumaScaler // of the level without a network
	shown  item           // the last frame, with its upscaled plane
	early  []item         // packets of a connection whose first frame has not come yet

	reading     context.Context
	stop        context.CancelFunc // ends reading, with what was read still to be worked on
	stopping    atomic.Bool
	source      atomic.Pointer[decode.Source]
	past        past         // what earlier connections have counted
	level       atomic.Int64 // index in Levels
	decoded     atomic.Uint64
	encoded     atomic.Uint64
	late        atomic.Uint64 // dropped after the intake
	held        atomic.Uint64
	undecoded   atomic.Uint64
	reconnects  atomic.Uint64
	inFlight    atomic.Int64 // frames between the intake and the sink
	start       int64        // output time of the first frame
	position    atomic.Int64 // time.Duration
	skip        atomic.Bool  // pictures that no other needs
	interval    atomic.Int64 // time.Duration between frames, a running mean
	lastLatency atomic.Int64 // time.Duration
	unreachable atomic.Pointer[error]
	latencies   latencies
}

// past adds up the counters of connections that have ended.
type past struct{ bytes, busy atomic.Int64 }

// LiveProgress is what a live job tells beyond any job's Progress.
type LiveProgress struct {
	P50, P95, P99    time.Duration // from the arrival of a frame's first byte to its encoded packet, over the last frames
	Level            string
	DroppedLate      uint64
	DroppedUndecoded uint64
	Held             uint64
	QueuedFrames     int
	SourceReconnects uint64
}

// NewLive returns a job that is ready to Run.
func NewLive(c LiveConfig) *Live {
	m := c.Source.Media()
	j := &Live{LiveConfig: c}
	// The pool that frames come from must never run empty, or the source would wait: half of it may lie here.
	room := c.Frames.Budget() / max(m.Working.Bytes(m.Width, m.Height), 1) / 2
	j.intake = newIntake(max(fewestWaiting, min(int(2*c.Latency.Seconds()*maxLiveRate), int(room))))
	j.clock = clock{timeBase: m.VideoTimeBase, paced: c.Paced}
	if start := m.Video().StartTime; start != av.NoTimestamp {
		j.clock.beginAfterZero(start)
	}
	if rate := m.Video().AvgFrameRate.Float(); rate > 0 {
		j.interval.Store(int64(float64(time.Second) / rate))
		j.clock.duration = j.clock.units(time.Duration(j.interval.Load()))
	}
	j.ladder = ladder{levels: len(c.Levels), budget: c.Latency, load: j.load}
	j.source.Store(c.Source)
	j.reading, j.stop = context.WithCancel(context.Background())
	return j
}

// Stop makes the job end as if its source had: what was read is encoded, the output is completed, and Run returns nil. It may be
// called from any goroutine, at any time.
func (j *Live) Stop() {
	j.stopping.Store(true)
	j.stop()
	j.Interrupt()
}

// load is the share of the machine that a level takes, by what has been measured so far.
func (j *Live) load(level int) (float64, bool) {
	interval := float64(j.interval.Load())
	if interval <= 0 {
		return 0, false
	}
	other := 0.0
	if encoded := j.encoded.Load(); encoded > 0 {
		busy := j.Sink.Stats().Busy + j.decodeBusy()
		other = float64(busy) / float64(encoded) / float64(runtime.NumCPU())
	}
	if j.Levels[level].Engine == nil {
		return other / interval, true
	}
	each, known := j.Estimate(level)
	return (float64(each) + other) / interval, known
}

// decodeBusy is how long decoding has taken, over all connections.
func (j *Live) decodeBusy() time.Duration {
	busy := time.Duration(j.past.busy.Load())
	if src := j.source.Load(); src != nil {
		busy += src.Stats().Busy
	}
	return busy
}

// Progress may be called from any goroutine while Run goes on and after it.
func (j *Live) Progress() Progress {
	sink := j.Sink.Stats()
	p := Progress{
		Decoded:  j.decoded.Load(),
		Encoded:  j.encoded.Load(),
		Position: time.Duration(j.position.Load()),
		BytesIn:  uint64(j.past.bytes.Load()),
		BytesOut: uint64(sink.BytesOut),
		Stages:   Stages{Decode: j.decodeBusy(), Encode: sink.Busy},
	}
	if src := j.source.Load(); src != nil {
		p.BytesIn += src.Stats().Bytes
	}
	for _, l := range j.Levels {
		if l.Engine != nil {
			p.Stages.Upscale += l.Engine.Stats().Busy
		}
	}
	waiting, dropped := j.intake.waiting()
	l := &LiveProgress{
		Level:            j.Levels[j.level.Load()].Name,
		DroppedLate:      j.late.Load() + dropped,
		DroppedUndecoded: j.undecoded.Load(),
		Held:             j.held.Load(),
		QueuedFrames:     int(j.inFlight.Load()) + waiting,
		SourceReconnects: j.reconnects.Load(),
	}
	l.P50, l.P95, l.P99 = j.latencies.percentiles()
	p.Live = l
	return p
}

func (j *Live) tell(code notice.Code, format string, args ...any) {
	if j.Notify != nil {
		j.Notify(notice.Notice{Code: code, Text: fmt.Sprintf(format, args...), Stream: notice.NoStream})
	}
}

// Run works until the source ends, ctx is cancelled, the source is gone for too long (*SourceGoneError) or something fails. When it
// returns, no frame or packet of the job is held.
func (j *Live) Run(ctx context.Context) error {
	queue := make(chan item, liveQueue)
	j.ladder.begin(time.Now())
	j.level.Store(int64(j.ladder.level))
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, j.Interrupt)()
	done := make(chan struct{})
	defer j.stop()
	defer context.AfterFunc(ctx, j.stop)()
	g.Go(func() error {
		defer j.intake.end()
		err := j.read(j.reading)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case j.stopping.Load():
			return nil
		}
		return err
	})
	g.Go(func() error {
		defer close(queue)
		return j.upscale(ctx, queue)
	})
	g.Go(func() error {
		defer close(done)
		return j.write(ctx, queue)
	})
	g.Go(func() error {
		j.report(done)
		return nil
	})
	err := g.Wait()
	for _, l := range j.Levels {
		if l.Engine != nil {
			l.Engine.Close() // planes may still be in its hands
		}
	}
	for it := range queue {
		it.free()
	}
	j.intake.free()
	j.shown.free()
	for _, it := range j.early {
		it.free()
	}
	j.luma.Close()
	return err
}

// report tells of dropped frames, once a second at most.
func (j *Live) report(done <-chan struct{}) {
	ticker := time.NewTicker(toldEvery)
	defer ticker.Stop()
	var told uint64
	last := time.Time{}
	for {
		select {
		case <-done:
			return
		case now := <-ticker.C:
			l := j.Progress().Live
			dropped := l.DroppedLate + l.DroppedUndecoded
			if dropped == told {
				if now.Sub(last) > undropped {
					j.skip.Store(false)
				}
				continue
			}
			j.tell(notice.FramesDropped, "%d frames were dropped in the last second: they came faster than %s can go within %v.",
				dropped-told, l.Level, j.Latency)
			// Two seconds in a row at the bottom: the decoder may leave out what it can.
			if int(j.level.Load()) == len(j.Levels)-1 && now.Sub(last) < 2*toldEvery+toldEvery/2 {
				j.skip.Store(true)
			}
			told, last = dropped, now
		}
	}
}

// upscale gives frames to the engine of the current level, or drops them.
func (j *Live) upscale(ctx context.Context, queue chan<- item) error {
	for {
		it, more := j.intake.take(ctx)
		if !more {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return nil
		}
		if it.frame != nil {
			ok, err := j.submit(ctx, &it)
			if err != nil {
				j.abandon(&it)
				return err
			}
			if !ok {
				it.free()
				continue
			}
			j.inFlight.Add(1)
		}
		select {
		case queue <- it:
		case <-ctx.Done():
			j.abandon(&it)
			return context.Cause(ctx)
		}
	}
}

// submit begins the upscaling of a frame; false means that it is dropped.
func (j *Live) submit(ctx context.Context, it *item) (bool, error) {
	now := time.Now()
	waited := now.Sub(it.came)
	// A model may hold the frame rate, with many frames under way, and still take too long for each.
	if j.ladder.observe(now, max(waited, time.Duration(j.lastLatency.Load())/2)) {
		j.step()
	}
	if waited > j.Latency && j.ladder.bottom() || waited > 2*j.Latency {
		j.late.Add(1)
		return false, nil
	}
	f := it.frame
	var err error
	if it.luma, err = j.Luma.Get(ctx, frame.Format{Depth: f.Format.Depth, Gray: true}, f.Width*j.Scale, f.Height*j.Scale); err != nil {
		return false, err
	}
	if engine := j.Levels[j.ladder.level].Engine; engine != nil {
		it.engine = engine
		it.ticket, err = engine.Submit(ctx, f.Luma(), it.luma.Luma())
	}
	return err == nil, err
}

// step tells of a change of level.
func (j *Live) step() {
	from, to := j.Levels[j.level.Load()], j.Levels[j.ladder.level]
	if from.Engine != nil {
		from.Engine.Forget()
	}
	if int64(j.ladder.level) > j.level.Load() {
		j.tell(notice.LevelChanged, "%s is too slow now to hold the latency of %v; %s takes over.", from.Name, j.Latency, to.Name)
	} else {
		j.tell(notice.LevelChanged, "There is room again: %s takes over from %s.", to.Name, from.Name)
	}
	j.level.Store(int64(j.ladder.level))
}

// abandon frees an item whose plane may be under way in an engine.
func (j *Live) abandon(it *item) {
	if it.engine != nil {
		it.engine.Close()
	}
	it.free()
}
