package encode

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/asticode/go-astiav"
)

// file hands the muxer's bytes to the Output at their offsets. It is used by FFmpeg's callbacks, in the goroutine that calls
// FFmpeg. FFmpeg has no room for Go errors: the first one is kept here and asked for after each call into FFmpeg.
type file struct {
	out     Output
	pos     int64
	size    atomic.Int64
	blocked atomic.Int64 // nanoseconds spent waiting for the Output
	err     error
}

func (f *file) write(p []byte) (int, error) {
	if f.err != nil {
		return 0, astiav.ErrExit
	}
	start := time.Now()
	n, err := f.out.WriteAt(p, f.pos)
	f.blocked.Add(int64(time.Since(start)))
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		f.err = err
		return 0, astiav.ErrExit
	}
	f.pos += int64(n)
	f.size.Store(max(f.size.Load(), f.pos))
	return n, nil
}

// avseekSize is FFmpeg's AVSEEK_SIZE: the question for the size of the file.
const avseekSize = 0x10000

var errSeek = errors.New("seeking outside of the output")

func (f *file) seek(offset int64, whence int) (int64, error) {
	switch whence &^ avseekForce {
	case avseekSize:
		return f.size.Load(), nil
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += f.size.Load()
	default:
		return 0, errSeek
	}
	if offset < 0 {
		return 0, errSeek
	}
	f.pos = offset
	return offset, nil
}

// avseekForce is FFmpeg's AVSEEK_FORCE: seek even when it is slow, which it never is here.
const avseekForce = 0x20000
