package decode

import (
	"time"

	"upscaler/internal/av"

	"github.com/asticode/go-astiav"
)

const (
	// keptReads is how many reads of a running stream are remembered: more than the demuxer and its probing hold at a time, in
	// the short reads of a live feed.
	keptReads = 1024

	// keptArrivals is how many packets' times are remembered until their pictures come out of the decoder: more than any codec
	// reorders.
	keptArrivals = 64
)

// arrivals tells when the bytes of a running stream's pictures came. A nil arrivals knows nothing.
type arrivals struct {
	reads []read // the oldest is first
	times map[int64]time.Time
	order []int64 // of times' keys
}

type read struct {
	end int64 // offset in the stream
	at  time.Time
}

// note remembers that the stream's bytes up to end have come now.
func (a *arrivals) note(end int64) {
	if a == nil {
		return
	}
	if len(a.reads) == keptReads {
		a.reads = append(a.reads[:0], a.reads[keptReads/2:]...)
	}
	a.reads = append(a.reads, read{end, time.Now()})
}

// packet remembers when the first byte of a video packet came, by its presentation time.
func (a *arrivals) packet(p *astiav.Packet) {
	if a == nil || p.Pts() == av.NoTimestamp || p.Pos() < 0 {
		return
	}
	for i := range a.reads {
		if a.reads[i].end <= p.Pos() {
			continue
		}
		if a.times == nil {
			a.times = map[int64]time.Time{}
		}
		if len(a.order) == keptArrivals {
			delete(a.times, a.order[0])
			a.order = append(a.order[:0], a.order[1:]...)
		}
		a.times[p.Pts()] = a.reads[i].at
		a.order = append(a.order, p.Pts())
		return
	}
}

// frame returns when the first byte of the frame with the presentation time pts came; now when that is not known.
func (a *arrivals) frame(pts int64) time.Time {
	if a != nil {
		if at, known := a.times[pts]; known {
			return at
		}
	}
	return time.Now()
}
