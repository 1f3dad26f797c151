package av

/*
#include <libavutil/frame.h>

static void upscaler_keep(void *opaque, uint8_t *data) { (void)opaque; (void)data; }

static int upscaler_lend(AVFrame *f, const AVFrame *of, uint8_t *luma, size_t size, int stride)
{
    AVBufferRef *b = av_buffer_create(luma, size, upscaler_keep, NULL, AV_BUFFER_FLAG_READONLY);
    if (!b)
        return AVERROR(ENOMEM);
    int ret = av_frame_ref(f, of);
    if (ret < 0) {
        av_buffer_unref(&b);
        return ret;
    }
    av_buffer_unref(&f->buf[0]);
    f->buf[0] = b;
    f->data[0] = luma;
    f->linesize[0] = stride;
    return 0;
}
*/
import "C"

import (
	"errors"
	"runtime"
	"unsafe"

	"upscaler/internal/frame"

	"github.com/asticode/go-astiav"
)

// Loan is a picture whose luma plane is lent to FFmpeg where it lies, in Go memory. It belongs to one goroutine.
type Loan struct {
	frame *astiav.Frame
	pin   runtime.Pinner
}

// NewLoan returns a Loan. The caller owns it and calls Close.
func NewLoan() (*Loan, error) {
	f := AllocFrame()
	if f == nil {
		return nil, errors.New("no memory for a frame")
	}
	return &Loan{frame: f}, nil
}

// Lend returns a picture that is like of, a frame of AllocPicture, but for its luma, which is the given plane of the same size. Its
// samples must stay as they are until TakeBack.
func (l *Loan) Lend(of *astiav.Frame, luma frame.Plane) (*astiav.Frame, error) {
	data := unsafe.SliceData(luma.Data)
	l.pin.Pin(data)
	ret := C.upscaler_lend((*C.AVFrame)(l.frame.UnsafePointer()), (*C.AVFrame)(of.UnsafePointer()), (*C.uint8_t)(data),
		C.size_t(len(luma.Data)), C.int(luma.Stride))
	if ret < 0 {
		l.pin.Unpin()
		return nil, astiav.Error(ret)
	}
	return l.frame, nil
}

// errLent is a mistake in this program: an encoder was lent a plane that it does not read at once.
var errLent = errors.New("the encoder still reads a picture that it should have copied")

// TakeBack ends what Lend began. It fails when FFmpeg has not done with the plane; then nobody may touch it before Close, which comes
// after the encoder is freed.
func (l *Loan) TakeBack() error {
	if C.av_buffer_get_ref_count((*C.AVFrame)(l.frame.UnsafePointer()).buf[0]) != 1 {
		return errLent
	}
	l.frame.Unref()
	l.pin.Unpin()
	return nil
}

// Close frees the picture; nil is ignored.
func (l *Loan) Close() {
	if l != nil {
		FreeFrame(l.frame)
		l.pin.Unpin()
	}
}
