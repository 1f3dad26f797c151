package av

/*
#cgo pkg-config: libswscale libavutil
#include <libavutil/frame.h>
#include <libavutil/mem.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

static struct SwsContext *upscaler_sws_open(int fmt, int src_w, int src_h, int dst_fmt, int dst_w, int dst_h,
                                            int src_x, int src_y, int dst_x, int dst_y)
{
    struct SwsContext *c = sws_alloc_context();
    if (!c)
        return NULL;
    av_opt_set_int(c, "srcw", src_w, 0);
    av_opt_set_int(c, "srch", src_h, 0);
    av_opt_set_int(c, "src_format", fmt, 0);
    av_opt_set_int(c, "dstw", dst_w, 0);
    av_opt_set_int(c, "dsth", dst_h, 0);
    av_opt_set_int(c, "dst_format", dst_fmt, 0);
    av_opt_set_int(c, "sws_flags", SWS_BICUBIC | SWS_ACCURATE_RND, 0);
    av_opt_set_double(c, "param0", 0, 0); // Catmull-Rom's cubic, which keeps straight ramps straight; FFmpeg's own does not
    av_opt_set_double(c, "param1", 0.5, 0);
    av_opt_set_int(c, "src_h_chr_pos", src_x, 0);
    av_opt_set_int(c, "src_v_chr_pos", src_y, 0);
    av_opt_set_int(c, "dst_h_chr_pos", dst_x, 0);
    av_opt_set_int(c, "dst_v_chr_pos", dst_y, 0);
    if (sws_init_context(c, NULL, NULL) < 0) {
        sws_freeContext(c);
        return NULL;
    }
    return c;
}

// The planes come one by one because Go memory that holds pointers into Go memory must not be handed to C.
static int upscaler_sws_scale(struct SwsContext *c, int src_h,
                              const uint8_t *s0, int ss0, const uint8_t *s1, int ss1, const uint8_t *s2, int ss2,
                              uint8_t *d0, int ds0, uint8_t *d1, int ds1, uint8_t *d2, int ds2)
{
    const uint8_t *src[4] = { s0, s1, s2, NULL };
    const int src_stride[4] = { ss0, ss1, ss2, 0 };
    uint8_t *dst[4] = { d0, d1, d2, NULL };
    const int dst_stride[4] = { ds0, ds1, ds2, 0 };
    return sws_scale(c, src, src_stride, 0, src_h, dst, dst_stride);
}

static int upscaler_sws_convert(struct SwsContext *c, AVFrame *dst, const AVFrame *src)
{
    return sws_scale(c, (const uint8_t *const *)src->data, src->linesize, 0, src->height, dst->data, dst->linesize);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"upscaler/internal/frame"

	"github.com/asticode/go-astiav"
)

// errScale is returned when swscale refuses what the formats' table says it can do; it happens only when memory is short.
var errScale = errors.New("FFmpeg's scaler could not be started")

// centered is swscale's word for no chroma location of its own.
const centered = -513

// samplePad is added behind every row and plane that swscale writes: its vector code writes whole registers past a row's end.
const samplePad = 64

// PlaneScaler enlarges the chroma planes and the alpha plane of pictures of one size and layout by a whole factor, with
// FFmpeg's bicubic filter. The luma plane is not its business. It belongs to one goroutine.
type PlaneScaler struct {
	format       frame.Format
	srcW, srcH   int
	factor       int
	chroma       *C.struct_SwsContext // nil for gray
	alpha        *C.struct_SwsContext // nil without alpha
	scratch      [2]frame.Plane       // C memory for chroma of pictures of odd size, else empty
	scratchBlock unsafe.Pointer
}

// NewPlaneScaler returns a scaler for pictures of srcW x srcH luma samples to factor times that. location is where chroma
// samples lie among luma samples (AVChromaLocation; 0 means left, as every codec of the last thirty years has it). The caller
// owns it and calls Close.
//
// swscale scales luma always and honours chroma locations only for chroma planes. So both chroma planes go through it as the
// chroma of a 4:4:4 picture that is as large as they are, their location given as an offset within it, and what it takes for
// luma is a copy of Cb whose result is thrown away: half the work of scaling the whole picture (1.5 ms instead of 3.0 ms for
// 1920x1080 4:2:0 at 8 bits), with the same result. Pictures of odd width or height are scaled as if their chroma planes were
// whole, and the surplus is cut off: stretching 17 chroma columns to 33 instead of 34 would move colours away from their places.
func NewPlaneScaler(format frame.Format, srcW, srcH, factor, location int) (*PlaneScaler, error) {
	s := &PlaneScaler{format: format, srcW: srcW, srcH: srcH, factor: factor}
	if !format.Gray {
		w, h := format.PlaneSize(1, srcW, srcH)
		fmt444, ok := PixelFormatOf(frame.Format{Depth: format.Depth})
		if !ok {
			return nil, errScale
		}
		x, y := chromaOffset(format, location)
		s.chroma = C.upscaler_sws_open(C.int(fmt444), C.int(w), C.int(h), C.int(fmt444), C.int(w*factor), C.int(h*factor), x, y, x, y)
		if s.chroma == nil {
			return nil, errScale
		}
		TrackOpen()
		if dw, dh := format.PlaneSize(1, srcW*factor, srcH*factor); dw != w*factor || dh != h*factor {
			if err := s.allocScratch(w*factor, h*factor); err != nil {
				s.Close()
				return nil, err
			}
		}
	}
	if format.Alpha {
		gray, ok := PixelFormatOf(frame.Format{Depth: format.Depth, Gray: true})
		if ok {
			s.alpha = C.upscaler_sws_open(C.int(gray), C.int(srcW), C.int(srcH), C.int(gray), C.int(srcW*factor), C.int(srcH*factor),
				centered, centered, centered, centered)
		}
		if s.alpha == nil {
			s.Close()
			return nil, errScale
		}
		TrackOpen()
	}
	return s, nil
}

// chromaOffset returns what swscale is to take for the position of the chroma samples of a 4:4:4 picture so that planes
// subsampled as format's are filtered for their true location: swscale reduces the position p (1/256 of a luma sample) of a
// plane subsampled by 2^n to (p + 128) / 2^n.
func chromaOffset(format frame.Format, location int) (x, y C.int) {
	x, y = chromaPosition(format, location)
	return (x+128)>>format.ChromaW - 128, (y+128)>>format.ChromaH - 128
}

// chromaPosition returns where the chroma samples of a layout lie, in 1/256 of a luma sample. Where chroma is not subsampled
// they lie on the luma samples whatever the location says.
func chromaPosition(format frame.Format, location int) (x, y C.int) {
	if location <= 0 || location >= C.AVCHROMA_LOC_NB {
		location = C.AVCHROMA_LOC_LEFT
	}
	C.av_chroma_location_enum_to_pos(&x, &y, uint32(location))
	if format.ChromaW == 0 {
		x = 0
	}
	if format.ChromaH == 0 {
		y = 0
	}
	return x, y
}

func (s *PlaneScaler) allocScratch(w, h int) error {
	stride := (w*s.format.SampleBytes()+samplePad-1)/samplePad*samplePad + samplePad
	size := stride * h
	s.scratchBlock = C.av_malloc(C.size_t(2*size + samplePad))
	if s.scratchBlock == nil {
		return fmt.Errorf("allocating %d bytes for scaled chroma failed", 2*size)
	}
	block := unsafe.Slice((*byte)(s.scratchBlock), 2*size)
	for i := range s.scratch {
		s.scratch[i] = frame.Plane{Data: block[i*size : (i+1)*size], Stride: stride, Width: w, Height: h, Depth: s.format.Depth}
	}
	return nil
}

// Scale enlarges the chroma and alpha planes of src into those of dst, which is of the same layout and factor times the size.
// dst must be C memory with room for a vector register behind each row, as the planes of AllocPicture are; what its luma plane
// holds is lost.
func (s *PlaneScaler) Scale(dst [4]frame.Plane, src *frame.Frame) error {
	if src.Width != s.srcW || src.Height != s.srcH || src.Format != s.format {
		return fmt.Errorf("a %dx%d frame came to a scaler for %dx%d", src.Width, src.Height, s.srcW, s.srcH)
	}
	if s.chroma != nil {
		cb, cr := src.Planes[1], src.Planes[2]
		u, v := dst[1], dst[2]
		if s.scratchBlock != nil {
			u, v = s.scratch[0], s.scratch[1]
		}
		n := C.upscaler_sws_scale(s.chroma, C.int(cb.Height),
			ptr(cb), C.int(cb.Stride), ptr(cb), C.int(cb.Stride), ptr(cr), C.int(cr.Stride),
			ptr(dst[0]), C.int(dst[0].Stride), ptr(u), C.int(u.Stride), ptr(v), C.int(v.Stride))
		if int(n) != cb.Height*s.factor {
			return fmt.Errorf("FFmpeg's scaler returned %d of %d chroma rows", int(n), cb.Height*s.factor)
		}
		if s.scratchBlock != nil {
			CopyPlane(dst[1], s.scratch[0])
			CopyPlane(dst[2], s.scratch[1])
		}
	}
	if s.alpha != nil {
		i := s.format.Planes() - 1
		a, d := src.Planes[i], dst[i]
		n := C.upscaler_sws_scale(s.alpha, C.int(a.Height), ptr(a), C.int(a.Stride), nil, 0, nil, 0, ptr(d), C.int(d.Stride), nil, 0, nil, 0)
		if int(n) != a.Height*s.factor {
			return fmt.Errorf("FFmpeg's scaler returned %d of %d alpha rows", int(n), a.Height*s.factor)
		}
	}
	return nil
}

// Close frees the scaler. A second call does nothing.
func (s *PlaneScaler) Close() {
	for _, c := range []**C.struct_SwsContext{&s.chroma, &s.alpha} {
		if *c != nil {
			C.sws_freeContext(*c)
			*c = nil
			TrackClose()
		}
	}
	C.av_free(s.scratchBlock)
	s.scratchBlock = nil
	s.scratch = [2]frame.Plane{}
}

// LumaScaler enlarges luma planes of one size and depth by a whole factor, with the same filter as PlaneScaler. It belongs to one
// goroutine.
type LumaScaler struct {
	planes *PlaneScaler
	format frame.Format
	block  unsafe.Pointer
	out    frame.Plane // C memory
}

// NewLumaScaler returns a scaler for planes of width x height samples of depth bits. The caller owns it and calls Close.
func NewLumaScaler(depth, width, height, factor int) (*LumaScaler, error) {
	// To a PlaneScaler the plane is the alpha of a gray picture.
	s := &LumaScaler{format: frame.Format{Depth: depth, Gray: true, Alpha: true}}
	var err error
	if s.planes, err = NewPlaneScaler(s.format, width, height, factor, 0); err != nil {
		return nil, err
	}
	row := width * factor * s.format.SampleBytes()
	stride := (row+samplePad-1)/samplePad*samplePad + samplePad
	size := stride * height * factor
	if s.block = C.av_malloc(C.size_t(size + samplePad)); s.block == nil {
		s.Close()
		return nil, fmt.Errorf("allocating %d bytes for scaled luma failed", size)
	}
	s.out = frame.Plane{Data: unsafe.Slice((*byte)(s.block), size), Stride: stride, Width: width * factor, Height: height * factor, Depth: depth}
	return s, nil
}

// Scale enlarges src into dst, which may be Go memory.
func (s *LumaScaler) Scale(dst, src frame.Plane) error {
	f := frame.Frame{Width: src.Width, Height: src.Height, Format: s.format, Planes: [4]frame.Plane{{}, src}}
	if err := s.planes.Scale([4]frame.Plane{{}, s.out}, &f); err != nil {
		return err
	}
	CopyPlane(dst, s.out)
	return nil
}

// Close frees the scaler; nil is ignored. A second call does nothing.
func (s *LumaScaler) Close() {
	if s == nil {
		return
	}
	s.planes.Close()
	C.av_free(s.block)
	s.block = nil
}

// FormatConverter turns whole pictures of one YUV layout into another of the same size with FFmpeg's bicubic filter, keeping the
// coding range: limited stays limited and full stays full. It belongs to one goroutine.
type FormatConverter struct {
	c      *C.struct_SwsContext
	height int
}

// NewFormatConverter returns a converter for pictures of w x h. location is the AVChromaLocation of both layouts (0 means
// left). Gray is refused: swscale takes it for full range whatever it is. The caller owns the converter and calls Close.
func NewFormatConverter(src, dst frame.Format, w, h, location int) (*FormatConverter, error) {
	from, ok1 := PixelFormatOf(src)
	to, ok2 := PixelFormatOf(dst)
	if !ok1 || !ok2 || src.Gray || dst.Gray {
		return nil, fmt.Errorf("no conversion from %+v to %+v", src, dst)
	}
	sx, sy := chromaPosition(src, location)
	dx, dy := chromaPosition(dst, location)
	c := C.upscaler_sws_open(C.int(from), C.int(w), C.int(h), C.int(to), C.int(w), C.int(h), sx, sy, dx, dy)
	if c == nil {
		return nil, errScale
	}
	TrackOpen()
	return &FormatConverter{c: c, height: h}, nil
}

// Convert fills dst from src, which have the layouts and the size given to NewFormatConverter.
func (c *FormatConverter) Convert(dst, src *astiav.Frame) error {
	n := C.upscaler_sws_convert(c.c, (*C.AVFrame)(dst.UnsafePointer()), (*C.AVFrame)(src.UnsafePointer()))
	if int(n) != c.height {
		return fmt.Errorf("FFmpeg's scaler returned %d of %d rows", int(n), c.height)
	}
	return nil
}

// Close frees the converter; nil is ignored. A second call does nothing.
func (c *FormatConverter) Close() {
	if c != nil && c.c != nil {
		C.sws_freeContext(c.c)
		c.c = nil
		TrackClose()
	}
}

// CopyPlane copies the samples of src to dst, as many as both have.
func CopyPlane(dst, src frame.Plane) {
	w, h := min(dst.Width, src.Width), min(dst.Height, src.Height)
	n := w
	if src.Depth > 8 {
		n *= 2
	}
	for y := range h {
		copy(dst.Data[y*dst.Stride:y*dst.Stride+n], src.Data[y*src.Stride:y*src.Stride+n])
	}
}

func ptr(p frame.Plane) *C.uint8_t { return (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(p.Data))) }
