// Package notice holds what a job tells its user while it goes on.
package notice

// Code is the kind of a notice; the values are those of upscale.v1.NoticeCode.
type Code int

// The codes, see upscale.v1.NoticeCode.
const (
	InputSpooled         Code = 1
	StreamDropped        Code = 2
	PixelFormatConverted Code = 3
	TimestampsRepaired   Code = 4
	InputDamaged         Code = 5
	Deinterlaced         Code = 6
	SizeChanged          Code = 7
	MetadataReduced      Code = 8
	Fallback             Code = 9
	LevelChanged         Code = 10
	FramesDropped        Code = 11
	Connection           Code = 12
	Resumed              Code = 13
)

// NoStream is the Stream of a notice that concerns the whole file.
const NoStream = -1

// Notice is one sentence for the user, with its kind and the input stream it concerns.
type Notice struct {
	Code   Code
	Text   string
	Stream int // index in the input, or NoStream
}

// Func receives notices. It may be called from several goroutines and must not block for long.
type Func func(Notice)
