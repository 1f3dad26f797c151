#include "picture.h"

#include <libavutil/imgutils.h>
#include <libavutil/intreadwrite.h>
#include <libavutil/pixdesc.h>

int picture_layout(int format, PictureLayout *layout)
{
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(format);
    if (!d)
        return 0;
    *layout = (PictureLayout){
        .components = d->nb_components, .depth = d->comp[0].depth, .uniform_depth = 1,
        .chroma_w = d->log2_chroma_w, .chroma_h = d->log2_chroma_h,
        .alpha = !!(d->flags & AV_PIX_FMT_FLAG_ALPHA), .rgb = !!(d->flags & AV_PIX_FMT_FLAG_RGB),
        .palette = !!(d->flags & AV_PIX_FMT_FLAG_PAL), .is_float = !!(d->flags & AV_PIX_FMT_FLAG_FLOAT),
        .xyz = !!(d->flags & AV_PIX_FMT_FLAG_XYZ),
    };
    for (int i = 1; i < d->nb_components; i++)
        if (d->comp[i].depth != d->comp[0].depth)
            layout->uniform_depth = 0;
    layout->plain = !(d->flags & (AV_PIX_FMT_FLAG_PAL | AV_PIX_FMT_FLAG_BITSTREAM | AV_PIX_FMT_FLAG_HWACCEL |
                                  AV_PIX_FMT_FLAG_BAYER | AV_PIX_FMT_FLAG_FLOAT));
    return 1;
}

// Takes one component out of a row where its samples lie apart, shifted, or in the other byte order.
static void unpack_row(uint8_t *dst, const uint8_t *src, int w, int out16, int in16, int be, int step, int shift, unsigned mask)
{
    if (!out16) { // 8 bits and not shifted: NV12's chroma, packed YUV
        if (in16)
            for (int x = 0; x < w; x++)
                dst[x] = ((be ? AV_RB16(src + x * step) : AV_RL16(src + x * step)) >> shift) & mask;
        else
            for (int x = 0; x < w; x++)
                dst[x] = (src[x * step] >> shift) & mask;
        return;
    }
    uint16_t *d = (uint16_t *)dst;
    if (be)
        for (int x = 0; x < w; x++)
            d[x] = (AV_RB16(src + x * step) >> shift) & mask;
    else
        for (int x = 0; x < w; x++)
            d[x] = (AV_RL16(src + x * step) >> shift) & mask;
}

void picture_copy(const AVFrame *f, uint8_t *d0, uint8_t *d1, uint8_t *d2, uint8_t *d3, int s0, int s1, int s2, int s3)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(f->format);
    uint8_t *dst[4] = { d0, d1, d2, d3 };
    const int stride[4] = { s0, s1, s2, s3 };
    const int be = !!(desc->flags & AV_PIX_FMT_FLAG_BE);

    for (int i = 0; i < desc->nb_components; i++) {
        const AVComponentDescriptor c = desc->comp[i];
        const int chroma = i == 1 || i == 2;
        const int w = chroma ? AV_CEIL_RSHIFT(f->width, desc->log2_chroma_w) : f->width;
        const int h = chroma ? AV_CEIL_RSHIFT(f->height, desc->log2_chroma_h) : f->height;
        const int out16 = c.depth > 8, in16 = c.shift + c.depth > 8;
        const uint8_t *src = f->data[c.plane] + c.offset;

        if (c.step == 1 + out16 && !c.shift && !(be && in16)) {
            av_image_copy_plane(dst[i], stride[i], src, f->linesize[c.plane], w * (1 + out16), h);
            continue;
        }
        for (int y = 0; y < h; y++)
            unpack_row(dst[i] + (ptrdiff_t)y * stride[i], src + (ptrdiff_t)y * f->linesize[c.plane], w, out16, in16, be, c.step,
                       c.shift, (1u << c.depth) - 1);
    }
}

int picture_scale(struct SwsContext *c, const AVFrame *f, uint8_t *d0, uint8_t *d1, uint8_t *d2, uint8_t *d3,
                  int s0, int s1, int s2, int s3)
{
    uint8_t *const dst[4] = { d0, d1, d2, d3 };
    const int stride[4] = { s0, s1, s2, s3 };
    int ret = sws_scale(c, (const uint8_t *const *)f->data, f->linesize, 0, f->height, dst, stride);
    return ret < 0 ? ret : 0;
}

struct SwsContext *picture_scaler(int src_w, int src_h, int src_format, int src_space, int src_full,
                                  int dst_w, int dst_h, int dst_format, int dst_space, int dst_full, int flags)
{
    struct SwsContext *c = sws_getContext(src_w, src_h, src_format, dst_w, dst_h, dst_format, flags, NULL, NULL, NULL);
    if (c) // has no effect between formats that know no matrix or range, and says so by an error that is none
        sws_setColorspaceDetails(c, sws_getCoefficients(src_space), src_full, sws_getCoefficients(dst_space), dst_full,
                                 0, 1 << 16, 1 << 16);
    return c;
}

AVFrame *picture_expand_palette(const AVFrame *f)
{
    AVFrame *rgb = av_frame_alloc();
    if (!rgb)
        return NULL;
    rgb->width = f->width, rgb->height = f->height, rgb->format = AV_PIX_FMT_RGB32;
    if (av_frame_get_buffer(rgb, 0) < 0) {
        av_frame_free(&rgb);
        return NULL;
    }
    for (int y = 0; y < f->height; y++) {
        const uint8_t *src = f->data[0] + (ptrdiff_t)y * f->linesize[0];
        uint8_t *dst = rgb->data[0] + (ptrdiff_t)y * rgb->linesize[0];
        for (int x = 0; x < f->width; x++)
            AV_COPY32(dst + 4 * x, f->data[1] + 4 * src[x]);
    }
    return rgb;
}

void picture_free(AVFrame *f) { av_frame_free(&f); }

int picture_has_transparency(const AVFrame *f)
{
    const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get(f->format);
    if (!desc || !(desc->flags & AV_PIX_FMT_FLAG_ALPHA))
        return 0;
    if (desc->flags & AV_PIX_FMT_FLAG_PAL) {
        for (int y = 0; y < f->height; y++) // palettes often have a transparent entry that no pixel uses
            for (int x = 0; x < f->width; x++)
                if (AV_RN32(f->data[1] + 4 * f->data[0][(ptrdiff_t)y * f->linesize[0] + x]) >> 24 != 0xff)
                    return 1;
        return 0;
    }
    const AVComponentDescriptor c = desc->comp[desc->nb_components - 1];
    if (desc->flags & (AV_PIX_FMT_FLAG_BITSTREAM | AV_PIX_FMT_FLAG_FLOAT | AV_PIX_FMT_FLAG_HWACCEL))
        return 1;
    const unsigned opaque = (1u << c.depth) - 1;
    for (int y = 0; y < f->height; y++) {
        const uint8_t *src = f->data[c.plane] + (ptrdiff_t)y * f->linesize[c.plane] + c.offset;
        for (int x = 0; x < f->width; x++, src += c.step) {
            unsigned v = c.shift + c.depth <= 8 ? *src : desc->flags & AV_PIX_FMT_FLAG_BE ? AV_RB16(src) : AV_RL16(src);
            if (((v >> c.shift) & opaque) != opaque)
                return 1;
        }
    }
    return 0;
}

void picture_set_packet_time_base(AVCodecContext *c, int num, int den) { c->pkt_timebase = (AVRational){ num, den }; }

void picture_set_crop(AVFrame *f, unsigned left, unsigned top, unsigned right, unsigned bottom)
{
    f->crop_left = left, f->crop_top = top, f->crop_right = right, f->crop_bottom = bottom;
}
