package pipeline

import (
	"context"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/notice"
	"upscaler/sr"
)

// This file is the goroutine that owns the sink.

// write puts frames and packets into the output's time and hands them to the sink. While none come it shows the last frame again.
func (j *Live) write(ctx context.Context, queue <-chan item) error {
	idle := time.NewTimer(silence)
	defer idle.Stop()
	var last time.Time // of the last frame that came; zero before the first
	holding := false
	for {
		select {
		case it, more := <-queue:
			if !more {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return j.Sink.Finish(ctx)
			}
			if it.packet != nil {
				if err := j.writePacket(ctx, it); err != nil {
					return err
				}
				continue
			}
			if err := j.writeFrame(ctx, it); err != nil {
				return err
			}
			last, holding = time.Now(), false
			idle.Reset(silence)
		case <-ctx.Done():
			return context.Cause(ctx)
		case now := <-idle.C:
			if last.IsZero() {
				last = now
			}
			if gone := now.Sub(last); gone > j.Hold {
				return j.gone(gone)
			}
			if !holding {
				holding = true
				j.tell(notice.Connection, "No picture has come for %v; the last one is shown until there is another, for up to %v.", silence, j.Hold)
			}
			if err := j.repeat(ctx, now); err != nil {
				return err
			}
			idle.Reset(max(time.Duration(j.interval.Load()), time.Millisecond))
		}
	}
}

func (j *Live) gone(after time.Duration) error {
	err := &SourceGoneError{After: after.Round(100 * time.Millisecond)}
	if why := j.unreachable.Load(); why != nil {
		err.Err = *why
	}
	return err
}

// writePacket takes over a packet of another stream than the video.
func (j *Live) writePacket(ctx context.Context, it item) error {
	if !j.clock.knows(it.conn) && it.conn > 0 {
		if len(j.early) >= maxEarly {
			it.free()
			return nil
		}
		j.early = append(j.early, it)
		return nil
	}
	p := it.packet
	timeBase := j.Source.Media().Streams[it.stream].TimeBase
	p.Retime(it.stream, timeBase, av.Rescale(j.clock.offset, j.clock.timeBase, timeBase))
	at := p.DTS()
	if at == av.NoTimestamp {
		at = p.PTS()
	}
	if at != av.NoTimestamp && !j.clock.near(av.Rescale(at, timeBase, j.clock.timeBase)) {
		p.Free() // of before or after a jump that the video has yet to make
		return nil
	}
	return j.Sink.WritePacket(ctx, p)
}

// maxEarly is how many packets are kept of a connection whose first frame has not come: a few seconds of sound.
const maxEarly = 256

// writeFrame takes over a frame.
func (j *Live) writeFrame(ctx context.Context, it item) error {
	defer j.inFlight.Add(-1)
	if it.ticket != nil {
		if err := it.ticket.Wait(ctx); err != nil {
			j.abandon(&it)
			return err
		}
		sr.MendRim(it.frame.Luma(), it.luma.Luma())
	} else if err := j.interpolate(&it); err != nil {
		it.free()
		return err
	}
	f := it.frame
	duration := av.Rescale(f.Duration, it.timeBase, j.clock.timeBase)
	at, ok, jumped := j.clock.picture(it.conn, av.Rescale(f.PTS, it.timeBase, j.clock.timeBase), duration, it.came)
	if jumped {
		j.tell(notice.TimestampsRepaired, "The source's clock jumped; the output's goes on as before.")
	}
	if !ok {
		j.late.Add(1)
		it.free()
		return nil
	}
	f.PTS, f.Duration = at, duration
	if err := j.emit(ctx, it); err != nil {
		return err
	}
	j.latencies.add(time.Since(it.arrived))
	j.lastLatency.Store(int64(time.Since(it.came)))
	for len(j.early) > 0 && j.clock.knows(it.conn) {
		early := j.early[0]
		j.early[0] = item{}
		j.early = j.early[1:]
		if early.conn != it.conn {
			early.free()
			continue
		}
		if err := j.writePacket(ctx, early); err != nil {
			return err
		}
	}
	return nil
}

// emit encodes the frame, which is the one shown from then on.
func (j *Live) emit(ctx context.Context, it item) error {
	err := j.Sink.WriteFrame(ctx, it.frame, it.luma.Luma())
	if j.shown.frame != it.frame {
		j.shown.free()
		j.shown = it
	}
	if err != nil {
		return err
	}
	j.encoded.Add(1)
	if j.encoded.Load() == 1 {
		j.start = it.frame.PTS
	}
	j.position.Store(int64(j.clock.timeBase.Seconds(it.frame.PTS-j.start) * float64(time.Second)))
	return nil
}

// repeat shows the last frame once more.
func (j *Live) repeat(ctx context.Context, now time.Time) error {
	if j.shown.frame == nil {
		return nil
	}
	j.shown.frame.PTS = j.clock.repeat(now)
	j.shown.frame.SideData = nil // captions are not to be said twice
	j.held.Add(1)
	return j.emit(ctx, j.shown)
}

// interpolate fills the frame's luma plane without a network.
func (j *Live) interpolate(it *item) error {
	src := it.frame.Luma()
	if j.luma == nil {
		var err error
		if j.luma, err = av.NewLumaScaler(src.Depth, src.Width, src.Height, j.Scale); err != nil {
			return err
		}
	}
	return j.luma.Scale(it.luma.Luma(), src)
}
