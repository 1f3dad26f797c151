// Package av is what decode and encode share of FFmpeg through go-astiav: the description of an input that the output needs,
// custom input, options that fail closed, and the few lines of own cgo for what go-astiav v0.39.0 has no call for.
//
// An FFmpeg context belongs to one goroutine at a time. Everything here that holds C memory has exactly one owner, who frees
// it; LiveContexts tells how many such things are open, for leak checks.
package av

//#cgo pkg-config: libavformat libavcodec libavutil
//#include <libavutil/mem.h>
import "C"

import (
	"sync/atomic"
	"unsafe"

	"github.com/asticode/go-astiav"
)

// maxAlloc is the largest single block of memory FFmpeg may allocate, in bytes. A header of a few bytes can claim hundreds of
// millions of samples, for which a demuxer builds an index before it reads one of them; FFmpeg's own limit is 2 GiB. The
// largest honest block is one plane set of an output frame: 16384 x 9216 pixels of 4:2:0 at 10 bits are 432 MiB.
const maxAlloc = 512 << 20

func init() {
	// Both are process-wide in FFmpeg. The default log writes to stderr what strangers put into their files; a callback must
	// never be set, because go-astiav v0.39.0 formats messages into a buffer of 1024 bytes without looking at their length.
	astiav.SetLogLevel(astiav.LogLevelQuiet)
	C.av_max_alloc(maxAlloc)
}

var live atomic.Int64

// TrackOpen counts a C object (context, packet, frame, codec parameters) whose owner has just allocated it.
func TrackOpen() { live.Add(1) }

// TrackClose counts a C object that its owner has just freed.
func TrackClose() { live.Add(-1) }

// LiveContexts returns how many C objects are allocated and not yet freed in this process.
func LiveContexts() int { return int(live.Load()) }

// raw returns the C pointer inside a go-astiav wrapper, for the calls that go-astiav lacks. It is the first field of each of
// its wrappers; TestWrappersBeginWithTheirPointer holds go-astiav to that.
func raw[T any](wrapper *T) unsafe.Pointer {
	if wrapper == nil {
		return nil
	}
	return *(*unsafe.Pointer)(unsafe.Pointer(wrapper))
}
