package av

//#include "input.h"
import "C"

import (
	"errors"
	"fmt"
	"io"
	"runtime/cgo"
	"unsafe"

	"github.com/asticode/go-astiav"
)

// inputBuffer is the buffer between a Go reader and FFmpeg, in bytes: large enough that a call into Go costs nothing beside
// it, and never more than a read of a live feed wants to wait for, because a reader may return less.
const inputBuffer = 128 << 10

// Input is FFmpeg's view of a Go reader. FFmpeg reads straight into its own memory through Go; go-astiav's own context copies
// every read through a fresh Go buffer of whatever size a packet's header claims.
type Input struct {
	r      io.Reader
	s      io.Seeker // nil: cannot seek
	size   int64     // bytes in all when seekable, else -1
	c      *C.AVIOContext
	handle cgo.Handle
	err    error // the reader's error, which FFmpeg only knows as "exit"
	read   int64
	large  int64 // bytes read into memory that FFmpeg has allocated by what the file claims, since Allow
	allow  int64
}

// ErrTooMuch means that FFmpeg wanted to read more into memory at once than was allowed.
var ErrTooMuch = errors.New("the file claims a packet or header larger than allowed")

// NewInput returns a context that reads r, and seeks in it when r is an io.Seeker and size (in bytes) is not negative. The
// caller calls Free once no demuxer uses it.
func NewInput(r io.Reader, size int64) (*Input, error) {
	in := &Input{r: r, size: -1}
	if s, ok := r.(io.Seeker); ok && size >= 0 {
		in.s, in.size = s, size
	}
	in.handle = cgo.NewHandle(in)
	seekable := C.int(0)
	if in.s != nil {
		seekable = 1
	}
	in.c = C.input_alloc(C.uintptr_t(in.handle), inputBuffer, seekable)
	if in.c == nil {
		in.handle.Delete()
		return nil, errors.New("no memory for an input context")
	}
	TrackOpen()
	return in, nil
}

// Attach makes fc read from the input and refuse to open anything else, whatever the file asks for.
func (in *Input) Attach(fc *astiav.FormatContext) {
	C.input_attach((*C.AVFormatContext)(raw(fc)), in.c)
}

// Allow bounds what the next calls may read in large pieces: a read bigger than the buffer goes into memory that FFmpeg grows
// as far as the file claims. Beyond n bytes, until Allow is called again, reads fail with ErrTooMuch.
func (in *Input) Allow(n int64) { in.large, in.allow = 0, n }

// Err returns the reader's error, nil for none and for the end of the input.
func (in *Input) Err() error { return in.err }

// Unread returns a copy of what the reader has given and no demuxer has asked for yet.
func (in *Input) Unread() []byte {
	if in == nil || in.c == nil || in.c.buf_end == nil {
		return nil
	}
	n := uintptr(unsafe.Pointer(in.c.buf_end)) - uintptr(unsafe.Pointer(in.c.buf_ptr))
	return C.GoBytes(unsafe.Pointer(in.c.buf_ptr), C.int(n))
}

// BytesRead returns how many bytes the reader has given.
func (in *Input) BytesRead() int64 { return in.read }

// Free frees the context. The demuxer that used it must be closed; a second call does nothing.
func (in *Input) Free() {
	if in == nil || in.c == nil {
		return
	}
	C.input_free(in.c)
	in.c = nil
	in.handle.Delete()
	TrackClose()
}

//export goInputRead
func goInputRead(h C.uintptr_t, buf *C.uint8_t, size C.int) C.int {
	in := cgo.Handle(h).Value().(*Input)
	if in.err != nil {
		return C.AVERROR_EXIT
	}
	if size <= 0 {
		return C.AVERROR_EOF
	}
	large := size > inputBuffer
	if large {
		if in.large >= in.allow {
			in.err = ErrTooMuch
			return C.AVERROR_EXIT
		}
		size = inputBuffer
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(buf)), int(size))
	// A reader may return bytes together with its error, which then comes again or is met at the next call, and may return
	// nothing at all now and then; FFmpeg understands neither.
	for range maxEmptyReads {
		n, err := in.r.Read(b)
		if n > len(b) || n < 0 {
			in.err = fmt.Errorf("reader returned %d bytes for a buffer of %d", n, len(b))
			return C.AVERROR_EXIT
		}
		in.read += int64(n)
		if err != nil && err != io.EOF {
			in.err = err
		}
		switch {
		case n > 0:
			if large {
				in.large += int64(n)
			}
			return C.int(n)
		case err == io.EOF:
			return C.AVERROR_EOF
		case err != nil:
			return C.AVERROR_EXIT
		}
	}
	in.err = io.ErrNoProgress
	return C.AVERROR_EXIT
}

// maxEmptyReads is how often in a row a reader may return nothing without an error; bufio allows the same.
const maxEmptyReads = 100

//export goInputSeek
func goInputSeek(h C.uintptr_t, offset C.int64_t, whence C.int) C.int64_t {
	in := cgo.Handle(h).Value().(*Input)
	if in.err != nil {
		return C.AVERROR_EXIT
	}
	switch whence &^ C.AVSEEK_FORCE {
	case C.AVSEEK_SIZE:
		return C.int64_t(in.size)
	case io.SeekStart, io.SeekCurrent, io.SeekEnd:
		n, err := in.s.Seek(int64(offset), int(whence&^C.AVSEEK_FORCE))
		if err != nil {
			return C.AVERROR_INVALIDDATA // a position outside of the file: the file is wrong, not the reader
		}
		return C.int64_t(n)
	}
	return C.AVERROR_INVALIDDATA
}

// FindStreamInfo reads and decodes as much of the input as it takes to know its streams. Pictures of more than maxPixels are
// not decoded; of streams that only show up meanwhile (FLV's) that is not yet true, and only maxAlloc bounds them. (go-astiav passes one dictionary where FFmpeg wants one for each stream, and overruns memory.)
func FindStreamInfo(fc *astiav.FormatContext, maxPixels int64) error {
	if ret := C.input_find_stream_info((*C.AVFormatContext)(raw(fc)), C.int64_t(maxPixels)); ret < 0 {
		return astiav.Error(ret)
	}
	return nil
}
