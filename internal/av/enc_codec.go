package av

/*
#include <stdlib.h>
#include <string.h>
#include <libavcodec/avcodec.h>
#include <libavutil/mastering_display_metadata.h>
#include <libavutil/opt.h>

static void upscaler_codec_color(AVCodecContext *c, int range, int space, int primaries, int transfer, int location)
{
    c->color_range = range;
    c->colorspace = space;
    c->color_primaries = primaries;
    c->color_trc = transfer;
    c->chroma_sample_location = location;
}

static int upscaler_codec_side_data(AVCodecContext *c, int type, const void *data, size_t size)
{
    AVFrameSideData *sd = av_frame_side_data_new(&c->decoded_side_data, &c->nb_decoded_side_data, type, size,
                                                 AV_FRAME_SIDE_DATA_FLAG_UNIQUE);
    if (!sd)
        return AVERROR(ENOMEM);
    memcpy(sd->data, data, size);
    return 0;
}

static void upscaler_frame_properties(AVFrame *f, int64_t pts, int64_t duration, int sar_num, int sar_den,
                                      int range, int space, int primaries, int transfer, int location)
{
    f->pts = pts;
    f->duration = duration;
    f->pict_type = AV_PICTURE_TYPE_NONE; // the encoder decides
    f->flags = 0;
    f->sample_aspect_ratio = (AVRational){ sar_num, sar_den };
    f->color_range = range;
    f->colorspace = space;
    f->color_primaries = primaries;
    f->color_trc = transfer;
    f->chroma_location = location;
    while (f->nb_side_data > 0)
        av_frame_remove_side_data(f, f->side_data[0]->type);
}

static int upscaler_frame_side_data(AVFrame *f, int type, const void *data, size_t size)
{
    AVFrameSideData *sd = av_frame_new_side_data(f, type, size);
    if (!sd)
        return AVERROR(ENOMEM);
    memcpy(sd->data, data, size);
    return 0;
}
*/
import "C"

import (
	"fmt"
	"unsafe"

	"upscaler/internal/frame"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// Kinds of frame side data (AVFrameSideDataType) that encode decides by.
const (
	SideDataMasteringDisplay = int(C.AV_FRAME_DATA_MASTERING_DISPLAY_METADATA)
	SideDataContentLight     = int(C.AV_FRAME_DATA_CONTENT_LIGHT_LEVEL)
	SideDataAmbientViewing   = int(C.AV_FRAME_DATA_AMBIENT_VIEWING_ENVIRONMENT)
	SideDataHDR10Plus        = int(C.AV_FRAME_DATA_DYNAMIC_HDR_PLUS)
	SideDataCaptions         = int(C.AV_FRAME_DATA_A53_CC)
	SideDataICCProfile       = int(C.AV_FRAME_DATA_ICC_PROFILE)
	SideDataDolbyVisionRPU   = int(C.AV_FRAME_DATA_DOVI_RPU_BUFFER)
	SideDataDolbyVision      = int(C.AV_FRAME_DATA_DOVI_METADATA)
	SideDataUnregisteredSEI  = int(C.AV_FRAME_DATA_SEI_UNREGISTERED)
)

// AllocEncoder returns a codec context for an encoder, nil when out of memory. FreeEncoder frees it.
func AllocEncoder(codec *astiav.Codec) *astiav.CodecContext {
	c := astiav.AllocCodecContext(codec)
	if c != nil {
		TrackOpen()
	}
	return c
}

// FreeEncoder frees a codec context of AllocEncoder, opened or not; nil is ignored.
func FreeEncoder(c *astiav.CodecContext) {
	if c != nil {
		c.Free()
		TrackClose()
	}
}

// CheckEncoderOption says whether an encoder takes an option with this value: nil, astiav.ErrOptionNotFound, or another error
// for a value out of its range or type. Options that the encoder parses itself when it is opened (lists of parameters) pass.
func CheckEncoderOption(codec *astiav.Codec, key, value string) error {
	c := AllocEncoder(codec)
	if c == nil {
		return fmt.Errorf("no memory for the encoder %s", codec.Name())
	}
	defer FreeEncoder(c)
	k, v := C.CString(key), C.CString(value)
	defer C.free(unsafe.Pointer(k))
	defer C.free(unsafe.Pointer(v))
	if ret := C.av_opt_set(c.UnsafePointer(), k, v, C.AV_OPT_SEARCH_CHILDREN); ret < 0 {
		return astiav.Error(ret)
	}
	return nil
}

// SetEncoderColor tells an encoder, before it is opened, what its samples mean.
func SetEncoderColor(c *astiav.CodecContext, color Color) {
	C.upscaler_codec_color((*C.AVCodecContext)(c.UnsafePointer()), C.int(color.Range), C.int(color.Space), C.int(color.Primaries),
		C.int(color.Transfer), C.int(color.ChromaLocation))
}

// AddEncoderSideData gives an encoder, before it is opened, static metadata of the video (HDR10). It copies data.
func AddEncoderSideData(c *astiav.CodecContext, sd frame.SideData) error {
	if len(sd.Data) == 0 {
		return nil
	}
	if ret := C.upscaler_codec_side_data((*C.AVCodecContext)(c.UnsafePointer()), C.int(sd.Type), unsafe.Pointer(&sd.Data[0]),
		C.size_t(len(sd.Data))); ret < 0 {
		return astiav.Error(ret)
	}
	return nil
}

// AllocPicture returns an AVFrame with buffers for a picture of w x h, and its planes: luma, Cb, Cr, alpha, as many as the
// layout has. The planes alias C memory that lives until FreeFrame or until the frame's buffers are replaced.
func AllocPicture(format frame.Format, w, h int) (*astiav.Frame, error) {
	p, ok := PixelFormatOf(format)
	if !ok {
		return nil, fmt.Errorf("FFmpeg has no pixel format for %+v", format)
	}
	f := AllocFrame()
	if f == nil {
		return nil, fmt.Errorf("no memory for a frame of %dx%d", w, h)
	}
	f.SetPixelFormat(p)
	f.SetWidth(w)
	f.SetHeight(h)
	if err := f.AllocBuffer(0); err != nil {
		FreeFrame(f)
		return nil, fmt.Errorf("no memory for a frame of %dx%d: %w", w, h, err)
	}
	return f, nil
}

// RenewFrame gives f fresh buffers if someone else still reads the old ones, whose content then is not copied.
func RenewFrame(f *astiav.Frame, format frame.Format, w, h int) error {
	if f.IsWritable() {
		return nil
	}
	p, _ := PixelFormatOf(format)
	f.Unref()
	f.SetPixelFormat(p)
	f.SetWidth(w)
	f.SetHeight(h)
	if err := f.AllocBuffer(0); err != nil {
		return fmt.Errorf("no memory for a frame of %dx%d: %w", w, h, err)
	}
	return nil
}

// FramePlanes returns the planes of a frame of AllocPicture as Go sees them.
func FramePlanes(f *astiav.Frame, format frame.Format) [4]frame.Plane {
	c := (*C.AVFrame)(f.UnsafePointer())
	var planes [4]frame.Plane
	for i := range format.Planes() {
		w, h := format.PlaneSize(i, int(c.width), int(c.height))
		stride := int(c.linesize[i])
		planes[i] = frame.Plane{
			Data:   unsafe.Slice((*byte)(unsafe.Pointer(c.data[i])), stride*h),
			Stride: stride, Width: w, Height: h, Depth: format.Depth,
		}
	}
	return planes
}

// SetFrameProperties sets what an encoder reads of a frame beside its samples, and replaces the frame's side data by copies.
func SetFrameProperties(f *astiav.Frame, pts, duration int64, sar media.Rational, color Color, sideData []frame.SideData) error {
	c := (*C.AVFrame)(f.UnsafePointer())
	C.upscaler_frame_properties(c, C.int64_t(pts), C.int64_t(duration), C.int(sar.Num), C.int(sar.Den), C.int(color.Range),
		C.int(color.Space), C.int(color.Primaries), C.int(color.Transfer), C.int(color.ChromaLocation))
	for _, sd := range sideData {
		if len(sd.Data) == 0 {
			continue
		}
		if ret := C.upscaler_frame_side_data(c, C.int(sd.Type), unsafe.Pointer(&sd.Data[0]), C.size_t(len(sd.Data))); ret < 0 {
			return astiav.Error(ret)
		}
	}
	return nil
}

// StaticSideData returns copies of what codec parameters say of the whole video that an encoder wants to know before it starts:
// mastering display, content light level, ambient viewing environment, as frame side data.
func StaticSideData(p *astiav.CodecParameters) []frame.SideData {
	c := (*C.AVCodecParameters)(raw(p))
	var all []frame.SideData
	for packet, kind := range map[C.enum_AVPacketSideDataType]int{
		C.AV_PKT_DATA_MASTERING_DISPLAY_METADATA:  SideDataMasteringDisplay,
		C.AV_PKT_DATA_CONTENT_LIGHT_LEVEL:         SideDataContentLight,
		C.AV_PKT_DATA_AMBIENT_VIEWING_ENVIRONMENT: SideDataAmbientViewing,
	} {
		sd := C.av_packet_side_data_get(c.coded_side_data, c.nb_coded_side_data, packet)
		if sd != nil && sd.size > 0 && sd.size < maxSideData {
			all = append(all, frame.SideData{Type: kind, Data: C.GoBytes(unsafe.Pointer(sd.data), C.int(sd.size))})
		}
	}
	return all
}
