package client

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
)

// Output takes the bytes of a result. Make one with ToFile or ToStream; it serves one job.
type Output struct {
	at     io.WriterAt                            // set for a file
	stream io.Writer                              // set for a stream
	next   func(number uint32) (io.Writer, error) // set for several files

	file  uint32 // number of the current one
	end   uint64 // the length of the current file so far
	whole uint64 // of those before it
	bytes uint64 // of chunk data received
	hash  hash.Hash
}

// ToFile stores the result in w, which ends up as an ordinary file: the server may return to earlier offsets to complete
// headers. The bytes w is given are only valid during the call.
func ToFile(w io.WriterAt) *Output { return &Output{at: w, hash: sha256.New()} }

// ToStream writes the result to w front to back, in a form of the container that needs no return to earlier offsets.
func ToStream(w io.Writer) *Output { return &Output{stream: w, hash: sha256.New()} }

// ToFiles writes a result of several files front to back. next is called for each when its first byte has come, with its
// number, from 0 on; the one before is complete then.
func ToFiles(next func(number uint32) (io.Writer, error)) *Output {
	return &Output{next: next, hash: sha256.New()}
}

// Size returns the length of the result so far, in bytes.
func (o *Output) Size() uint64 { return o.whole + o.end }

// OutputError says that the result could not be written on this side.
type OutputError struct{ Err error }

func (e *OutputError) Error() string { return fmt.Sprintf("the output cannot be written: %v", e.Err) }

// Unwrap returns the writer's error.
func (e *OutputError) Unwrap() error { return e.Err }

// put writes a chunk where it belongs. The server is not believed: no muxer leaves a hole, so an offset beyond the end is
// a fault, and would at worst make a file of an absurd size.
func (o *Output) put(data []byte, offset uint64, file uint32) error {
	if len(data) == 0 {
		return nil // tells of a file's end
	}
	if err := o.turn(file); err != nil {
		return err
	}
	if offset > o.end || (o.at == nil && offset != o.end) {
		return &ProtocolError{Text: fmt.Sprintf("the server sent bytes for offset %d of the output, which holds %d so far", offset, o.end)}
	}
	n := uint64(len(data))
	if offset > math.MaxInt64-n {
		return &ProtocolError{Text: "the server sent more than a file can hold"}
	}
	var err error
	if o.at != nil {
		_, err = o.at.WriteAt(data, int64(offset)) //nolint:gosec // checked above
	} else {
		var m int
		if m, err = o.stream.Write(data); err == nil && m < len(data) {
			err = io.ErrShortWrite
		}
	}
	if err != nil {
		return &OutputError{Err: err}
	}
	o.hash.Write(data)
	o.bytes += n
	o.end = max(o.end, offset+n)
	return nil
}

// turn makes file the current one.
func (o *Output) turn(file uint32) error {
	begun := o.stream != nil || o.at != nil
	if begun && file == o.file {
		return nil
	}
	if o.next == nil || begun && file != o.file+1 || !begun && file != 0 {
		return &ProtocolError{Text: fmt.Sprintf("the server sent bytes of file %d of the output, after file %d", file, o.file)}
	}
	w, err := o.next(file)
	if err != nil {
		return &OutputError{Err: err}
	}
	o.stream, o.file = w, file
	o.whole, o.end = o.whole+o.end, 0
	return nil
}

// errOutputUsed guards against a second job into the same Output.
var errOutputUsed = errors.New("client: the Output has already taken a job's result")
