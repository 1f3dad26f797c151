package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"

	"upscaler/decode"
	"upscaler/internal/av"
	"upscaler/internal/media"
	"upscaler/internal/notice"
)

// This file is the goroutine that owns the source.

// read takes frames and packets from the source, and opens it again where that is wanted.
func (j *Live) read(ctx context.Context) error {
	first := j.Source.Media()
	streams := identity(len(first.Streams))
	src := j.Source
	for conn := 0; ; conn++ {
		err := j.readFrom(ctx, src, conn, streams)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		changed := errors.Is(err, decode.ErrChanged)
		again := ctx.Err() == nil && j.Reopen != nil && (changed || j.Reconnect)
		st := src.Stats()
		j.past.bytes.Add(int64(st.Bytes))
		j.past.busy.Add(int64(st.Busy))
		j.source.Store(nil)
		var unread []byte
		if changed {
			unread = src.Unread()
		}
		if conn > 0 {
			m := src.Media()
			src.Close()
			m.Free()
		} else if again {
			src.Close() // its Media is the sink's too, and stays
		}
		switch {
		case !again && errors.Is(err, io.EOF):
			return nil
		case !again:
			return err
		case changed:
			j.tell(notice.SizeChanged, "The source's streams have changed; it is read anew.")
		default:
			j.tell(notice.Connection, "The source is gone (%s); the last picture is shown until it is back, for up to %v.", reason(err), j.Hold)
		}
		gone := time.Now()
		if src, err = j.reopen(ctx, first, unread); err != nil {
			var input *decode.InputError
			if !j.Reconnect && errors.As(err, &input) {
				return nil // what is left is too little to be a stream
			}
			return err
		}
		if !changed {
			j.reconnects.Add(1)
			j.tell(notice.Connection, "The source is back after %v.", time.Since(gone).Round(100*time.Millisecond))
		}
		j.unreachable.Store(nil)
		j.source.Store(src)
		var missing []string
		if streams, missing = match(first, src.Media()); len(missing) > 0 {
			for _, text := range missing {
				j.tell(notice.StreamDropped, "%s", text)
			}
		}
	}
}

func reason(err error) string {
	if errors.Is(err, io.EOF) {
		return "it has ended"
	}
	return err.Error()
}

// reopen tries until it succeeds or ctx ends. It is the sink's goroutine that loses patience.
func (j *Live) reopen(ctx context.Context, like *av.Media, unread []byte) (*decode.Source, error) {
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval = firstRetry, lastRetry
	return backoff.Retry(ctx, func() (*decode.Source, error) {
		src, err := j.Reopen(ctx, like, unread)
		if ctx.Err() != nil {
			if err == nil {
				m := src.Media()
				src.Close()
				m.Free()
			}
			return nil, backoff.Permanent(context.Cause(ctx))
		}
		if err != nil {
			j.unreachable.Store(&err)
			if !j.Reconnect {
				return nil, backoff.Permanent(err)
			}
		}
		return src, err
	}, backoff.WithBackOff(waits), backoff.WithMaxElapsedTime(0))
}

// readFrom reads one connection to its end. streams are the first connection's numbers of its streams, -1 for none.
func (j *Live) readFrom(ctx context.Context, src *decode.Source, conn int, streams []int) error {
	m := src.Media()
	var pace pace
	var skipping bool
	var packets, frames uint64 // when skipping began
	settle := func() {
		st := src.Stats()
		if lost := int64(st.VideoPackets-packets) - int64(st.Frames-frames); lost > 0 {
			j.undecoded.Add(uint64(lost))
		}
	}
	defer func() {
		if skipping {
			settle()
		}
	}()
	for {
		if skip := j.skip.Load(); skip != skipping {
			if skipping {
				settle()
			}
			st := src.Stats()
			packets, frames, skipping = st.VideoPackets, st.Frames, skip
			src.SkipUnreferenced(skip)
		}
		unit, err := src.Next(ctx)
		if err != nil {
			return err
		}
		it := item{frame: unit.Frame, packet: unit.Packet, conn: conn, timeBase: m.VideoTimeBase}
		switch {
		case it.packet != nil:
			i := it.packet.Stream()
			if i >= len(streams) || streams[i] < 0 {
				it.free()
				continue
			}
			it.size = int64(it.packet.Size())
			it.stream = streams[i]
		default:
			j.decoded.Add(1)
			j.measure(it.frame.Duration, m.VideoTimeBase)
			if j.Paced {
				if err := pace.wait(ctx, it.frame.PTS, m.VideoTimeBase); err != nil {
					it.free()
					return err
				}
			}
		}
		it.came, it.arrived = time.Now(), unit.Came
		if j.Paced {
			it.arrived = it.came
		}
		j.intake.put(it)
	}
}

// rateMemory is how many frames the running mean of the time between frames looks back.
const rateMemory = 16

func (j *Live) measure(duration int64, timeBase media.Rational) {
	if d := timeBase.Seconds(duration); d > 0 {
		old := j.interval.Load()
		j.interval.Store(old + (int64(d*float64(time.Second))-old)/rateMemory)
	}
}

// pace lets frames go when it is their time.
type pace struct {
	begun bool
	start time.Time
	pts   int64
	last  int64
}

func (p *pace) wait(ctx context.Context, pts int64, timeBase media.Rational) error {
	ahead := timeBase.Seconds(pts - p.last)
	if !p.begun || ahead < 0 || ahead > maxAhead.Seconds() {
		p.begun, p.start, p.pts = true, time.Now(), pts
	}
	p.last = pts
	due := p.start.Add(time.Duration(timeBase.Seconds(pts-p.pts) * float64(time.Second)))
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func identity(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// match returns for each stream of now which one of the first connection it continues, -1 for none, and sentences about those of
// the first that nothing continues.
func match(first, now *av.Media) (streams []int, missing []string) {
	taken := make([]bool, len(first.Streams))
	streams = make([]int, len(now.Streams))
	for i, s := range now.Streams {
		streams[i] = -1
		for k, f := range first.Streams {
			if i == now.VideoIndex || k == first.VideoIndex || taken[k] || !f.SameCoding(s) {
				continue
			}
			streams[i], taken[k] = k, true
			break
		}
	}
	for k, f := range first.Streams {
		if k != first.VideoIndex && !taken[k] && f.Kind == media.KindAudio {
			missing = append(missing, fmt.Sprintf(
				"The source is back without the sound of stream %d, or with another coding of it; it is left out.", k))
		}
	}
	return streams, missing
}
