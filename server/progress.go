package server

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/server/pipeline"
)

// speedWindow is the time over which the speed is averaged: long enough for a steady figure, short enough to show a change.
const speedWindow = 8 * time.Second

// meter derives speed and the time left from snapshots of a job. Its one owner is the watching goroutine.
type meter struct {
	frames uint64 // expected; 0 when not known
	size   uint64 // of the input in bytes; 0 when not known
	window []sample
}

type sample struct {
	at      time.Time
	decoded uint64
	encoded uint64 // by this job: what an interrupted output holds tells nothing of its speed
}

func newMeter(frames, size uint64) *meter { return &meter{frames: frames, size: size} }

func (m *meter) progress(now time.Time, pr pipeline.Progress) *upscalev1.Progress {
	m.window = append(m.window, sample{now, pr.Decoded, pr.Encoded - pr.Kept})
	for len(m.window) > 2 && now.Sub(m.window[0].at) > speedWindow {
		m.window = m.window[1:]
	}
	p := &upscalev1.Progress{
		FramesDecoded: pr.Decoded, FramesEncoded: pr.Encoded,
		Position: durationpb.New(pr.Position),
		BytesIn:  pr.BytesIn, BytesOut: pr.BytesOut,
		Stages: stageTimes(pr.Stages),
	}
	if first := m.window[0]; now.After(first.at) {
		p.Fps = float64(pr.Encoded-pr.Kept-first.encoded) / now.Sub(first.at).Seconds()
	}
	if pr.Live != nil {
		p.Live = m.live(now, pr)
		return p
	}
	if f, ok := m.fraction(pr); ok {
		p.Fraction = proto.Float64(f)
	}
	if p.Fps > 0 && m.frames > pr.Encoded {
		p.Eta = durationpb.New(time.Duration(float64(m.frames-pr.Encoded) / p.Fps * float64(time.Second)))
	}
	return p
}

// live completes what only live jobs tell.
func (m *meter) live(now time.Time, pr pipeline.Progress) *upscalev1.LiveProgress {
	l := pr.Live
	p := &upscalev1.LiveProgress{
		LatencyP50: durationpb.New(l.P50), LatencyP95: durationpb.New(l.P95), LatencyP99: durationpb.New(l.P99),
		Level: l.Level, DroppedLate: l.DroppedLate, DroppedUndecoded: l.DroppedUndecoded, Held: l.Held,
		QueuedFrames: uint32(l.QueuedFrames), SourceReconnects: uint32(l.SourceReconnects),
	}
	if first := m.window[0]; now.After(first.at) {
		seconds := now.Sub(first.at).Seconds()
		p.FpsIn, p.FpsOut = float64(pr.Decoded-first.decoded)/seconds, float64(pr.Encoded-first.encoded)/seconds
	}
	return p
}

// fraction of the job done: by frames when their number is known, else by the bytes read.
func (m *meter) fraction(pr pipeline.Progress) (float64, bool) {
	switch {
	case m.frames > 0:
		return min(1, float64(pr.Encoded)/float64(m.frames)), true
	case m.size > 0:
		return min(1, float64(pr.BytesIn)/float64(m.size)), true
	}
	return 0, false
}
