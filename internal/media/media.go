// Package media describes what a file holds: its container and its streams. It is plain data without FFmpeg types, for
// the rooms that only tell about media (the server's answers, the pipeline's log).
package media

import "time"

// Rational is a fraction, as FFmpeg's AVRational. A zero Den means unknown.
type Rational struct{ Num, Den int }

// Seconds returns n units of the time base r in seconds; 0 when r is unknown.
func (r Rational) Seconds(n int64) float64 {
	if r.Den == 0 {
		return 0
	}
	return float64(n) * float64(r.Num) / float64(r.Den)
}

// Float returns the fraction's value, 0 when it is unknown.
func (r Rational) Float() float64 {
	if r.Den == 0 {
		return 0
	}
	return float64(r.Num) / float64(r.Den)
}

// Kind is what a stream holds; the values are those of upscale.v1.StreamKind.
type Kind int

// The kinds of streams.
const (
	KindUnknown    Kind = 0
	KindVideo      Kind = 1
	KindAudio      Kind = 2
	KindSubtitle   Kind = 3
	KindAttachment Kind = 4
	KindData       Kind = 5
)

// Action is what happens to a stream; the values are those of upscale.v1.StreamAction.
type Action int

// The actions.
const (
	ActionUnknown Action = 0
	ActionUpscale Action = 1
	ActionCopy    Action = 2
	ActionDrop    Action = 3
	ActionConvert Action = 4
)

// Info describes a file.
type Info struct {
	Container string        // FFmpeg's short name of the format
	Duration  time.Duration // 0 when the container does not say
	Chapters  int
	Streams   []Stream
}

// Stream describes one stream.
type Stream struct {
	Index    int
	Kind     Kind
	Codec    string // FFmpeg's name
	Language string
	Title    string
	Default  bool
	Action   Action
	Peer     int // the stream of the other file that this one becomes or comes from; -1 for none
	Video    *Video
	Audio    *Audio
}

// Video describes a video stream.
type Video struct {
	Width, Height     int // coded size in pixels, before rotation
	PixelFormat       string
	FrameRate         Rational // average frames a second
	SampleAspectRatio Rational
	TimeBase          Rational // seconds
	Range             string   // FFmpeg's names, "unknown" when not said
	Space             string
	Primaries         string
	Transfer          string
	Rotation          int    // degrees clockwise for display
	Frames            uint64 // as the header says, or duration times frame rate; 0 when unknown
}

// Audio describes an audio stream.
type Audio struct {
	SampleRate int
	Channels   int
}
