package decode

import (
	"math"
	"slices"
	"strings"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// Part is a span of an input: the pictures whose time begins within it, and the packets of the other streams that go with
// them. Time counts from the input's first picture. What is handed out begins at zero, all streams shifted alike.
//
// An input is read front to back. What lies before the part is read and thrown away, and decoded only from the group of pictures
// before that in which the part begins.
type Part struct {
	Start    time.Duration
	Duration time.Duration // 0 means to the end
	Pictures int           // at most this many; 0 for all
}

// maxPartTime is the latest time a part may begin or end at; it keeps the arithmetic far from overflow.
const maxPartTime = 10_000 * time.Hour

// cut is a Part being cut out. A nil cut wants everything.
type cut struct {
	part     Part
	timeBase astiav.Rational // the video's
	known    bool            // the first picture has been decoded: from and to are set
	from, to int64           // the span in the video's time base
	begun    bool            // the first picture of the part has been decoded: zero is set
	zero     int64           // its time, which becomes zero
	ended    bool            // a picture at or after to has been decoded
	pictures int             // decoded of the part
	skim     skim            // packets of the video before the part
	keyed    map[int]bool    // streams of other videos of which a key frame has been handed out
}

func newCut(p Part) *cut {
	if p == (Part{}) {
		return nil
	}
	p.Start, p.Duration = min(max(p.Start, 0), maxPartTime), min(max(p.Duration, 0), maxPartTime)
	return &cut{part: p, keyed: map[int]bool{}}
}

// waiting tells whether the part's first picture is still to come. Packets that may belong to it are held until then: only
// its time says what becomes zero.
func (c *cut) waiting() bool { return c != nil && !c.begun }

// over tells whether all pictures of the part have been decoded.
func (c *cut) over() bool { return c != nil && c.ended }

// missed says that there is no picture in the part.
func (c *cut) missed() error {
	return inputError(OutsidePart, nil, "The video has no picture in the part that was asked for: it ends before %v.", c.part.Start)
}

var microsecondBase = astiav.NewRational(1, 1_000_000)

// cutMedia settles what the part is once the time of the input's first picture is known, and makes Media describe it.
func (s *Source) cutMedia(origin int64) {
	c := s.cut
	if c == nil {
		return
	}
	m := s.media
	c.timeBase = av.AVRational(m.VideoTimeBase)
	c.from, c.to = origin+astiav.RescaleQ(microseconds(c.part.Start), microsecondBase, c.timeBase), math.MaxInt64
	if c.part.Duration > 0 {
		c.to = origin + astiav.RescaleQ(microseconds(c.part.Start+c.part.Duration), microsecondBase, c.timeBase)
	}
	c.known = true

	m.Part = &av.Part{Duration: c.part.Duration}
	whole := m.Info.Duration
	if whole > 0 {
		if rest := max(whole-c.part.Start, 0); c.part.Duration == 0 || rest < c.part.Duration {
			m.Part.Duration = rest
		}
	}
	v := m.Info.Streams[m.VideoIndex].Video
	if whole > 0 && v.Frames > 0 {
		m.Part.Frames = uint64(math.Round(float64(v.Frames) * float64(m.Part.Duration) / float64(whole)))
	} else {
		m.Part.Frames = uint64(max(math.Round(m.Part.Duration.Seconds()*v.FrameRate.Float()), 0))
	}
	if n := uint64(c.part.Pictures); n > 0 && (m.Part.Frames == 0 || m.Part.Frames > n) {
		m.Part.Frames = n
	}
	m.FirstPTS = 0
	m.Chapters = c.chapters(m.Chapters)
	m.Metadata = c.metadata(m.Metadata)
	for _, st := range m.Streams {
		if !st.AttachedPicture {
			st.StartTime, st.Duration, st.Frames = 0, av.NoTimestamp, 0
		}
		st.Metadata = c.metadata(st.Metadata)
	}
}

// chapters returns those that reach into the part, cut to it.
func (c *cut) chapters(all []av.Chapter) []av.Chapter {
	var kept []av.Chapter
	for i, ch := range all {
		if ch.TimeBase.Num <= 0 || ch.TimeBase.Den <= 0 {
			continue
		}
		from, to := c.spanIn(ch.TimeBase, c.from)
		end := ch.End
		if end == av.NoTimestamp && i+1 < len(all) && all[i+1].TimeBase == ch.TimeBase {
			end = all[i+1].Start
		}
		if ch.Start >= to || end != av.NoTimestamp && end <= from {
			continue
		}
		ch.Start = max(ch.Start-from, 0)
		if end != av.NoTimestamp {
			ch.End = min(end, to) - from
		}
		kept = append(kept, ch)
	}
	return kept
}

// metadata returns the entries that are true of a part, too: not the time code of the first picture, not Matroska's statistics.
func (c *cut) metadata(all []av.KeyValue) []av.KeyValue {
	return slices.DeleteFunc(slices.Clone(all), func(kv av.KeyValue) bool {
		key := strings.ToUpper(kv.Key)
		return key == "TIMECODE" && c.part.Start > 0 || key == "DURATION" || strings.HasPrefix(key, "DURATION-") ||
			strings.HasPrefix(key, "BPS") || strings.HasPrefix(key, "NUMBER_OF_") || strings.HasPrefix(key, "_STATISTICS")
	})
}

// spanIn returns the part's span in another time base, from being where it begins in the video's.
func (c *cut) spanIn(tb media.Rational, from int64) (int64, int64) {
	to := int64(math.MaxInt64)
	if c.to != math.MaxInt64 {
		to = astiav.RescaleQ(c.to, c.timeBase, av.AVRational(tb))
	}
	return astiav.RescaleQ(from, c.timeBase, av.AVRational(tb)), to
}

// cutFrame tells whether a picture at pts belongs to the part. The first one that does settles the fate of the packets held.
func (s *Source) cutFrame(pts int64) bool {
	c := s.cut
	switch {
	case c == nil:
		return true
	case pts < c.from:
		return false
	case pts >= c.to:
		c.ended = true
		return false
	case c.ended:
		return false
	case c.begun:
		c.pictures++
		c.ended = c.pictures == c.part.Pictures
		return true
	}
	c.pictures = 1
	c.ended = c.part.Pictures == 1
	c.begun, c.zero = true, pts
	held := s.pending
	s.pending = nil
	for _, u := range held {
		if c.wants(u.Packet.Raw(), s.media.Streams[u.Packet.Stream()]) {
			s.pending = append(s.pending, u)
		} else {
			u.free()
		}
	}
	return true
}

// frameTime returns a picture's time and duration within the part.
func (c *cut) frameTime(pts, duration int64) (int64, int64) {
	if c == nil {
		return pts, duration
	}
	return pts - c.zero, min(duration, c.to-pts)
}

// wants tells whether a packet that passes through may belong to the part, and shifts its time once zero is known. Until then it
// leaves the packet as it is and only says no to those that cannot.
func (c *cut) wants(p *astiav.Packet, st *av.Stream) bool {
	if c == nil || !c.known || st.AttachedPicture || st.TimeBase.Num <= 0 || st.TimeBase.Den <= 0 {
		return true
	}
	at := p.Pts()
	if at == av.NoTimestamp {
		at = p.Dts()
	}
	if at == av.NoTimestamp {
		return true
	}
	zero := c.from
	if c.begun {
		zero = c.zero
	}
	from, to := c.spanIn(st.TimeBase, zero)
	// A subtitle is on the screen from one picture to another, so it is cut; of all else whole packets are kept or left out.
	end := at
	if st.Kind == media.KindSubtitle && p.Duration() > 0 {
		end = at + p.Duration()
	}
	if at >= to || at < from && end <= from {
		return false
	}
	if !c.begun {
		return true
	}
	if st.Kind == media.KindVideo && !c.keyed[st.Index] {
		if !p.Flags().Has(astiav.PacketFlagKey) {
			return false // nothing to build upon
		}
		c.keyed[st.Index] = true
	}
	if end > at {
		p.SetDuration(min(end, to) - max(at, from))
		p.SetPts(max(at, from))
		p.SetDts(max(at, from))
	}
	if p.Pts() != av.NoTimestamp {
		p.SetPts(p.Pts() - from)
	}
	if p.Dts() != av.NoTimestamp {
		p.SetDts(p.Dts() - from)
	}
	return true
}

// partSlack is how far a file's sound may lie behind its pictures and still be waited for at the end of a part.
const partSlack = 10 * time.Second

// partIsWhole tells whether, with all pictures of the part decoded, the sound that goes with them has been read, too.
func (s *Source) partIsWhole() bool {
	c := s.cut
	if c.part.Pictures > 0 {
		return true // whoever counts pictures wants nothing else
	}
	slack := astiav.RescaleQ(microseconds(partSlack), microsecondBase, c.timeBase)
	if read := s.end[s.media.VideoIndex]; read != av.NoTimestamp && read*s.video.unit-slack >= c.to {
		return true
	}
	for i, st := range s.media.Streams {
		if st.Kind != media.KindAudio || s.end[i] == av.NoTimestamp || st.TimeBase.Num <= 0 || st.TimeBase.Den <= 0 {
			continue
		}
		if _, to := c.spanIn(st.TimeBase, c.from); s.end[i] < to {
			return false
		}
	}
	return true
}
