package av

//#cgo pkg-config: libavutil
//#include <libavutil/avutil.h>
import "C"

// FFmpegVersion returns the version of the FFmpeg that is linked in, such as 7.1.5.
func FFmpegVersion() string { return C.GoString(C.av_version_info()) }
