package av

/*
#include "picture.h"
#include <string.h>
#include <libavformat/avformat.h>
#include <libavutil/frame.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

static struct SwsContext *upscaler_still_open(int w, int h, int src, int dst, int space, int full, int x, int y)
{
    struct SwsContext *c = sws_alloc_context();
    if (!c)
        return NULL;
    av_opt_set_int(c, "srcw", w, 0);
    av_opt_set_int(c, "srch", h, 0);
    av_opt_set_int(c, "src_format", src, 0);
    av_opt_set_int(c, "src_range", full, 0);
    av_opt_set_int(c, "dstw", w, 0);
    av_opt_set_int(c, "dsth", h, 0);
    av_opt_set_int(c, "dst_format", dst, 0);
    av_opt_set_int(c, "dst_range", 1, 0);
    av_opt_set_int(c, "sws_flags", SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT, 0);
    av_opt_set_int(c, "src_h_chr_pos", x, 0);
    av_opt_set_int(c, "src_v_chr_pos", y, 0);
    if (sws_init_context(c, NULL, NULL) < 0) {
        sws_freeContext(c);
        return NULL;
    }
    // Has no effect on gray, and says so by an error that is none.
    sws_setColorspaceDetails(c, sws_getCoefficients(space), full, sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    return c;
}

static int upscaler_still_convert(struct SwsContext *c, AVFrame *dst, const AVFrame *src)
{
    return sws_scale(c, (const uint8_t *const *)src->data, src->linesize, 0, src->height, dst->data, dst->linesize);
}

// Both frames have packed pixels of one format.
static void upscaler_still_turn(AVFrame *dst, const AVFrame *src, int transpose, int flip_x, int flip_y)
{
    int bytes = av_get_padded_bits_per_pixel(av_pix_fmt_desc_get(src->format)) / 8;
    for (int y = 0; y < dst->height; y++) {
        for (int x = 0; x < dst->width; x++) {
            int u = flip_x ? dst->width - 1 - x : x, v = flip_y ? dst->height - 1 - y : y;
            int sx = transpose ? v : u, sy = transpose ? u : v;
            memcpy(dst->data[0] + (ptrdiff_t)y * dst->linesize[0] + x * bytes,
                   src->data[0] + (ptrdiff_t)sy * src->linesize[0] + sx * bytes, bytes);
        }
    }
}
*/
import "C"

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"upscaler/internal/frame"

	"github.com/asticode/go-astiav"
)

// Orientation is how a decoded picture has to be turned to be looked at: rows and columns are exchanged first, then the result
// is mirrored.
type Orientation struct{ Transpose, FlipX, FlipY bool }

// Size returns the size of a picture of w x h once turned.
func (o Orientation) Size(w, h int) (int, int) {
	if o.Transpose {
		return h, w
	}
	return w, h
}

// Orientation returns what the container's display matrix asks for, else the first picture's own (a camera's JPEG).
func (m *Media) Orientation() Orientation {
	p := (*C.AVCodecParameters)(raw(m.Video().Params))
	if sd := C.av_packet_side_data_get(p.coded_side_data, p.nb_coded_side_data, C.AV_PKT_DATA_DISPLAYMATRIX); sd != nil {
		return orientation(C.GoBytes(unsafe.Pointer(sd.data), C.int(min(sd.size, displayMatrixBytes))))
	}
	for _, sd := range m.FirstSideData {
		if sd.Type == int(C.AV_FRAME_DATA_DISPLAYMATRIX) {
			return orientation(sd.Data)
		}
	}
	return Orientation{}
}

// displayMatrixBytes is the size of a display matrix: nine numbers of four bytes.
const displayMatrixBytes = 36

// orientation reads a display matrix, row by row, which takes a point (p, q) to (a p + c q, b p + d q). Angles between are brought
// to the nearest quarter turn.
func orientation(matrix []byte) Orientation {
	if len(matrix) < displayMatrixBytes {
		return Orientation{}
	}
	at := func(i int) int64 { return int64(int32(binary.NativeEndian.Uint32(matrix[4*i:]))) }
	size := func(v int64) int64 { return max(v, -v) }
	a, b, c, d := at(0), at(1), at(3), at(4)
	if size(a)+size(d) < size(b)+size(c) {
		return Orientation{Transpose: true, FlipX: c < 0, FlipY: b < 0}
	}
	return Orientation{FlipX: a < 0, FlipY: d < 0}
}

// Depth returns the bits of a pixel format's first component, 0 for none.
func Depth(f astiav.PixelFormat) int {
	var l C.PictureLayout
	if C.picture_layout(C.int(f), &l) == 0 {
		return 0
	}
	return int(l.depth)
}

// StillFormat returns the packed pixel format in which a still picture is stored: RGB, with alpha as src has it, or gray, of 16
// bits where deep is true, else of 8.
func StillFormat(src frame.Format, deep bool) astiav.PixelFormat {
	name := map[[3]bool]string{
		{false, false, false}: "rgb24", {false, false, true}: "rgb48be", {false, true, false}: "rgba", {false, true, true}: "rgba64be",
		{true, false, false}: "gray", {true, false, true}: "gray16be",
	}[[3]bool{src.Gray, src.Alpha, deep}]
	return astiav.FindPixelFormatByName(name)
}

// StillConverter turns one picture of a planar layout into a still picture's pixels, the right way up. It belongs to one goroutine.
type StillConverter struct {
	c           *C.struct_SwsContext
	orientation Orientation
	flat        *astiav.Frame // converted
	turned      *astiav.Frame // and turned; nil when there is nothing to turn
}

// NewStillConverter returns a converter from pictures of w x h in layout src, whose samples mean what color says, to format. Gray
// has the full range whatever color says. The caller owns it and calls Close.
func NewStillConverter(src frame.Format, color Color, w, h int, format astiav.PixelFormat, o Orientation) (*StillConverter, error) {
	from, ok := PixelFormatOf(src)
	if !ok {
		return nil, fmt.Errorf("no pixel format for %+v", src)
	}
	x, y := chromaPosition(src, color.ChromaLocation)
	s := &StillConverter{orientation: o}
	s.c = C.upscaler_still_open(C.int(w), C.int(h), C.int(from), C.int(format), C.int(color.Space), full(color.Range), x, y)
	if s.c == nil {
		return nil, errScale
	}
	TrackOpen()
	var err error
	if s.flat, err = allocPacked(format, w, h); err == nil && o != (Orientation{}) {
		tw, th := o.Size(w, h)
		s.turned, err = allocPacked(format, tw, th)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func allocPacked(format astiav.PixelFormat, w, h int) (*astiav.Frame, error) {
	f := AllocFrame()
	if f == nil {
		return nil, fmt.Errorf("no memory for a frame of %dx%d", w, h)
	}
	f.SetPixelFormat(format)
	f.SetWidth(w)
	f.SetHeight(h)
	if err := f.AllocBuffer(0); err != nil {
		FreeFrame(f)
		return nil, fmt.Errorf("no memory for a frame of %dx%d: %w", w, h, err)
	}
	return f, nil
}

// Frame returns the frame that Convert fills. It stays the converter's.
func (s *StillConverter) Frame() *astiav.Frame {
	if s.turned != nil {
		return s.turned
	}
	return s.flat
}

// Convert fills Frame from src.
func (s *StillConverter) Convert(src *astiav.Frame) error {
	for _, f := range []*astiav.Frame{s.flat, s.turned} {
		if f == nil {
			continue
		}
		if err := f.MakeWritable(); err != nil { // the encoder may still read the last one
			return fmt.Errorf("no memory for a picture: %w", err)
		}
	}
	n := C.upscaler_still_convert(s.c, (*C.AVFrame)(s.flat.UnsafePointer()), (*C.AVFrame)(src.UnsafePointer()))
	if int(n) != s.flat.Height() {
		return fmt.Errorf("FFmpeg's scaler returned %d of %d rows", int(n), s.flat.Height())
	}
	if s.turned != nil {
		o := s.orientation
		C.upscaler_still_turn((*C.AVFrame)(s.turned.UnsafePointer()), (*C.AVFrame)(s.flat.UnsafePointer()),
			truth(o.Transpose), truth(o.FlipX), truth(o.FlipY))
	}
	return nil
}

func truth(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// Close frees the converter; nil is ignored. A second call does nothing.
func (s *StillConverter) Close() {
	if s == nil {
		return
	}
	if s.c != nil {
		C.sws_freeContext(s.c)
		s.c = nil
		TrackClose()
	}
	FreeFrame(s.flat)
	FreeFrame(s.turned)
	s.flat, s.turned = nil, nil
}
