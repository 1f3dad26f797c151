package av

/*
#include <string.h>
#include <libavcodec/avcodec.h>
#include <libavutil/dovi_meta.h>
#include <libavutil/hdr_dynamic_metadata.h>

static int upscaler_hdr10plus_message(const void *sd, uint8_t *data, size_t size)
{
    int ret = av_dynamic_hdr_plus_to_t35(sd, &data, &size);
    return ret < 0 ? ret : (int)size;
}

static int upscaler_insert(AVPacket *p, int at, const void *data, int size)
{
    int end = p->size, ret = av_grow_packet(p, size);
    if (ret < 0)
        return ret;
    memmove(p->data + at + size, p->data + at, end - at);
    memcpy(p->data + at, data, size);
    return 0;
}

static const AVDOVIRpuDataHeader *upscaler_dovi_header(const void *sd) { return av_dovi_get_header(sd); }
*/
import "C"

import (
	"bytes"
	"errors"
	"unsafe"

	"upscaler/internal/frame"

	"github.com/asticode/go-astiav"
)

// hdr10PlusHeader begins every HDR10+ message: country, provider, the provider's code, application (SMPTE ST 2094-40, annex B).
const hdr10PlusHeader = "\xb5\x00\x3c\x00\x01\x04"

// HDR10PlusMessage returns a frame's HDR10+ metadata as an ITU-T T.35 message. ok is false for metadata that names parts of the picture:
// they are counted in pixels, and the picture is larger now.
func HDR10PlusMessage(sd frame.SideData) (message []byte, ok bool) {
	if sd.Type != SideDataHDR10Plus || len(sd.Data) < C.sizeof_AVDynamicHDRPlus {
		return nil, false
	}
	h := (*C.AVDynamicHDRPlus)(unsafe.Pointer(unsafe.SliceData(sd.Data)))
	if h.num_windows != 1 {
		return nil, false
	}
	message = make([]byte, len(hdr10PlusHeader)+C.AV_HDR_PLUS_MAX_PAYLOAD_SIZE)
	rest := message[copy(message, hdr10PlusHeader):]
	n := C.upscaler_hdr10plus_message(unsafe.Pointer(h), (*C.uint8_t)(unsafe.SliceData(rest)), C.size_t(len(rest)))
	if n <= 0 {
		return nil, false
	}
	return message[:len(hdr10PlusHeader)+int(n)], true
}

// AddMessage puts an ITU-T T.35 message before the picture in a packet that an encoder of HEVC has just made.
func AddMessage(p *astiav.Packet, message []byte) error {
	c := (*C.AVPacket)(raw(p))
	at, unit := messageUnit(unsafe.Slice((*byte)(c.data), int(c.size)), message)
	if at < 0 {
		return errors.New("no picture in the encoder's packet")
	}
	if ret := C.upscaler_insert(c, C.int(at), unsafe.Pointer(&unit[0]), C.int(len(unit))); ret < 0 {
		return astiav.Error(ret)
	}
	return nil
}

// messageUnit returns a message as an SEI NAL unit (ITU-T H.265, 7.3.2.4, D.2.1) and its place: before the first slice.
func messageUnit(packet, message []byte) (at int, unit []byte) {
	const firstOther, prefixSEI, userDataT35 = 32, 39, 4 // types of NAL units: those below are slices
	for at = 0; at+5 < len(packet); at++ {
		if !bytes.HasPrefix(packet[at:], []byte{0, 0, 1}) || packet[at+3]>>1&0x3f >= firstOther {
			continue
		}
		body := []byte{userDataT35}
		n := len(message)
		for ; n >= 255; n -= 255 {
			body = append(body, 255)
		}
		body = append(append(append(body, byte(n)), message...), 0x80)
		unit = append(unit, 0, 0, 1, prefixSEI<<1|packet[at+3]&1, packet[at+4]) // the slice's layers
		zeros := 0
		for _, b := range body { // nothing within may look like a start code
			if zeros >= 2 && b <= 3 {
				unit, zeros = append(unit, 3), 0
			}
			unit = append(unit, b)
			if zeros++; b != 0 {
				zeros = 0
			}
		}
		if at > 0 && packet[at-1] == 0 {
			at-- // the start code has four bytes
		}
		return at, unit
	}
	return -1, nil
}

// DolbyVision is what a video says of its Dolby Vision.
type DolbyVision struct {
	Profile int // 0 when only its frames tell, and not clearly
	// Alone says that the picture without Dolby Vision's metadata has other colours than its headers say: it was made for no other
	// player.
	Alone bool
}

// FindDolbyVision looks for Dolby Vision in codec parameters and in a frame's side data.
func FindDolbyVision(p *astiav.CodecParameters, first []frame.SideData) (d DolbyVision, ok bool) {
	c := (*C.AVCodecParameters)(raw(p))
	if sd := C.av_packet_side_data_get(c.coded_side_data, c.nb_coded_side_data, C.AV_PKT_DATA_DOVI_CONF); sd != nil &&
		sd.size >= C.sizeof_AVDOVIDecoderConfigurationRecord {
		r := (*C.AVDOVIDecoderConfigurationRecord)(unsafe.Pointer(sd.data))
		d.Profile = int(r.dv_profile)
		switch d.Profile {
		case 4, 7: // two layers; the lower one is SDR or HDR10 whatever this field says
		default:
			d.Alone = r.dv_bl_signal_compatibility_id == 0
		}
		return d, true
	}
	for _, sd := range first {
		switch {
		case sd.Type == SideDataDolbyVisionRPU:
			ok = true
		case sd.Type == SideDataDolbyVision && len(sd.Data) >= C.sizeof_AVDOVIMetadata:
			ok = true
			// As FFmpeg tells profile 5 from the others.
			h := C.upscaler_dovi_header(unsafe.Pointer(unsafe.SliceData(sd.Data)))
			if h.vdr_rpu_profile == 0 && h.bl_video_full_range_flag != 0 {
				d = DolbyVision{Profile: 5, Alone: true}
			}
		}
	}
	return d, ok
}
