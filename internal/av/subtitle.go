package av

/*
#include <string.h>
#include <libavcodec/avcodec.h>
#include <libavutil/mem.h>

static void upscaler_subtitle_close(AVCodecContext **dec, AVCodecContext **enc)
{
    avcodec_free_context(dec);
    avcodec_free_context(enc);
}

static void upscaler_subtitle_free(AVCodecContext *dec, AVCodecContext *enc) { upscaler_subtitle_close(&dec, &enc); }

static int subtitle_open(const AVCodecParameters *p, int num, int den, enum AVCodecID to, AVCodecContext **dec, AVCodecContext **enc)
{
    const AVCodec *decoder = avcodec_find_decoder(p->codec_id), *encoder = avcodec_find_encoder(to);
    int ret = AVERROR(ENOMEM);
    *dec = *enc = NULL;
    if (!decoder || !encoder)
        return AVERROR_DECODER_NOT_FOUND;
    if (!(*dec = avcodec_alloc_context3(decoder)) || !(*enc = avcodec_alloc_context3(encoder)))
        goto fail;
    if ((ret = avcodec_parameters_to_context(*dec, p)) < 0)
        goto fail;
    (*dec)->pkt_timebase = (AVRational){ num, den };
    if ((ret = avcodec_open2(*dec, decoder, NULL)) < 0)
        goto fail;
    (*enc)->time_base = (AVRational){ 1, AV_TIME_BASE };
    (*enc)->width = (*dec)->width;
    (*enc)->height = (*dec)->height;
    if ((*dec)->subtitle_header) { // the styles, which text is encoded by
        (*enc)->subtitle_header = av_mallocz((*dec)->subtitle_header_size + 1);
        if (!(*enc)->subtitle_header) {
            ret = AVERROR(ENOMEM);
            goto fail;
        }
        memcpy((*enc)->subtitle_header, (*dec)->subtitle_header, (*dec)->subtitle_header_size);
        (*enc)->subtitle_header_size = (*dec)->subtitle_header_size;
    }
    if ((ret = avcodec_open2(*enc, encoder, NULL)) < 0)
        goto fail;
    return 0;
fail:
    upscaler_subtitle_close(dec, enc);
    return ret;
}

typedef struct SubtitleContexts {
    AVCodecContext *dec, *enc;
    int ret; // below 0 with neither
} SubtitleContexts;

static SubtitleContexts upscaler_subtitle_open(const AVCodecParameters *p, int num, int den, enum AVCodecID to)
{
    SubtitleContexts c;
    c.ret = subtitle_open(p, num, den, to, &c.dec, &c.enc);
    return c;
}

// Replaces the content of a packet; returns the bytes it has then, 0 when there is nothing to be shown.
static int upscaler_subtitle_convert(AVCodecContext *dec, AVCodecContext *enc, AVPacket *p, int max)
{
    AVSubtitle sub = { 0 };
    AVPacket *out = NULL;
    int got = 0, ret = avcodec_decode_subtitle2(dec, &sub, &got, p);
    if (ret < 0 || !got || !sub.num_rects) {
        ret = FFMIN(ret, 0);
        goto end;
    }
    ret = AVERROR(ENOMEM);
    if (!(out = av_packet_alloc()) || av_new_packet(out, max) < 0)
        goto end;
    sub.start_display_time = 0; // the packet says when
    if ((ret = avcodec_encode_subtitle(enc, out->data, max, &sub)) <= 0)
        goto end;
    av_shrink_packet(out, ret);
    out->pts = p->pts;
    out->dts = p->dts;
    out->duration = p->duration;
    out->stream_index = p->stream_index;
    out->flags = p->flags;
    av_packet_unref(p);
    av_packet_move_ref(p, out);
end:
    av_packet_free(&out);
    if (got)
        avsubtitle_free(&sub);
    return ret;
}
*/
import "C"

import (
	"fmt"

	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// maxSubtitle is the most bytes of a converted text; a screen full of it has a few hundred.
const maxSubtitle = 64 << 10

// TextConverter turns packets of one text subtitle codec into those of another: the text and its plain styles (bold, italic,
// colours), as far as the codec knows them; positions, fonts and effects are lost. It belongs to one goroutine.
type TextConverter struct {
	dec, enc *C.AVCodecContext
}

// NewTextConverter returns a converter for a stream with parameters p and packets timed in timeBase to the codec to. The caller
// owns it and calls Close.
func NewTextConverter(p *astiav.CodecParameters, timeBase media.Rational, to astiav.CodecID) (*TextConverter, error) {
	both := C.upscaler_subtitle_open((*C.AVCodecParameters)(raw(p)), C.int(timeBase.Num), C.int(timeBase.Den), C.enum_AVCodecID(to))
	if both.ret < 0 {
		return nil, fmt.Errorf("converting %s to %s: %w", CodecName(p.CodecID()), CodecName(to), astiav.Error(both.ret))
	}
	TrackOpen()
	return &TextConverter{dec: both.dec, enc: both.enc}, nil
}

// Parameters makes p those of the converted stream.
func (c *TextConverter) Parameters(p *astiav.CodecParameters) error {
	if ret := C.avcodec_parameters_from_context((*C.AVCodecParameters)(raw(p)), c.enc); ret < 0 {
		return astiav.Error(ret)
	}
	return nil
}

// Convert replaces a packet's content and keeps its times. shown is false when it holds no text; it is left as it was then, and after
// an error.
func (c *TextConverter) Convert(p *astiav.Packet) (shown bool, err error) {
	n := C.upscaler_subtitle_convert(c.dec, c.enc, (*C.AVPacket)(raw(p)), maxSubtitle)
	if n < 0 {
		return false, astiav.Error(n)
	}
	return n > 0, nil
}

// Close frees the converter; nil is ignored. A second call does nothing.
func (c *TextConverter) Close() {
	if c != nil && c.dec != nil {
		C.upscaler_subtitle_free(c.dec, c.enc)
		c.dec, c.enc = nil, nil
		TrackClose()
	}
}
