package av

import (
	"math/rand/v2"
	"testing"

	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// TestTextConverterTakesAnything: packets and headers come from strangers. Whatever they hold, there is text or an error.
func TestTextConverterTakesAnything(t *testing.T) {
	before := LiveContexts()
	samples := map[astiav.CodecID]string{
		astiav.CodecIDSubrip:  "Hello <i>there</i> <font color=\"#ff0000\" size=9>you</font> {\\an8}\n- yes",
		astiav.CodecIDAss:     "0,0,Default,,0,0,0,,{\\b1\\pos(10,20)\\c&H0000FF&}Hello\\N{\\t(0,9,\\fs40)}there",
		astiav.CodecIDMovText: "\x00\x0bHello there\x00\x00\x00\x16styl\x00\x01\x00\x00\x00\x05\x00\x01\x02\x12\xff\x00\x00\xff\x00\x00\x00\x0chlit\x00\x01\x00\x04",
		astiav.CodecIDWebvtt:  "<v Bob>Hello</v> <c.red>there</c> &amp; <00:00:01.000>you",
	}
	header := "[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\nFormat: Name, Fontname\nStyle: Default,Arial\n[Events]\nFormat: Layer, Text\n"
	r := rand.New(rand.NewPCG(1, 1))
	spoil := func(text string) []byte {
		b := []byte(text)
		for range r.IntN(4) {
			switch at := r.IntN(len(b) + 1); r.IntN(4) {
			case 0:
				b = b[:at]
			case 1:
				b = append(b[:at:at], append([]byte{byte(r.Uint32()), byte(r.Uint32())}, b[at:]...)...)
			case 2:
				b = append(b, b[:at]...)
			default:
				if at < len(b) {
					b[at] = byte(r.Uint32())
				}
			}
		}
		return b
	}
	shown := 0
	for from, sample := range samples {
		for _, to := range []astiav.CodecID{astiav.CodecIDSubrip, astiav.CodecIDMovText, astiav.CodecIDWebvtt} {
			for range 40 {
				p := astiav.AllocCodecParameters()
				p.SetMediaType(astiav.MediaTypeSubtitle)
				p.SetCodecID(from)
				extra := spoil(header)
				if from == astiav.CodecIDMovText {
					extra = spoil("\x00\x00\x00\x00\x01\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x12\xff\xff\xff\xff\x00\x00\x00\x12ftab\x00\x01\x00\x01\x05Serif")
				}
				if len(extra) > 0 {
					if err := p.SetExtraData(extra); err != nil {
						t.Fatal(err)
					}
				}
				c, err := NewTextConverter(p, media.Rational{Num: 1, Den: 1000}, to)
				p.Free()
				if err != nil {
					continue
				}
				for range 20 {
					packet := AllocPacket()
					if err := packet.FromData(append(spoil(sample), 0)); err != nil {
						t.Fatal(err)
					}
					packet.SetPts(1000)
					packet.SetDuration(500)
					if ok, err := c.Convert(packet); ok && err == nil {
						shown++
						if packet.Size() == 0 || packet.Pts() != 1000 || packet.Duration() != 500 {
							t.Errorf("a packet of %d bytes at %d for %d", packet.Size(), packet.Pts(), packet.Duration())
						}
					}
					FreePacket(packet)
				}
				c.Close()
			}
		}
	}
	if shown < 1000 {
		t.Errorf("only %d packets had text", shown)
	}
	if n := LiveContexts(); n != before {
		t.Errorf("%d contexts are open, %d before", n, before)
	}
}
