// Package encode is the output half of a job: it takes source frames with their upscaled luma, completes the pictures, encodes
// them, and multiplexes them with the packets that pass through untouched into a stream of bytes at offsets.
//
//	plan, err := encode.Plan(m, options)           // what will become of every stream; no side effects
//	sink, err := encode.Open(ctx, out, m, plan, options)
//	sink.WriteFrame(ctx, frame, luma)              // in presentation order
//	sink.WritePacket(ctx, packet)                  // as they come from the demuxer
//	sink.Finish(ctx)                               // drains the encoder, completes the file
//	sink.Close()
//
// A Sink belongs to one goroutine, as the FFmpeg contexts inside it do.
package encode

import (
	"fmt"
	"os"

	"upscaler/internal/notice"
)

// Container is a file format of the output; the values are those of upscale.v1.Container.
type Container int

// The containers. ContainerAuto is MP4 when it holds every stream, else Matroska (QuickTime for ProRes).
const (
	ContainerAuto     Container = 0
	ContainerMP4      Container = 1
	ContainerMatroska Container = 2
	ContainerWebM     Container = 3
	ContainerMPEGTS   Container = 4
	ContainerMOV      Container = 5
	ContainerPNG      Container = 6 // one picture
	// ContainerPNGSequence is a file for each picture; the Output must be Files.
	ContainerPNGSequence Container = 7
)

// Codec is the codec of the upscaled video; the values are those of upscale.v1.VideoCodec.
type Codec int

// The codecs. CodecAuto is the input's when it can be encoded in the input's pixel format, else the nearest that can.
const (
	CodecAuto   Codec = 0
	CodecH264   Codec = 1
	CodecHEVC   Codec = 2
	CodecAV1    Codec = 3
	CodecFFV1   Codec = 4
	CodecVP9    Codec = 5
	CodecProRes Codec = 6
	CodecPNG    Codec = 7 // of ContainerPNG and ContainerPNGSequence alone
)

// Options is what the user asks of the output. The zero value of each field means a default.
type Options struct {
	Container Container
	Codec     Codec
	CRF       *int   // constant quality on the encoder's own scale
	Preset    string // speed preset in the encoder's own words
	Tune      string // tuning in the encoder's own words
	Bitrate   int64  // average bits a second, instead of constant quality
	// EncoderOptions are further options by FFmpeg's names, checked against the encoder's own list. Options that name files are
	// refused: the user is a stranger.
	EncoderOptions map[string]string
	// Seekable says that the output takes bytes at earlier offsets, which makes ordinary MP4 and Matroska files with an index.
	Seekable bool
	// Strict makes what cannot be kept an error instead of a notice: streams, metadata, transparency, depth, colour resolution.
	Strict  bool
	Scale   int         // factor between the source frames' size and the luma planes'
	Threads int         // of the encoder; 0 means one per processor
	Notify  notice.Func // what turns up after the plan; may be nil
	Live    *Live       // of a running stream; nil for a file
	// Compare shows each picture twice, with a thin line between: enlarged by bicubic interpolation on the left, with the luma it is
	// given on the right, as seen once turned.
	Compare bool
	// Kept is the video of an interrupted output to go on with; nil begins a new one.
	Kept Kept
}

// Output takes the file's bytes. WriteAt may block, which is how a slow reader slows the job; it must not keep p. Its error
// ends the job and is what Sink's methods return.
type Output interface {
	WriteAt(p []byte, off int64) (int, error)
}

// Flusher is an Output that is told in a live job when all bytes of a video frame, and of what comes before it, have been written.
type Flusher interface {
	Output
	Flush()
}

// OptionError says that an option of the user cannot be used. Field is its place in upscale.v1.Start, such as "output.crf".
type OptionError struct{ Field, Text string }

func (e *OptionError) Error() string { return e.Field + ": " + e.Text }

// UnsupportedError says that the output cannot hold what it would have to. Text is one sentence for people.
type UnsupportedError struct{ Text string }

func (e *UnsupportedError) Error() string { return e.Text }

func optionError(field, format string, args ...any) error {
	return &OptionError{Field: "output." + field, Text: fmt.Sprintf(format, args...)}
}

func init() {
	// SVT-AV1 prints its settings to stderr at every start unless this variable, which it reads once, says otherwise. Its
	// library offers no other way, and a program that is set before its threads start disturbs nobody.
	if _, set := os.LookupEnv("SVT_LOG"); !set {
		_ = os.Setenv("SVT_LOG", "0") // fails only for impossible names
	}
}
