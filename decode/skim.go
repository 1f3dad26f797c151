package decode

import (
	"upscaler/internal/av"

	"github.com/asticode/go-astiav"
)

// skim holds packets of the video before a part instead of decoding them, and lets go of those that the part cannot be built
// upon: groups of pictures before the last two that begin before the part. The last one alone would do where a key frame
// always stands for itself; H.264 also marks those from which it only recovers in time, within a group of pictures.
type skim struct {
	held    []*astiav.Packet
	groups  []int // where each group of pictures in held begins; the first packets may belong to none
	bytes   int
	dropped bool // packets were let go of, so the decoder has to begin anew
	over    bool // what is held, and all that follows, goes to the decoder
}

// maxHeld is the most bytes of packets held back. Where two groups of pictures take more, all is decoded from there on, as all
// was that cannot be skimmed. Before the part nothing else is held.
const maxHeld = 32 << 20

// skims tells whether a packet of the video is held back for now, and if so takes it over. Times are those of the part.
func (s *Source) skims(p *astiav.Packet) (bool, error) {
	c := s.cut
	if c == nil || !c.known || c.skim.over {
		return false, nil
	}
	k := &c.skim
	at := p.Pts()
	if at == av.NoTimestamp || at*s.video.unit >= c.from || c.begun || k.bytes+p.Size() > maxHeld || s.opts.Deinterlace == DeinterlaceFilm {
		k.over = true // this packet follows upon those held
		return false, nil
	}
	if p.Flags().Has(astiav.PacketFlagKey) {
		if k.groups = append(k.groups, len(k.held)); len(k.groups) > 2 {
			k.drop(k.groups[1])
		}
	}
	own := av.AllocPacket()
	if own == nil {
		return false, errNoMemory
	}
	k.bytes += p.Size()
	own.MoveRef(p)
	k.held = append(k.held, own)
	return true, nil
}

// drop lets go of the first n packets.
func (k *skim) drop(n int) {
	for _, p := range k.held[:n] {
		k.bytes -= p.Size()
		av.FreePacket(p)
	}
	k.held = append(k.held[:0], k.held[n:]...)
	k.groups = k.groups[1:]
	for i := range k.groups {
		k.groups[i] -= n
	}
	k.dropped = true
}

// next returns the next packet for the decoder, which the caller frees, nil when there is none or it is not yet time.
func (k *skim) next() *astiav.Packet {
	if !k.over || len(k.held) == 0 {
		return nil
	}
	p := k.held[0]
	k.held = k.held[1:]
	return p
}

func (k *skim) free() {
	for _, p := range k.held {
		av.FreePacket(p)
	}
	k.held = nil
}
