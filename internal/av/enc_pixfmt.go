package av

//#include <libavcodec/avcodec.h>
import "C"

import (
	"fmt"

	"upscaler/internal/frame"

	"github.com/asticode/go-astiav"
)

// BestFormat returns the planar layout that an encoder takes and that keeps most of want, as FFmpeg ranks losses; exact tells
// whether it is want itself. Gray becomes 4:2:0 of the same depth where the encoder has no gray. The error says that the
// encoder takes nothing comparable.
func BestFormat(codec *astiav.Codec, want frame.Format) (best frame.Format, exact bool, err error) {
	taken := map[frame.Format]bool{}
	var list []C.enum_AVPixelFormat
	for _, p := range codec.PixelFormats() {
		f, ok := Layout(p)
		if !ok {
			continue
		}
		if back, _ := PixelFormatOf(f); back != p {
			continue // semi-planar or packed: it holds nothing that the planar format does not
		}
		taken[f] = true
		list = append(list, C.enum_AVPixelFormat(p))
	}
	if taken[want] {
		return want, true, nil
	}
	ask := want
	if want.Gray {
		ask = frame.Format{Depth: want.Depth, ChromaW: 1, ChromaH: 1, Alpha: want.Alpha}
	}
	if taken[ask] {
		return ask, false, nil
	}
	p, ok := PixelFormatOf(ask)
	if !ok || len(list) == 0 {
		return frame.Format{}, false, fmt.Errorf("the encoder %s takes no pixel format like %+v", codec.Name(), want)
	}
	alpha := C.int(0)
	if want.Alpha {
		alpha = 1
	}
	list = append(list, C.AV_PIX_FMT_NONE)
	best, ok = Layout(astiav.PixelFormat(C.avcodec_find_best_pix_fmt_of_list(&list[0], C.enum_AVPixelFormat(p), alpha, nil)))
	if !ok {
		return frame.Format{}, false, fmt.Errorf("the encoder %s takes no pixel format like %+v", codec.Name(), want)
	}
	return best, false, nil
}
