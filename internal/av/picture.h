#ifndef UPSCALER_AV_PICTURE_H
#define UPSCALER_AV_PICTURE_H

#include <libavcodec/avcodec.h>
#include <libavutil/frame.h>
#include <libswscale/swscale.h>

// How a pixel format lays out its samples.
typedef struct PictureLayout {
    int components, depth;  // depth is that of the first component
    int uniform_depth;      // all components have it
    int chroma_w, chroma_h; // log2 of the subsampling
    int alpha, rgb, palette, is_float, xyz;
    int plain;              // samples can be taken out one by one: no palette, bit stream, mosaic, float or hardware surface
} PictureLayout;

// Returns 0 when there is no such pixel format.
int picture_layout(int format, PictureLayout *layout);

// Copies the frame's components into planes of 1 (depth 8) or 2 bytes a sample. Strides in bytes. The frame's format is plain.
void picture_copy(const AVFrame *f, uint8_t *d0, uint8_t *d1, uint8_t *d2, uint8_t *d3, int s0, int s1, int s2, int s3);

// Converts the frame into planes; returns 0 or an AVERROR.
int picture_scale(struct SwsContext *c, const AVFrame *f, uint8_t *d0, uint8_t *d1, uint8_t *d2, uint8_t *d3,
                  int s0, int s1, int s2, int s3);
// Returns a scaler between two sizes, formats, matrices and ranges (full: 1), or NULL.
struct SwsContext *picture_scaler(int src_w, int src_h, int src_format, int src_space, int src_full,
                                  int dst_w, int dst_h, int dst_format, int dst_space, int dst_full, int flags);
// Returns a copy of a frame with a palette as RGB with alpha, or NULL. FFmpeg's scaler itself takes palettes by BT.601 whatever
// matrix it is told.
AVFrame *picture_expand_palette(const AVFrame *f);
void picture_free(AVFrame *f);
// Returns 1 when the frame has alpha that is not opaque everywhere. Formats it cannot read count as transparent.
int picture_has_transparency(const AVFrame *f);

void picture_set_packet_time_base(AVCodecContext *c, int num, int den);
void picture_set_crop(AVFrame *f, unsigned left, unsigned top, unsigned right, unsigned bottom);

#endif
