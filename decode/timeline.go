package decode

import (
	"math"

	"upscaler/internal/av"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// timeline is the one place where timestamps are repaired. Times that are fine pass through as they are: no offset is removed,
// nothing is rounded.
type timeline struct {
	live          bool // a running stream
	discontinuous bool // the format allows time to jump (MPEG-TS, MPEG-PS)
	streams       []streamTime
	offset        float64 // seconds added to every packet since the last jump
	latest        float64 // time of the last packet of any stream, in seconds

	pts  frameTime
	note func() // called at the first repair
}

type streamTime struct {
	timeBase media.Rational
	kind     media.Kind
	have     bool
	next     float64 // expected time of the next packet in seconds, before strictness
	dts      int64   // the last packet's, in timeBase
	duration int64
	delay    int64 // pictures by which a video's decoding runs ahead of its presentation
	started  bool  // a packet had a decoding time of its own
}

// frameTime keeps the decoded frames' times rising.
type frameTime struct {
	have     bool
	last     int64
	duration int64 // of the last frame; of a frame at the average rate as long as none has told
}

// jump is by how many seconds a packet may be off what its stream's last packet lets expect before the whole file's time is
// taken to have jumped: FFmpeg's own dts_delta_threshold. Gaps below are gaps of the programme.
const jump = 10

// jumpBack is the same for a running stream and time that falls: nobody's programme does that, so it is another stream that begins.
const jumpBack = 1

func newTimeline(m *av.Media, discontinuous bool, note func()) *timeline {
	t := &timeline{discontinuous: discontinuous, note: note}
	for _, s := range m.Streams {
		t.streams = append(t.streams, streamTime{timeBase: s.TimeBase, kind: s.Kind, delay: int64(av.VideoDelay(s.Params))})
	}
	v := m.Video()
	if rate, tb := v.AvgFrameRate.Float(), v.TimeBase.Float(); rate > 0 && tb > 0 {
		t.pts.duration = int64(1/(rate*tb) + 0.5)
	}
	t.pts.duration = max(t.pts.duration, 1)
	return t
}

func (t *timeline) repaired() {
	if t.note != nil {
		t.note()
		t.note = nil
	}
}

// packet corrects a packet that has just been read. passThrough packets also get rising decoding times, which a muxer insists on.
func (t *timeline) packet(p *astiav.Packet, passThrough bool) {
	s := &t.streams[p.StreamIndex()]
	at := p.Dts()
	if at == av.NoTimestamp {
		at = p.Pts()
	}
	if t.discontinuous && at != av.NoTimestamp && s.timeBase.Den != 0 && s.kind != media.KindSubtitle && s.kind != media.KindData {
		seconds := s.timeBase.Seconds(at) + t.offset
		// A stream that pauses is off its own last packet, but not off the other streams.
		off := seconds - s.next
		jumped := math.Abs(off) > jump && math.Abs(seconds-t.latest) > jump
		if t.live && off < -jumpBack && seconds < t.latest-jumpBack {
			jumped = true
		}
		if s.have && jumped {
			t.offset -= off
			seconds -= off
			t.repaired()
		}
		s.have, t.latest = true, seconds
		s.next = seconds + s.timeBase.Seconds(p.Duration())
	}
	if t.offset != 0 && s.timeBase.Den != 0 {
		shift := int64(t.offset / s.timeBase.Float())
		if p.Pts() != av.NoTimestamp {
			p.SetPts(p.Pts() + shift)
		}
		if p.Dts() != av.NoTimestamp {
			p.SetDts(p.Dts() + shift)
		}
	}
	if passThrough {
		t.rise(s, p)
	}
}

// rise makes decoding times rise. Subtitles and data may share one.
func (t *timeline) rise(s *streamTime, p *astiav.Packet) {
	if s.kind == media.KindAttachment {
		return
	}
	dts := p.Dts()
	switch {
	case dts != av.NoTimestamp:
		s.started = true
	case s.delay == 0:
		dts = p.Pts()
	case !s.haveDTS() && p.Pts() != av.NoTimestamp:
		// Matroska tells no decoding times, and FFmpeg knows them only once it has seen as many pictures as are reordered. The
		// presentation time would be too late: the pictures shown before it are decoded after it.
		dts = p.Pts() - s.delay*max(p.Duration(), 1)
	}
	sparse := s.kind == media.KindSubtitle || s.kind == media.KindData
	switch {
	case dts == av.NoTimestamp && !s.haveDTS():
		return // the muxer begins where it likes
	case dts == av.NoTimestamp:
		dts = s.dts + s.duration
		if s.started {
			t.repaired()
		}
	case s.haveDTS() && (dts < s.dts || dts == s.dts && !sparse):
		dts = s.dts
		if !sparse {
			dts++
		}
		t.repaired()
	}
	p.SetDts(dts)
	if p.Pts() == av.NoTimestamp || p.Pts() < dts {
		p.SetPts(dts)
	}
	s.dts, s.duration = dts, max(p.Duration(), 1)
}

func (s *streamTime) haveDTS() bool { return s.duration > 0 }

// frame returns the presentation time of a decoded frame. A missing one is the last plus its duration. One that does not rise
// is put halfway to where the next frame is expected, so that the next good one is good again: adding whole durations would
// shift everything that follows. The last frames of a decoder being drained have no time of their own in containers that only
// tell decoding times; filling those in is no repair.
func (t *timeline) frame(pts, duration int64, draining bool) int64 {
	f := &t.pts
	switch {
	case pts == av.NoTimestamp && !f.have:
		pts = 0
		t.repaired()
	case pts == av.NoTimestamp:
		pts = f.last + f.duration
		if !draining {
			t.repaired()
		}
	case f.have && pts <= f.last:
		pts = f.last + max(f.duration/2, 1)
		t.repaired()
	}
	f.have, f.last = true, pts
	if duration > 0 {
		f.duration = duration
	}
	return pts
}
