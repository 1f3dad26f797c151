#ifndef UPSCALER_AV_INPUT_H
#define UPSCALER_AV_INPUT_H

#include <libavformat/avformat.h>
#include <stdint.h>

// Returns an AVIOContext that calls goInputRead and goInputSeek with the handle; NULL when out of memory.
AVIOContext *input_alloc(uintptr_t handle, int buffer_size, int seekable);
void input_free(AVIOContext *c);
// Makes fc read from c, and fail to open anything else.
void input_attach(AVFormatContext *fc, AVIOContext *c);
// avformat_find_stream_info with max_pixels for every stream known so far.
int input_find_stream_info(AVFormatContext *fc, int64_t max_pixels);

#endif
