#include "input.h"
#include "_cgo_export.h"

static int input_read(void *opaque, uint8_t *buf, int size) { return goInputRead((uintptr_t)opaque, buf, size); }

static int64_t input_seek(void *opaque, int64_t offset, int whence) { return goInputSeek((uintptr_t)opaque, offset, whence); }

AVIOContext *input_alloc(uintptr_t handle, int buffer_size, int seekable)
{
    uint8_t *buf = av_malloc(buffer_size);
    if (!buf)
        return NULL;
    AVIOContext *c = avio_alloc_context(buf, buffer_size, 0, (void *)handle, input_read, NULL, seekable ? input_seek : NULL);
    if (!c)
        av_free(buf);
    return c;
}

void input_free(AVIOContext *c)
{
    av_freep(&c->buffer); // avio may have replaced the buffer, so it is freed where it is now
    avio_context_free(&c);
}

static int refuse_open(AVFormatContext *s, AVIOContext **pb, const char *url, int flags, AVDictionary **options)
{
    *pb = NULL;
    return AVERROR(EPERM);
}

void input_attach(AVFormatContext *fc, AVIOContext *c)
{
    fc->pb = c;
    fc->flags |= AVFMT_FLAG_CUSTOM_IO;
    fc->io_open = refuse_open;
}

int input_find_stream_info(AVFormatContext *fc, int64_t max_pixels)
{
    unsigned n = fc->nb_streams; // FFmpeg uses as many dictionaries as there are streams now, though it may find more
    AVDictionary **options = n ? av_calloc(n, sizeof(*options)) : NULL;
    int ret = n && !options ? AVERROR(ENOMEM) : 0;
    for (unsigned i = 0; i < n && ret >= 0; i++)
        ret = av_dict_set_int(&options[i], "max_pixels", max_pixels, 0);
    if (ret >= 0)
        ret = avformat_find_stream_info(fc, options);
    for (unsigned i = 0; i < n && options; i++)
        av_dict_free(&options[i]);
    av_free(options);
    return ret;
}
