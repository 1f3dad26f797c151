package encode

import (
	"fmt"

	"github.com/asticode/go-astiav"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"
)

// tellAAC completes the parameters of an AAC stream from MPEG-TS, where each packet says what others say once at the beginning
// (ISO/IEC 14496-3, AudioSpecificConfig). Matroska's muxer takes it from the first packet, but only where it can go back and
// write it into the header. A stream of another kind, or of more than AAC's usual channels, stays as it is.
func tellAAC(p *astiav.CodecParameters) error {
	if p.CodecID() != astiav.CodecIDAac || len(p.ExtraData()) > 0 {
		return nil
	}
	c := mpeg4audio.AudioSpecificConfig{
		Type: mpeg4audio.ObjectTypeAACLC, SampleRate: p.SampleRate(), ChannelCount: p.ChannelLayout().Channels(),
	}
	switch p.Profile() {
	case astiav.ProfileAacLow:
	case astiav.ProfileAacHe: // the decoder's rate is twice the packets'; players find that out by themselves
		c.SampleRate /= 2
	default:
		return nil
	}
	config, err := c.Marshal()
	if err != nil {
		return nil //nolint:nilerr // more channels than it knows: the muxer refuses the stream, and a notice says so
	}
	if err := p.SetExtraData(config); err != nil {
		return fmt.Errorf("no memory for the header of an AAC stream: %w", err)
	}
	return nil
}
