package av

/*
#include <string.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/mem.h>

// The tag that a stream may keep in this container, or 0 to let the muxer choose, by the rule of FFmpeg's own program.
static unsigned upscaler_keep_tag(const AVOutputFormat *of, enum AVCodecID id, unsigned tag)
{
    unsigned other;
    if (!of->codec_tag || av_codec_get_id(of->codec_tag, tag) == id || !av_codec_get_tag2(of->codec_tag, id, &other))
        return tag;
    return 0;
}

static int upscaler_add_chapter(AVFormatContext *s, int64_t id, int num, int den, int64_t start, int64_t end,
                                AVDictionary *metadata)
{
    AVChapter *c = av_mallocz(sizeof(*c));
    AVChapter **all = c ? av_realloc_array(s->chapters, s->nb_chapters + 1, sizeof(*all)) : NULL;
    if (!all) {
        av_free(c);
        return AVERROR(ENOMEM);
    }
    s->chapters = all;
    c->id = id;
    c->time_base = (AVRational){ num, den };
    c->start = start;
    c->end = end;
    c->metadata = metadata;
    s->chapters[s->nb_chapters++] = c;
    return 0;
}

static int upscaler_param_side_data(AVCodecParameters *p, int type, const void *data, size_t size)
{
    AVPacketSideData *sd = av_packet_side_data_new(&p->coded_side_data, &p->nb_coded_side_data, type, size, 0);
    if (!sd)
        return AVERROR(ENOMEM);
    memcpy(sd->data, data, size);
    return 0;
}

static void upscaler_stream_avg_frame_rate(AVStream *st, int num, int den)
{
    st->avg_frame_rate = (AVRational){ num, den };
    st->r_frame_rate = (AVRational){ num, den };
}
*/
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// AllocMuxer returns a muxing context of a format by its short name (mp4, matroska). FreeMuxer frees it.
func AllocMuxer(format string) (*astiav.FormatContext, error) {
	fc, err := astiav.AllocOutputFormatContext(nil, format, "")
	if err != nil {
		return nil, fmt.Errorf("FFmpeg has no muxer %s: %w", format, err)
	}
	TrackOpen()
	return fc, nil
}

// FreeMuxer frees a context of AllocMuxer with its streams, chapters and programs, not its IO context; nil is ignored.
func FreeMuxer(fc *astiav.FormatContext) {
	if fc != nil {
		fc.Free()
		TrackClose()
	}
}

// AllocOutputIO returns an IO context that hands what is written to write, in pieces of at most bufferSize bytes that write
// must not keep, and repositions with seek, which is nil for an output that cannot go back. FreeOutputIO frees it.
func AllocOutputIO(bufferSize int, write func([]byte) (int, error), seek func(offset int64, whence int) (int64, error)) (*astiav.IOContext, error) {
	io, err := astiav.AllocIOContext(bufferSize, true, nil, seek, write)
	if err != nil {
		return nil, err
	}
	TrackOpen()
	return io, nil
}

// FreeOutputIO frees an IO context of AllocOutputIO; what is buffered and not flushed is lost. nil is ignored.
func FreeOutputIO(io *astiav.IOContext) {
	if io != nil {
		io.Free()
		TrackClose()
	}
}

// MuxerTakes tells whether FFmpeg's tables say that a container can hold a codec. Some muxers have no table (MPEG-TS): known
// is false then.
func MuxerTakes(of *astiav.OutputFormat, id astiav.CodecID) (takes, known bool) {
	switch C.avformat_query_codec((*C.AVOutputFormat)(raw(of)), C.enum_AVCodecID(id), C.FF_COMPLIANCE_NORMAL) {
	case 1:
		return true, true
	case 0:
		return false, true
	}
	return false, false
}

// KeepTag returns the codec tag that a stream passed through to a container may keep, 0 when the muxer must choose one.
func KeepTag(of *astiav.OutputFormat, p *astiav.CodecParameters) astiav.CodecTag {
	return astiav.CodecTag(C.upscaler_keep_tag((*C.AVOutputFormat)(raw(of)), C.enum_AVCodecID(p.CodecID()), C.unsigned(p.CodecTag())))
}

// CodecTag returns the little-endian number of four characters, as containers name codecs.
func CodecTag(s string) astiav.CodecTag {
	return astiav.CodecTag(binary.LittleEndian.Uint32([]byte(s)))
}

// AddChapter adds a chapter to an output whose header is not yet written.
func AddChapter(fc *astiav.FormatContext, ch Chapter) error {
	d := astiav.NewDictionary()
	if err := SetEntries(d, ch.Metadata); err != nil {
		d.Free()
		return err
	}
	ret := C.upscaler_add_chapter((*C.AVFormatContext)(raw(fc)), C.int64_t(ch.ID), C.int(ch.TimeBase.Num), C.int(ch.TimeBase.Den),
		C.int64_t(ch.Start), C.int64_t(ch.End), (*C.AVDictionary)(raw(d)))
	if ret < 0 {
		d.Free()
		return errors.New("no memory for a chapter")
	}
	return nil // the context owns the dictionary now
}

// SetStreamFrameRate tells the muxer the average frames a second of a video stream.
func SetStreamFrameRate(s *astiav.Stream, r media.Rational) {
	C.upscaler_stream_avg_frame_rate((*C.AVStream)(raw(s)), C.int(r.Num), C.int(r.Den))
}

// sideDataOfPicture are the kinds of stream side data that stay true for the upscaled picture. Not among them: what describes
// the coded stream (rate control buffer, encryption), and Dolby Vision's configuration, whose metadata is not carried on.
var sideDataOfPicture = map[C.enum_AVPacketSideDataType]bool{
	C.AV_PKT_DATA_DISPLAYMATRIX:               true,
	C.AV_PKT_DATA_STEREO3D:                    true,
	C.AV_PKT_DATA_SPHERICAL:                   true,
	C.AV_PKT_DATA_MASTERING_DISPLAY_METADATA:  true,
	C.AV_PKT_DATA_CONTENT_LIGHT_LEVEL:         true,
	C.AV_PKT_DATA_AMBIENT_VIEWING_ENVIRONMENT: true,
	C.AV_PKT_DATA_ICC_PROFILE:                 true,
}

// CopyPictureSideData copies the stream side data that describes the picture (rotation, HDR, stereo) from the input's video to
// the output's, unless the output has it already. The display matrix's shift, which is in pixels, is multiplied by scale.
func CopyPictureSideData(dst, src *astiav.CodecParameters, scale int) error {
	from, to := (*C.AVCodecParameters)(raw(src)), (*C.AVCodecParameters)(raw(dst))
	for _, sd := range unsafe.Slice(from.coded_side_data, from.nb_coded_side_data) {
		if !sideDataOfPicture[sd._type] || sd.size == 0 || C.av_packet_side_data_get(to.coded_side_data, to.nb_coded_side_data, sd._type) != nil {
			continue
		}
		data := C.GoBytes(unsafe.Pointer(sd.data), C.int(sd.size))
		if sd._type == C.AV_PKT_DATA_DISPLAYMATRIX && len(data) == 36 {
			for _, at := range []int{6 * 4, 7 * 4} { // the matrix is row by row; its third row is the shift in 16.16 pixels
				v := int64(int32(binary.NativeEndian.Uint32(data[at:]))) * int64(scale)
				binary.NativeEndian.PutUint32(data[at:], uint32(int32(v)))
			}
		}
		if ret := C.upscaler_param_side_data(to, C.int(sd._type), unsafe.Pointer(&data[0]), C.size_t(len(data))); ret < 0 {
			return astiav.Error(ret)
		}
	}
	return nil
}

// HasDisplayMatrix tells whether codec parameters say that the picture is to be turned or mirrored.
func HasDisplayMatrix(p *astiav.CodecParameters) bool {
	c := (*C.AVCodecParameters)(raw(p))
	sd := C.av_packet_side_data_get(c.coded_side_data, c.nb_coded_side_data, C.AV_PKT_DATA_DISPLAYMATRIX)
	return sd != nil && orientation(C.GoBytes(unsafe.Pointer(sd.data), C.int(sd.size))) != (Orientation{})
}
