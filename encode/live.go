package encode

import (
	"fmt"
	"math"
	"time"

	"github.com/asticode/go-astiav"
)

// Live says how a running stream is encoded: without look-ahead and B-frames (unless the user's options say otherwise), and
// with every packet handed on at once.
type Live struct {
	// KeyFrameInterval is the time between key frames, where players can join. 0 leaves it to the encoder.
	KeyFrameInterval time.Duration
	// FragmentFrame makes every frame a fragment of an MP4 output of its own, instead of every group of pictures.
	FragmentFrame bool
	// Segment is the time after which the next key frame begins a new file, 0 for one file. The Output must be Files then, and the
	// container MPEG-TS.
	Segment time.Duration
}

// Files is an Output that takes several files one after the other.
type Files interface {
	Output
	// EndFile says that the bytes since the last call are a whole file, which lasts so long. The next one begins at offset 0.
	EndFile(duration time.Duration) error
}

// liveFirstFragment is the longest that the header of a live MP4 waits for packets of every track, in video time.
const liveFirstFragment = time.Second

// liveCluster is the length of a Matroska cluster of a live stream. A cluster reaches the reader when it is complete.
const liveCluster = "1" // milliseconds: every video frame begins one

// liveOptions are what makes the encoders answer each frame at once.
var liveOptions = map[Codec]map[string]string{
	CodecH264: {"tune": "zerolatency", "forced-idr": "1", "sc_threshold": "0"}, // key frames where they are due, not at cuts
	CodecHEVC: {"tune": "zerolatency", "forced-idr": "1", "x265-params": "bframes=0:rc-lookahead=0:frame-threads=1"},
	CodecVP9:  {"deadline": "realtime", "lag-in-frames": "0"},
	CodecAV1:  {"svtav1-params": "pred-struct=1:lookahead=0"},
}

// livePresets are those fast enough for a running stream where the default for files is not.
var livePresets = map[Codec]string{CodecH264: "superfast", CodecHEVC: "ultrafast", CodecVP9: "8", CodecAV1: "12"}

// settleLive completes the options of a live job. What the user has set stays.
func (e *encoder) settleLive(o Options, s *settings) {
	for key, value := range liveOptions[e.codec] {
		if key == e.tuneOption && o.Tune != "" {
			continue
		}
		if key == e.params && s.options[key] != "" {
			s.options[key] = value + ":" + s.options[key] // the last one counts
			continue
		}
		if _, user := o.EncoderOptions[key]; !user {
			s.options[key] = value
		}
	}
	if s.options["tune"] == "zerolatency" && e.tuneOption == "tune" {
		s.tune = "zerolatency"
	}
}

// keyFrames asks for key frames in time, not in frames: a live stream drops some.
type keyFrames struct {
	every int64 // in the video's time base; 0 for never
	next  int64
}

func newKeyFrames(l *Live, timeBase astiav.Rational) keyFrames {
	if l == nil || l.KeyFrameInterval <= 0 {
		return keyFrames{}
	}
	return keyFrames{every: max(1, astiav.RescaleQ(l.KeyFrameInterval.Microseconds(), microseconds, timeBase)), next: math.MinInt64}
}

// mark makes the picture a key frame when it is time for one.
func (k *keyFrames) mark(picture *astiav.Frame, pts int64) {
	if k.every == 0 {
		return
	}
	picture.SetPictureType(astiav.PictureTypeNone)
	if pts < k.next {
		return
	}
	picture.SetPictureType(astiav.PictureTypeI)
	k.next = pts + k.every
}

// muxOptions are the muxer's options for a live job.
func (l *Live) muxOptions(c Container, o map[string]string) {
	o["flush_packets"] = "1"
	switch c {
	case ContainerMatroska, ContainerWebM:
		o["live"], o["cluster_time_limit"] = "1", liveCluster
	case ContainerMPEGTS:
		o["pes_payload_size"] = "0" // else it collects sound until a packet is full
	}
}

// flushFrame tells the output that the frame just written is whole. Before, it ends the fragment of an MP4 output with it, when that
// is asked for. The muxer's own option for it would keep each frame until the next one has come.
func (x *mux) flushFrame() error {
	l := x.plan.live
	if l == nil {
		return nil
	}
	if out, ok := x.file.out.(Flusher); ok {
		defer out.Flush()
	}
	if !l.FragmentFrame || !x.isMP4() || x.fragment.open {
		return nil
	}
	if err := x.fc.WriteFrame(nil); err != nil && x.file.err == nil {
		return fmt.Errorf("writing a fragment of the %s file: %w", x.plan.container.label, err)
	}
	return x.file.err
}

// mayJump tells the MP4 muxer, where a fragment begins, that time may have jumped since the last one: it would take the next
// frame to follow the last one's duration, but frames are dropped from a live stream.
func (x *mux) mayJump(p *astiav.Packet) error {
	l := x.plan.live
	if l == nil || !x.isMP4() || x.fragment.open || !l.FragmentFrame && !p.Flags().Has(astiav.PacketFlagKey) {
		return nil
	}
	if err := x.fc.PrivateData().Options().Set("movflags", "+frag_discont", 0); err != nil {
		return fmt.Errorf("setting movflags: %w", err)
	}
	return nil
}

// complete tells whether a packet of every stream has been written, so that the header need not wait any longer.
func (x *mux) complete() bool {
	for i := range x.streams {
		if x.streams[i].lastDTS == math.MinInt64 {
			return false
		}
	}
	return true
}

// segments cuts the output of a live job, or a sequence of pictures, into files at key frames.
type segments struct {
	out    Files
	length int64 // microseconds
	open   bool
	start  int64 // time of the first video packet of the current file, in microseconds
	end    int64
}

// segment is called with each packet of the video before it is written.
func (x *mux) segment(p *astiav.Packet, at int64) error {
	s := x.segments
	if s == nil {
		return nil
	}
	if !s.open {
		s.open, s.start = true, at
	} else if p.Flags().Has(astiav.PacketFlagKey) && at-s.start >= s.length {
		if err := x.endSegment(at); err != nil {
			return err
		}
		s.start = at
		if x.plan.Container != ContainerMPEGTS {
			return nil
		}
		// A file of its own needs the tables that say what the streams are.
		if err := x.fc.PrivateData().Options().Set("mpegts_flags", "+resend_headers", 0); err != nil {
			return fmt.Errorf("setting mpegts_flags: %w", err)
		}
	}
	s.end = at + astiav.RescaleQ(p.Duration(), x.streams[x.video].from, microseconds)
	return nil
}

// endSegment completes the current file, which lasts until the time given.
func (x *mux) endSegment(until int64) error {
	if err := x.fc.WriteFrame(nil); err != nil && x.file.err == nil {
		return fmt.Errorf("completing a segment: %w", err)
	}
	x.io.Flush()
	if x.file.err != nil {
		return x.file.err
	}
	if err := x.segments.out.EndFile(time.Duration(until-x.segments.start) * time.Microsecond); err != nil {
		x.file.err = err
		return err
	}
	x.file.pos = 0
	return nil
}

// openSegments returns what cuts the output, nil for an output in one piece. A sequence of pictures has a file for each: every one
// is a key frame.
func openSegments(l *Live, c *container, out Output) (*segments, error) {
	if c.container == ContainerPNGSequence {
		files, ok := out.(Files)
		if !ok {
			return nil, fmt.Errorf("the output takes one file, not a sequence")
		}
		return &segments{out: files}, nil
	}
	if l == nil || l.Segment <= 0 {
		return nil, nil
	}
	if c.container != ContainerMPEGTS {
		return nil, &OptionError{Field: "live.segment", Text: fmt.Sprintf("%s cannot be cut into segments, MPEG-TS can.", c.label)}
	}
	files, ok := out.(Files)
	if !ok {
		return nil, fmt.Errorf("the output takes one file, not segments")
	}
	return &segments{out: files, length: l.Segment.Microseconds()}, nil
}
