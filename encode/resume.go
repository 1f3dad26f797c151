package encode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// Kept is the encoded video of an interrupted output, as far as it can be used. The next picture becomes a key frame.
type Kept interface {
	Frames() int
	Header() []byte           // of the codec (extradata), as the container stores it
	Delay() int               // by how many pictures decoding runs ahead of presentation
	TimeBase() media.Rational // of the packets, in seconds
	// Next returns the packets in decoding order, then io.EOF. The caller frees them.
	Next(ctx context.Context) (*av.Packet, error)
}

// ResumeError says that an interrupted output and this job do not fit together. Text is one sentence for people.
type ResumeError struct{ Text string }

func (e *ResumeError) Error() string { return e.Text }

func resumeError(format string, args ...any) error {
	return &ResumeError{Text: fmt.Sprintf(format, args...)}
}

// maxReorder is how many pictures decoding may run ahead of presentation in any codec: H.264 and HEVC allow 16.
const maxReorder = 16

// kept writes the packets of an interrupted output, one for each frame of the input, and holds their times against those of
// the frames.
type kept struct {
	from       Kept
	total      int
	left       int  // of total, not yet written
	startCodes bool // packets have to be given the form that the encoder's have

	shift int64 // subtracted from the packets' times

	// Times of frames without their packet yet, and of packets without their frame, in the muxer's time base.
	frames, packets map[int64]bool
	times           []int64 // of the last frames, at most one more than the delay, the latest last
}

// newKept checks that what the opened encoder will write can follow upon k.
func newKept(k Kept, plan *Layout, codec *astiav.CodecContext) (*kept, error) {
	r := &kept{from: k, total: k.Frames(), left: k.Frames(), frames: map[int64]bool{}, packets: map[int64]bool{}}
	if r.left == 0 {
		return r, nil
	}
	fresh := codec.ExtraData()
	same := true
	switch plan.Codec {
	case CodecH264, CodecHEVC:
		old, lengths, ok := av.ParameterSets(k.Header(), plan.Codec == CodecHEVC)
		r.startCodes = lengths && ok
		if len(fresh) > 0 { // else they are in the stream, before each key frame
			sets, _, _ := av.ParameterSets(fresh, plan.Codec == CodecHEVC)
			same = ok && slices.EqualFunc(old, sets, bytes.Equal)
		}
	case CodecAV1: // containers put four bytes before the encoder's header
		same = bytes.HasSuffix(k.Header(), fresh)
	case CodecFFV1:
		same = bytes.Equal(k.Header(), fresh)
	}
	if !same {
		return nil, resumeError("The %s encoder's header is not that of the interrupted output: it was made with other settings, or by another version.",
			plan.encoder.label)
	}
	return r, nil
}

// writeKept writes the next packet of an interrupted output in place of a frame at pts, in the input's time base.
func (x *mux) writeKept(ctx context.Context, k *kept, pts int64) error {
	if err := x.begin(); err != nil {
		return err
	}
	s := &x.streams[x.video]
	first := k.times == nil
	if first {
		x.joined = true
		if av.Rational(s.to) != k.from.TimeBase() {
			return resumeError("The interrupted output counts its times in another unit than this one would.")
		}
	}
	packet, err := k.from.Next(ctx)
	if errors.Is(err, io.EOF) {
		return resumeError("The interrupted output ends before it should.")
	}
	if err != nil {
		return err
	}
	defer packet.Free()
	k.left--
	p := packet.Raw()
	at := astiav.RescaleQ(pts-s.shift, s.from, s.to)
	if first && x.plan.Container == ContainerMPEGTS {
		k.shift = p.Pts() - at // its muxer has moved all so that no decoding time is below zero, and will again
	}
	p.SetPts(p.Pts() - k.shift)
	if p.Dts() != av.NoTimestamp {
		p.SetDts(p.Dts() - k.shift)
	}
	if k.match(at, p.Pts()); len(k.frames) > maxReorder || k.left == 0 && len(k.frames) > 0 {
		return resumeError("The pictures of the interrupted output are not at the times of the input's: it is of another input, or was cut otherwise.")
	}
	if k.startCodes {
		if err := av.StartCodes(p); err != nil {
			return resumeError("The interrupted output is damaged at its picture at %.3f s.", k.from.TimeBase().Seconds(p.Pts()))
		}
	}
	if p.Dts() == av.NoTimestamp || x.plan.Container == ContainerMatroska || x.plan.Container == ContainerWebM {
		p.SetDts(k.decodingTime()) // Matroska does not store it, and the demuxer's guess lacks the first ones
	}
	if err := x.writeQueued(astiav.RescaleQ(p.Dts(), s.to, microseconds) + astiav.RescaleQ(s.shift, s.from, microseconds)); err != nil {
		return err
	}
	p.SetStreamIndex(x.video)
	if err := x.put(s, p); err != nil {
		if x.file.err != nil {
			return err
		}
		return resumeError("A picture of the interrupted output cannot be used again: %v.", err)
	}
	return x.boundFirstFragment(astiav.RescaleQ(p.Dts(), s.to, microseconds))
}

// match notes the times of a frame and of a packet; those that have met are forgotten.
func (k *kept) match(frame, packet int64) {
	k.times = append(k.times, frame)
	if len(k.times) > k.from.Delay()+1 {
		k.times = k.times[1:]
	}
	for _, m := range []struct {
		at          int64
		mine, other map[int64]bool
	}{{frame, k.frames, k.packets}, {packet, k.packets, k.frames}} {
		if m.other[m.at] {
			delete(m.other, m.at)
		} else {
			m.mine[m.at] = true
		}
	}
}

// decodingTime returns when the packet that came with the last frame is to be decoded: at the time of the frame shown delay frames before.
// No packet is shown before that.
func (k *kept) decodingTime() int64 {
	return k.times[0] - int64(k.from.Delay()+1-len(k.times))
}

// Kept returns how many frames are to be given to WriteKept before the first to WriteFrame.
func (s *Sink) Kept() int { return s.kept.total }

// WriteKept puts the next picture of the interrupted output in the place of f, which is only looked at for its time. An output that does
// not fit is a *ResumeError.
func (s *Sink) WriteKept(ctx context.Context, f *frame.Frame) error {
	return s.work(ctx, func() error {
		if err := s.mux.writeKept(ctx, s.kept, f.PTS); err != nil {
			return err
		}
		s.video.frames.Add(1)
		s.video.packets.Add(1)
		s.video.position.Store(f.PTS)
		return nil
	})
}
