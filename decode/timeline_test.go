package decode

import (
	"slices"
	"testing"

	"upscaler/internal/av"
	"upscaler/internal/media"
)

const none = av.NoTimestamp

// twoStreams describes a video stream of 25 frames a second and a sound stream, both in milliseconds.
func twoStreams() *av.Media {
	ms := media.Rational{Num: 1, Den: 1000}
	return &av.Media{Streams: []*av.Stream{
		{Kind: media.KindVideo, TimeBase: ms, AvgFrameRate: media.Rational{Num: 25, Den: 1}},
		{Kind: media.KindAudio, TimeBase: ms},
		{Kind: media.KindSubtitle, TimeBase: ms},
	}}
}

func TestFrameTimes(t *testing.T) {
	cases := []struct {
		name     string
		in       []int64 // with a duration of 40
		want     []int64
		repaired bool
	}{
		{"fine", []int64{-80, -40, 0, 40, 1000}, []int64{-80, -40, 0, 40, 1000}, false},
		{"none at all", []int64{none, none, none}, []int64{0, 40, 80}, true},
		{"one missing", []int64{0, none, 80, 120}, []int64{0, 40, 80, 120}, true},
		{"one twice", []int64{0, 40, 40, 80, 120}, []int64{0, 40, 60, 80, 120}, true},
		{"one too early", []int64{0, 40, 13, 80, 120}, []int64{0, 40, 60, 80, 120}, true},
		{"two twice in a row", []int64{0, 40, 40, 40, 120}, []int64{0, 40, 60, 80, 120}, true},
	}
	for _, c := range cases {
		repairs := 0
		tl := newTimeline(twoStreams(), false, func() { repairs++ })
		var got []int64
		for _, pts := range c.in {
			got = append(got, tl.frame(pts, 40, false))
		}
		if !slices.Equal(got, c.want) || repairs > 1 || (repairs == 1) != c.repaired {
			t.Errorf("%s: %v with %d notices, want %v", c.name, got, repairs, c.want)
		}
	}
}

func TestFrameTimesWithoutDurations(t *testing.T) {
	tl := newTimeline(twoStreams(), false, nil)
	if a, b := tl.frame(100, 0, false), tl.frame(none, 0, false); a != 100 || b != 140 {
		t.Errorf("%d, %d; want the average rate's duration after 100", a, b)
	}
}

// step is one packet in a test of packet times.
type step struct {
	stream             int
	pts, dts, duration int64
	wantPTS, wantDTS   int64
}

func TestPacketTimes(t *testing.T) {
	cases := []struct {
		name          string
		discontinuous bool
		steps         []step
		repaired      bool
	}{
		{"fine", true, []step{
			{0, 80, 0, 40, 80, 0}, {1, 0, 0, 20, 0, 0}, {1, 20, 20, 20, 20, 20}, {0, 40, 40, 40, 40, 40},
		}, false},
		{"sound pauses for a minute while the picture goes on", true, []step{
			{0, 0, 0, 30000, 0, 0}, {1, 0, 0, 20, 0, 0}, {0, 30000, 30000, 30000, 30000, 30000},
			{0, 60000, 60000, 40, 60000, 60000}, {1, 60000, 60000, 20, 60000, 60000},
		}, false},
		{"both jump back to zero", true, []step{
			{0, 50000, 50000, 40, 50000, 50000}, {1, 50000, 50000, 20, 50000, 50000},
			{0, 0, 0, 40, 50040, 50040}, {1, 0, 0, 20, 50040, 50040}, {0, 40, 40, 40, 50080, 50080},
		}, true},
		{"both jump ahead, the sound late", true, []step{
			{0, 0, 0, 40, 0, 0}, {1, 0, 0, 20, 0, 0}, {0, 900000, 900000, 40, 40, 40}, {1, 20, 20, 20, 20, 20},
			{0, 900040, 900040, 40, 80, 80}, {1, 900000, 900000, 20, 40, 40},
		}, true},
		{"a jump in a format without jumps stays", false, []step{
			{0, 0, 0, 40, 0, 0}, {0, 900000, 900000, 40, 900000, 900000},
		}, false},
		{"sound's decoding times must rise", false, []step{
			{1, 0, 0, 20, 0, 0}, {1, 0, 0, 20, 1, 1}, {1, none, none, 20, 21, 21}, {1, 40, 40, 20, 40, 40},
		}, true},
		{"subtitles may share one", false, []step{{2, 10, 10, 5, 10, 10}, {2, 10, 10, 5, 10, 10}}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			repairs := 0
			tl := newTimeline(twoStreams(), c.discontinuous, func() { repairs++ })
			p := av.AllocPacket()
			defer av.FreePacket(p)
			for i, s := range c.steps {
				p.SetStreamIndex(s.stream)
				p.SetPts(s.pts)
				p.SetDts(s.dts)
				p.SetDuration(s.duration)
				tl.packet(p, s.stream != 0)
				if p.Pts() != s.wantPTS || p.Dts() != s.wantDTS {
					t.Errorf("packet %d: pts %d dts %d, want %d and %d", i, p.Pts(), p.Dts(), s.wantPTS, s.wantDTS)
				}
			}
			if repairs > 1 || (repairs == 1) != c.repaired {
				t.Errorf("%d notices", repairs)
			}
		})
	}
}
