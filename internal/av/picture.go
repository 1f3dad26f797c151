package av

//#cgo pkg-config: libswscale
//#include "picture.h"
//#include <libavutil/pixdesc.h>
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"upscaler/internal/frame"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// Picture is what a decoded AVFrame says of itself.
type Picture struct {
	Width, Height     int
	Format            astiav.PixelFormat
	KeyFrame          bool
	Corrupt           bool // the decoder had to guess part of it
	Interlaced        bool
	TopFieldFirst     bool
	PTS               int64 // best effort, in the codec context's packet time base, or NoTimestamp
	Duration          int64 // 0 when unknown
	Color             Color
	SampleAspectRatio media.Rational
}

// Inspect reads what a decoded frame says of itself.
func Inspect(f *astiav.Frame) Picture {
	c := (*C.AVFrame)(f.UnsafePointer())
	return Picture{
		Width: int(c.width), Height: int(c.height), Format: astiav.PixelFormat(c.format),
		KeyFrame:      c.flags&C.AV_FRAME_FLAG_KEY != 0,
		Corrupt:       c.decode_error_flags != 0 || c.flags&C.AV_FRAME_FLAG_CORRUPT != 0,
		Interlaced:    c.flags&C.AV_FRAME_FLAG_INTERLACED != 0,
		TopFieldFirst: c.flags&C.AV_FRAME_FLAG_TOP_FIELD_FIRST != 0,
		PTS:           int64(c.best_effort_timestamp), Duration: int64(c.duration),
		Color: Color{Range: int(c.color_range), Space: int(c.colorspace), Primaries: int(c.color_primaries), Transfer: int(c.color_trc),
			ChromaLocation: int(c.chroma_location)},
		SampleAspectRatio: media.Rational{Num: int(c.sample_aspect_ratio.num), Den: int(c.sample_aspect_ratio.den)},
	}
}

// ReceiveFrame is the decoder's method of this name, which makes a new error each time that the decoder wants a packet.
func ReceiveFrame(c *astiav.CodecContext, f *astiav.Frame) error {
	return status(C.avcodec_receive_frame((*C.AVCodecContext)(c.UnsafePointer()), (*C.AVFrame)(f.UnsafePointer())))
}

// ReceivePacket is the encoder's method of this name, which makes a new error each time that the encoder wants a frame.
func ReceivePacket(c *astiav.CodecContext, p *astiav.Packet) error {
	return status(C.avcodec_receive_packet((*C.AVCodecContext)(c.UnsafePointer()), (*C.AVPacket)(raw(p))))
}

var again, end error = astiav.ErrEagain, astiav.ErrEof

// status returns FFmpeg's answer as an error of go-astiav, the two that are no failure without an allocation.
func status(ret C.int) error {
	switch {
	case ret >= 0:
		return nil
	case int(ret) == int(astiav.ErrEagain):
		return again
	case int(ret) == int(astiav.ErrEof):
		return end
	}
	return astiav.Error(ret)
}

// depths are the sample depths that FFmpeg has planar formats for.
var depths = []int{8, 9, 10, 12, 14, 16}

// Layout returns the frame format that holds a pixel format's samples bit by bit, without conversion: planar, semi-planar and
// packed YUV with or without alpha, and gray. ok is false for all others, which Nearest is for.
func Layout(f astiav.PixelFormat) (format frame.Format, ok bool) {
	var l C.PictureLayout
	if C.picture_layout(C.int(f), &l) == 0 {
		return frame.Format{}, false
	}
	subsampled := l.chroma_w == 0 && l.chroma_h == 0 || l.chroma_w == 1 && l.chroma_h <= 1
	if l.plain == 0 || l.rgb != 0 || l.xyz != 0 || l.uniform_depth == 0 || l.components == 2 || !subsampled {
		return frame.Format{}, false
	}
	format = frame.Format{Depth: int(l.depth), Gray: l.components == 1, Alpha: l.alpha != 0,
		ChromaW: int(l.chroma_w), ChromaH: int(l.chroma_h)}
	_, ok = PixelFormatOf(format)
	return format, ok
}

// PixelFormatOf returns FFmpeg's planar little-endian pixel format with the layout of a frame format; ok is false when FFmpeg
// has none.
func PixelFormatOf(f frame.Format) (astiav.PixelFormat, bool) {
	name := "gray"
	if !f.Gray {
		name = "yuv"
		if f.Alpha {
			name = "yuva"
		}
		switch [2]int{f.ChromaW, f.ChromaH} {
		case [2]int{1, 1}:
			name += "420p"
		case [2]int{1, 0}:
			name += "422p"
		case [2]int{0, 1}:
			name += "440p"
		case [2]int{0, 0}:
			name += "444p"
		}
	} else if f.Alpha {
		return astiav.PixelFormatNone, false // FFmpeg's gray with alpha is packed
	}
	if f.Depth > 8 {
		name = fmt.Sprintf("%s%dle", name, f.Depth)
	}
	pf := astiav.FindPixelFormatByName(name)
	return pf, pf != astiav.PixelFormatNone
}

// Nearest returns the planar layout that loses least of a pixel format that Layout has none for. RGB becomes YUV 4:4:4 of the
// same depth; 4:1:1 and 4:4:0 keep all their chroma in 4:2:2 and 4:4:4; 4:1:0 becomes 4:2:0; gray with alpha becomes 4:2:0
// with alpha. Alpha is left out when opaque is true. ok is false for what FFmpeg's scaler cannot read, such as hardware surfaces.
func Nearest(f astiav.PixelFormat, opaque bool) (format frame.Format, ok bool) {
	var l C.PictureLayout
	if C.picture_layout(C.int(f), &l) == 0 || C.sws_isSupportedInput(C.enum_AVPixelFormat(f)) == 0 {
		return frame.Format{}, false
	}
	format.Alpha = l.alpha != 0 && !opaque
	switch {
	case l.palette != 0 || l.rgb != 0 || l.xyz != 0:
	case l.components <= 2 && !format.Alpha:
		format.Gray = true
	case l.components == 2:
		format.ChromaW, format.ChromaH = 1, 1
	case l.chroma_w == 2:
		format.ChromaW, format.ChromaH = 1, min(int(l.chroma_h), 1)
	case l.chroma_w == 1:
		format.ChromaW, format.ChromaH = 1, int(l.chroma_h)
	}
	for _, d := range depths {
		format.Depth = d
		if _, exists := PixelFormatOf(format); exists && d >= int(l.depth) {
			return format, true
		}
	}
	return format, true // 16 bits: floats hold more, no planar YUV does
}

// IsRGB tells whether a pixel format holds RGB, directly or through a palette.
func IsRGB(f astiav.PixelFormat) bool {
	var l C.PictureLayout
	return C.picture_layout(C.int(f), &l) != 0 && (l.rgb != 0 || l.palette != 0)
}

// HasTransparency tells whether a frame has alpha that is not opaque everywhere.
func HasTransparency(f *astiav.Frame) bool {
	return C.picture_has_transparency((*C.AVFrame)(f.UnsafePointer())) != 0
}

// CopyPicture copies a decoded frame's samples into dst, which has the frame's size and the format that Layout gives for it.
func CopyPicture(dst *frame.Frame, src *astiav.Frame) {
	d, s := planes(dst)
	C.picture_copy((*C.AVFrame)(src.UnsafePointer()), d[0], d[1], d[2], d[3], s[0], s[1], s[2], s[3])
	runtime.KeepAlive(dst)
}

// planes returns pointers to the planes' first bytes, and the strides. The pointers go to C as arguments, one by one: Go keeps
// what they point to in place during the call.
func planes(f *frame.Frame) (d [4]*C.uint8_t, s [4]C.int) {
	for i := range f.Format.Planes() {
		d[i] = (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(f.Planes[i].Data)))
		s[i] = C.int(f.Planes[i].Stride)
	}
	return d, s
}

// Converter brings decoded frames to one size and layout by FFmpeg's scaler. The zero Converter is ready; Free frees what the
// last conversion has left.
type Converter struct {
	c   *C.struct_SwsContext
	key conversion
}

type conversion struct {
	srcW, srcH, dstW, dstH int
	src, dst               astiav.PixelFormat
	from, to               Color
}

// conversionFlags ask for exact arithmetic and for chroma that is interpolated, not repeated: conversions are rare, and what
// they lose no later stage brings back.
const conversionFlags = C.SWS_BICUBIC | C.SWS_ACCURATE_RND | C.SWS_FULL_CHR_H_INT | C.SWS_FULL_CHR_H_INP | C.SWS_BITEXACT

// Convert converts src, whose samples mean from, into dst, whose samples mean to. RGB has the full range whatever from says.
func (c *Converter) Convert(dst *frame.Frame, src *astiav.Frame, from, to Color) error {
	pf, ok := PixelFormatOf(dst.Format)
	if !ok {
		return fmt.Errorf("no pixel format for %+v", dst.Format)
	}
	picture := (*C.AVFrame)(src.UnsafePointer())
	if picture.format == C.AV_PIX_FMT_PAL8 {
		if picture = C.picture_expand_palette(picture); picture == nil {
			return errors.New("no memory for a picture")
		}
		defer C.picture_free(picture)
	}
	key := conversion{srcW: src.Width(), srcH: src.Height(), dstW: dst.Width, dstH: dst.Height,
		src: astiav.PixelFormat(picture.format), dst: pf, from: from, to: to}
	if c.c == nil || c.key != key {
		c.Free()
		c.c = C.picture_scaler(C.int(key.srcW), C.int(key.srcH), C.int(key.src), C.int(from.Space), full(from.Range),
			C.int(key.dstW), C.int(key.dstH), C.int(key.dst), C.int(to.Space), full(to.Range), conversionFlags)
		if c.c == nil {
			return fmt.Errorf("FFmpeg cannot convert %s of %dx%d to %s of %dx%d",
				PixelFormatName(key.src), key.srcW, key.srcH, PixelFormatName(pf), dst.Width, dst.Height)
		}
		TrackOpen()
		c.key = key
	}
	d, s := planes(dst)
	ret := C.picture_scale(c.c, picture, d[0], d[1], d[2], d[3], s[0], s[1], s[2], s[3])
	runtime.KeepAlive(dst)
	if ret < 0 {
		return astiav.Error(ret)
	}
	return nil
}

func full(colorRange int) C.int {
	if colorRange == RangeFull {
		return 1
	}
	return 0
}

// Free frees the scaler's memory. The Converter can be used again.
func (c *Converter) Free() {
	if c.c != nil {
		C.sws_freeContext(c.c)
		c.c = nil
		TrackClose()
	}
}

// keptSideData are the kinds of frame side data that say something of the picture or its presentation and stay true after
// upscaling. Not kept: what describes blocks, motion or quantisers of the coded picture.
var keptSideData = []C.enum_AVFrameSideDataType{
	C.AV_FRAME_DATA_A53_CC, C.AV_FRAME_DATA_AFD, C.AV_FRAME_DATA_STEREO3D, C.AV_FRAME_DATA_DISPLAYMATRIX,
	C.AV_FRAME_DATA_MASTERING_DISPLAY_METADATA, C.AV_FRAME_DATA_CONTENT_LIGHT_LEVEL, C.AV_FRAME_DATA_ICC_PROFILE,
	C.AV_FRAME_DATA_GOP_TIMECODE, C.AV_FRAME_DATA_S12M_TIMECODE, C.AV_FRAME_DATA_DYNAMIC_HDR_PLUS,
	C.AV_FRAME_DATA_DYNAMIC_HDR_VIVID, C.AV_FRAME_DATA_SEI_UNREGISTERED, C.AV_FRAME_DATA_DOVI_RPU_BUFFER,
	C.AV_FRAME_DATA_DOVI_METADATA, C.AV_FRAME_DATA_AMBIENT_VIEWING_ENVIRONMENT, C.AV_FRAME_DATA_SPHERICAL,
}

// maxSideData is the most side data kept of one frame, in bytes: it lies outside of the frame pool's budget. The largest
// honest one is an ICC profile of a few hundred KiB.
const maxSideData = 1 << 20

// SideData returns copies of the frame's side data that is worth keeping, nil for none.
func SideData(f *astiav.Frame) []frame.SideData {
	c := (*C.AVFrame)(f.UnsafePointer())
	var kept []frame.SideData
	total := 0
	for _, sd := range unsafe.Slice(c.side_data, c.nb_side_data) {
		n := int(sd.size)
		if sd.data == nil || !slices.Contains(keptSideData, sd._type) || n > maxSideData-total {
			continue
		}
		total += n
		kept = append(kept, frame.SideData{Type: int(sd._type), Data: C.GoBytes(unsafe.Pointer(sd.data), C.int(n))})
	}
	return kept
}

// FlushDecoder makes an opened decoder forget all packets it was given.
func FlushDecoder(c *astiav.CodecContext) {
	C.avcodec_flush_buffers((*C.AVCodecContext)(c.UnsafePointer()))
}

// SetPacketTimeBase tells a decoder the unit of its packets' timestamps, which it needs to guess missing ones.
func SetPacketTimeBase(c *astiav.CodecContext, tb media.Rational) {
	C.picture_set_packet_time_base((*C.AVCodecContext)(c.UnsafePointer()), C.int(tb.Num), C.int(tb.Den))
}

// SkipUnreferenced makes a decoder leave out pictures that no other is built upon, or stop doing so.
func SkipUnreferenced(c *astiav.CodecContext, skip bool) {
	discard := C.enum_AVDiscard(C.AVDISCARD_DEFAULT)
	if skip {
		discard = C.AVDISCARD_NONREF
	}
	(*C.AVCodecContext)(c.UnsafePointer()).skip_frame = discard
}

// Crop is how many pixels a container hides at each side of the coded picture.
type Crop struct{ Left, Top, Right, Bottom int }

// TakeCrop returns the cropping that the container asks for and removes it from the parameters, since Apply does it.
func TakeCrop(p *astiav.CodecParameters) Crop {
	c := (*C.AVCodecParameters)(raw(p))
	sd := C.av_packet_side_data_get(c.coded_side_data, c.nb_coded_side_data, C.AV_PKT_DATA_FRAME_CROPPING)
	if sd == nil || sd.size != 16 {
		return Crop{}
	}
	v := unsafe.Slice((*uint32)(unsafe.Pointer(sd.data)), 4) // top, bottom, left, right
	crop := Crop{Top: int(v[0]), Bottom: int(v[1]), Left: int(v[2]), Right: int(v[3])}
	C.av_packet_side_data_remove(c.coded_side_data, &c.nb_coded_side_data, C.AV_PKT_DATA_FRAME_CROPPING)
	return crop
}

// Apply crops a frame, without copying.
func (c Crop) Apply(f *astiav.Frame) error {
	if c == (Crop{}) {
		return nil
	}
	if c.Left+c.Right >= f.Width() || c.Top+c.Bottom >= f.Height() {
		return errors.New("cropping leaves nothing of the picture")
	}
	p := (*C.AVFrame)(f.UnsafePointer())
	C.picture_set_crop(p, C.uint(c.Left), C.uint(c.Top), C.uint(c.Right), C.uint(c.Bottom))
	if ret := C.av_frame_apply_cropping(p, C.AV_FRAME_CROP_UNALIGNED); ret < 0 {
		return astiav.Error(ret)
	}
	return nil
}
