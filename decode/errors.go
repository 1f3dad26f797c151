package decode

import (
	"errors"
	"fmt"
)

// ErrChanged means that the streams of a running input are no longer those it began with: what follows must be opened anew.
var ErrChanged = errors.New("the streams of the input have changed")

// Kind says what is wrong with an input.
type Kind int

// The kinds of bad input.
const (
	Empty         Kind = iota + 1 // not a single byte
	NotVideo                      // no format we read: text, a playlist, an archive
	NoVideoStream                 // sound only, or nothing but cover art
	Damaged                       // truncated or broken so far that no picture could be decoded
	TooLarge                      // more pixels, streams, bytes in one packet or bytes to spool than allowed
	Unsupported                   // a codec without a decoder, or a file that would have to be spooled and may not be
	OutsidePart                   // it ends before the part that was asked for begins
)

func (k Kind) String() string {
	names := [...]string{Empty: "empty", NotVideo: "not video", NoVideoStream: "no video stream", Damaged: "damaged",
		TooLarge: "too large", Unsupported: "unsupported",
		OutsidePart: "outside part"}
	if k < Empty || int(k) >= len(names) {
		return fmt.Sprintf("kind %d", int(k))
	}
	return names[k]
}

// InputError says that the input cannot be processed, and why. Errors of the reader, of the spool and of the context are
// returned as they are and never wrapped in an InputError.
type InputError struct {
	Kind Kind
	Text string // one sentence for people, without the file's name
	Err  error  // what FFmpeg said, nil for none
}

func (e *InputError) Error() string {
	if e.Err == nil {
		return e.Text
	}
	return fmt.Sprintf("%s (%v)", e.Text, e.Err)
}

func (e *InputError) Unwrap() error { return e.Err }

func inputError(k Kind, err error, format string, args ...any) *InputError {
	return &InputError{Kind: k, Text: fmt.Sprintf(format, args...), Err: err}
}
