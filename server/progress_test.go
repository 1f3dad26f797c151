package server

import (
	"testing"
	"time"

	"upscaler/server/pipeline"
)

func TestMeter(t *testing.T) {
	begin := time.Unix(0, 0)
	m := newMeter(100, 1000)
	p := m.progress(begin, pipeline.Progress{})
	if p.GetFps() != 0 || p.Eta != nil || p.GetFraction() != 0 {
		t.Errorf("at the start: %v", p)
	}
	p = m.progress(begin.Add(2*time.Second), pipeline.Progress{Encoded: 20, BytesIn: 900})
	if p.GetFps() != 10 || p.GetEta().AsDuration() != 8*time.Second || p.GetFraction() != 0.2 {
		t.Errorf("10 frames a second, 80 to go: %v", p)
	}
	// Only the last seconds count: a stand-still shows.
	for i := range 20 {
		p = m.progress(begin.Add(time.Duration(3+i)*time.Second), pipeline.Progress{Encoded: 20})
	}
	if p.GetFps() != 0 || p.Eta != nil {
		t.Errorf("standing still: %v", p)
	}
	// More frames than the header promised.
	if p = m.progress(begin.Add(time.Minute), pipeline.Progress{Encoded: 120}); p.GetFraction() != 1 || p.Eta != nil {
		t.Errorf("beyond the expected end: %v", p)
	}
}

func TestMeterWithoutFrameCount(t *testing.T) {
	m := newMeter(0, 1000)
	if p := m.progress(time.Unix(0, 0), pipeline.Progress{BytesIn: 250}); p.GetFraction() != 0.25 {
		t.Errorf("a quarter of the bytes: %v", p)
	}
	m = newMeter(0, 0)
	if p := m.progress(time.Unix(0, 0), pipeline.Progress{BytesIn: 250}); p.Fraction != nil {
		t.Errorf("nothing is known of the length: %v", p)
	}
}
