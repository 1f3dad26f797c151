package av

/*
#include <string.h>
#include <libavcodec/avcodec.h>
#include <libavutil/intreadwrite.h>

// Replaces the length of four bytes before each NAL unit by a start code, which is as long.
static int upscaler_start_codes(AVPacket *p)
{
    int ret = av_packet_make_writable(p);
    if (ret < 0)
        return ret;
    for (int64_t at = 0; at < p->size;) {
        if (p->size - at < 4)
            return AVERROR_INVALIDDATA;
        uint32_t n = AV_RB32(p->data + at);
        if (n > p->size - at - 4)
            return AVERROR_INVALIDDATA;
        AV_WB32(p->data + at, 1);
        at += 4 + (int64_t)n;
    }
    return 0;
}
*/
import "C"

import (
	"bytes"
	"encoding/binary"

	"github.com/asticode/go-astiav"
)

// StartCodes turns a packet of H.264 or HEVC as MP4 and Matroska store it, each NAL unit behind its length in four bytes, into
// the form that encoders give out, each behind a start code.
func StartCodes(p *astiav.Packet) error {
	if ret := C.upscaler_start_codes((*C.AVPacket)(raw(p))); ret < 0 {
		return astiav.Error(ret)
	}
	return nil
}

// ParameterSets returns the parameter sets (VPS, SPS, PPS) that a codec header of H.264 or HEVC holds, in their order, whichever
// of the two forms it has; lengths tells that packets hold lengths of four bytes in place of start codes. ok is false for
// what is neither, and for lengths of another size. The results alias header.
func ParameterSets(header []byte, hevc bool) (sets [][]byte, lengths, ok bool) {
	if len(header) > 3 && header[0] == 0 {
		return startCoded(header, hevc), false, true
	}
	if hevc {
		sets, ok = hevcSets(header)
	} else {
		sets, ok = avcSets(header)
	}
	return sets, true, ok
}

func startCoded(header []byte, hevc bool) (sets [][]byte) {
	for unit := range bytes.SplitSeq(header, []byte{0, 0, 1}) {
		unit = bytes.TrimRight(unit, "\x00") // a NAL unit never ends with a zero
		if len(unit) > 0 && isParameterSet(unit[0], hevc) {
			sets = append(sets, unit)
		}
	}
	return sets
}

func isParameterSet(first byte, hevc bool) bool {
	if hevc {
		kind := first >> 1 & 0x3f
		return kind >= 32 && kind <= 34
	}
	kind := first & 0x1f
	return kind == 7 || kind == 8
}

// avcSets reads an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1).
func avcSets(b []byte) (sets [][]byte, ok bool) {
	if len(b) < 6 || b[0] != 1 || b[4]&3 != 3 {
		return nil, false
	}
	count, b := int(b[5]&0x1f), b[6:] // of the SPS; that of the PPS follows them
	for range 2 {
		if sets, b, ok = units(sets, b, count); !ok {
			return nil, false
		}
		if len(b) > 0 {
			count, b = int(b[0]), b[1:]
		}
	}
	return sets, true
}

// hevcSets reads an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 8.3.3.1).
func hevcSets(b []byte) (sets [][]byte, ok bool) {
	const arrays = 22
	if len(b) <= arrays || b[0] != 1 || b[21]&3 != 3 {
		return nil, false
	}
	count, b := int(b[arrays]), b[arrays+1:]
	for range count {
		if len(b) < 3 {
			return nil, false
		}
		kind, n := b[0]&0x3f, int(binary.BigEndian.Uint16(b[1:]))
		var array [][]byte
		if array, b, ok = units(nil, b[3:], n); !ok {
			return nil, false
		}
		if isParameterSet(kind<<1, true) {
			sets = append(sets, array...)
		}
	}
	return sets, true
}

// units takes n NAL units, each behind its length in two bytes, from b.
func units(sets [][]byte, b []byte, n int) ([][]byte, []byte, bool) {
	for range n {
		if len(b) < 2 {
			return nil, nil, false
		}
		size := int(binary.BigEndian.Uint16(b))
		if size > len(b)-2 {
			return nil, nil, false
		}
		sets, b = append(sets, b[2:2+size]), b[2+size:]
	}
	return sets, b, true
}
