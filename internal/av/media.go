package av

import (
	"bytes"
	"math"
	"time"

	"upscaler/internal/frame"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// NoTimestamp is AV_NOPTS_VALUE: a timestamp or a duration that is not known.
const NoTimestamp = math.MinInt64

// Media is all of an input that the output needs. It is detached from the demuxer: plain description, and C copies of the
// codec parameters. The demuxer's owner hands it to its user, who calls Free once, after input and output are closed.
type Media struct {
	Info     media.Info // for people; Action and Peer are not set
	Streams  []*Stream  // by index in the input
	Chapters []Chapter
	Programs []Program
	Metadata []KeyValue // of the whole file

	// Part is what is worked on of the input, nil for all of it. Info, Streams' durations aside, still describes the whole.
	Part *Part

	DurationGuessed bool // Info.Duration and the streams' are estimates from bit rate and size

	VideoIndex int // the stream that is decoded; all others arrive as packets
	// VideoTimeBase is that of frame.Frame.PTS and Duration: Streams[VideoIndex].TimeBase, or a fraction of it where frames may lie
	// between the stream's own.
	VideoTimeBase media.Rational
	FirstPTS      int64 // of the first frame, in VideoTimeBase

	// What the decoded frames look like, taken from the first one. Every frame has this size and layout.
	Width, Height int
	Working       frame.Format
	Color         Color
	Interlaced    bool // frames hold two fields each (they were not deinterlaced)
	TopFieldFirst bool // of interlaced frames
	// Side data of the first frame: mastering display, content light level and other static metadata that an encoder wants
	// before it starts. Each frame's own side data is in frame.Frame.SideData.
	FirstSideData []frame.SideData
}

// Part is a span of an input.
type Part struct {
	Duration time.Duration // 0 when unknown
	Frames   uint64        // 0 when unknown
}

// Duration returns how long what is worked on is, 0 when unknown.
func (m *Media) Duration() time.Duration {
	if m.Part != nil {
		return m.Part.Duration
	}
	return m.Info.Duration
}

// Frames returns how many pictures what is worked on should hold, 0 when unknown.
func (m *Media) Frames() uint64 {
	if m.Part != nil {
		return m.Part.Frames
	}
	if v := m.Info.Streams[m.VideoIndex].Video; v != nil {
		return v.Frames
	}
	return 0
}

// Free frees the C copies. The streams' Params must not be used afterwards; a second call does nothing.
func (m *Media) Free() {
	if m == nil {
		return
	}
	for _, s := range m.Streams {
		if s.Params != nil {
			s.Params.Free()
			s.Params = nil
			TrackClose()
		}
	}
}

// Video returns the stream that is decoded.
func (m *Media) Video() *Stream { return m.Streams[m.VideoIndex] }

// Stream is one stream of an input.
type Stream struct {
	Index int
	ID    int // the container's own number: track id, PID
	Kind  media.Kind
	// Params is an owned copy with extradata (an attachment's content) and coded_side_data (display matrix, HDR metadata).
	Params            *astiav.CodecParameters
	TimeBase          media.Rational // seconds
	AvgFrameRate      media.Rational // frames a second; Den 0 when unknown
	RealFrameRate     media.Rational // lowest rate at which all timestamps fall on a frame; Den 0 when unknown
	SampleAspectRatio media.Rational // Num 0 when unknown
	Disposition       astiav.DispositionFlags
	Metadata          []KeyValue
	StartTime         int64 // in TimeBase, or NoTimestamp
	Duration          int64 // in TimeBase, or NoTimestamp
	Frames            int64 // as the container says; 0 when it does not
	AttachedPicture   bool  // cover art: one packet at the start
}

// SameCoding tells whether packets of other can follow those of s in an output that has announced s.
func (s *Stream) SameCoding(other *Stream) bool {
	a, b := s.Params, other.Params
	return s.Kind == other.Kind && a.CodecID() == b.CodecID() && a.SampleRate() == b.SampleRate() &&
		a.ChannelLayout().Channels() == b.ChannelLayout().Channels() && bytes.Equal(a.ExtraData(), b.ExtraData())
}

// KeyValue is one entry of metadata. Order and repeated keys are kept as the input has them.
type KeyValue struct{ Key, Value string }

// Chapter is one chapter of a file.
type Chapter struct {
	ID         int64
	TimeBase   media.Rational // seconds
	Start, End int64          // in TimeBase; End is NoTimestamp when unknown
	Metadata   []KeyValue
}

// Program is one program of an MPEG transport stream.
type Program struct {
	ID       int
	Number   int
	PMTPID   int
	PCRPID   int
	Streams  []int // indices of the streams that belong to it
	Metadata []KeyValue
}

// Color says how sample values are to be understood, in the numbers of ISO/IEC 23091-2 as FFmpeg's enums hold them
// (AVColorRange, AVColorSpace, AVColorPrimaries, AVColorTransferCharacteristic, AVChromaLocation).
type Color struct {
	Range          int // 0 unknown, 1 limited (16..235 at 8 bits), 2 full (0..255)
	Space          int // matrix coefficients; 2 unknown
	Primaries      int // 2 unknown
	Transfer       int // 2 unknown
	ChromaLocation int // 0 unknown, 1 left, 2 center, 3 top left
}

// The values of Color that decode and encode decide by.
const (
	RangeUnknown = 0
	RangeLimited = 1
	RangeFull    = 2

	SpaceRGB     = 0
	SpaceBT709   = 1
	SpaceUnknown = 2

	PrimariesBT709   = 1
	PrimariesUnknown = 2

	TransferBT709   = 1
	TransferUnknown = 2
	TransferSRGB    = 13
)

// Packet is one packet that passes through. It owns a reference to C memory until Free; whoever holds the Packet owns it.
type Packet struct {
	p        *astiav.Packet
	timeBase media.Rational
}

// NewPacket takes over p, whose timestamps are in timeBase. p was allocated by AllocPacket.
func NewPacket(p *astiav.Packet, timeBase media.Rational) *Packet {
	return &Packet{p: p, timeBase: timeBase}
}

// AllocPacket returns an empty packet, nil when out of memory. FreePacket frees it.
func AllocPacket() *astiav.Packet {
	p := astiav.AllocPacket()
	if p != nil {
		TrackOpen()
	}
	return p
}

// FreePacket frees a packet of AllocPacket; nil is ignored.
func FreePacket(p *astiav.Packet) {
	if p != nil {
		p.Free()
		TrackClose()
	}
}

// AllocFrame returns an empty frame, nil when out of memory. FreeFrame frees it.
func AllocFrame() *astiav.Frame {
	f := astiav.AllocFrame()
	if f != nil {
		TrackOpen()
	}
	return f
}

// FreeFrame frees a frame of AllocFrame; nil is ignored.
func FreeFrame(f *astiav.Frame) {
	if f != nil {
		f.Free()
		TrackClose()
	}
}

// packetOverhead is what a packet without content costs: AVPacket, buffer reference, side data headers.
const packetOverhead = 256

// Stream returns the index of the input stream the packet belongs to.
func (p *Packet) Stream() int { return p.p.StreamIndex() }

// Size returns the bytes of memory the packet holds, for queues that count them.
func (p *Packet) Size() int { return p.p.Size() + packetOverhead }

// PTS returns the presentation time in TimeBase, or NoTimestamp.
func (p *Packet) PTS() int64 { return p.p.Pts() }

// DTS returns the decoding time in TimeBase, or NoTimestamp.
func (p *Packet) DTS() int64 { return p.p.Dts() }

// Duration returns the duration in TimeBase, 0 when unknown.
func (p *Packet) Duration() int64 { return p.p.Duration() }

// TimeBase returns the unit of the timestamps in seconds: its stream's TimeBase.
func (p *Packet) TimeBase() media.Rational { return p.timeBase }

// Retime makes the packet one of another stream, whose time base is timeBase, and moves it by offset in that time base.
func (p *Packet) Retime(stream int, timeBase media.Rational, offset int64) {
	p.p.RescaleTs(AVRational(p.timeBase), AVRational(timeBase))
	p.timeBase = timeBase
	p.p.SetStreamIndex(stream)
	if t := p.p.Pts(); t != NoTimestamp {
		p.p.SetPts(t + offset)
	}
	if t := p.p.Dts(); t != NoTimestamp {
		p.p.SetDts(t + offset)
	}
}

// Raw returns the FFmpeg packet. It stays the Packet's.
func (p *Packet) Raw() *astiav.Packet { return p.p }

// Free returns the memory. A second call does nothing.
func (p *Packet) Free() {
	if p != nil && p.p != nil {
		FreePacket(p.p)
		p.p = nil
	}
}

// Rescale turns n units of the time base from into units of to, rounded to the nearest; NoTimestamp stays what it is.
func Rescale(n int64, from, to media.Rational) int64 {
	if n == NoTimestamp {
		return n
	}
	return astiav.RescaleQ(n, AVRational(from), AVRational(to))
}

// Rational converts FFmpeg's fraction.
func Rational(r astiav.Rational) media.Rational { return media.Rational{Num: r.Num(), Den: r.Den()} }

// AVRational converts to FFmpeg's fraction, whose name it has.
func AVRational(r media.Rational) astiav.Rational { //nolint:revive // FFmpeg's own name
	return astiav.NewRational(r.Num, r.Den)
}
