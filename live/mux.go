package live

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/bluenviron/gortsplib/v5/pkg/format"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/ac3"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h265"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts"
)

const (
	// clock is the time base of MPEG-TS: 90 kHz, in 33 bits.
	clock     = 90000
	clockMask = 1<<33 - 1
	// muxStart is the time that a source's zero becomes, so that the DTS of the first frames, which lie before their PTS, and
	// the clock reference, which lies before those, are not negative.
	muxStart = 10 * clock
	// noDTS says that a protocol does not tell the DTS.
	noDTS = -1 << 62
)

// muxer writes the tracks of a source into an MPEG-TS. Its write may be called from several goroutines.
type muxer struct {
	ctx context.Context
	c   *conn

	mu     sync.Mutex
	out    bytes.Buffer
	w      *mpegts.Writer
	flush  pesFlusher
	tracks map[format.Format]*muxTrack
}

type muxTrack struct {
	ts      *mpegts.Track
	rate    int64 // samples a second, for codecs with several frames in one unit
	params  [][]byte
	dts     dtsExtractor // nil until the first key frame
	guessed bool         // the user was told that DTS are not known
	broken  bool         // the user was told that the track is left out
}

type dtsExtractor interface {
	Extract(au [][]byte, pts int64) (int64, error)
}

// newMuxer takes the formats that an MPEG-TS can hold and tells the user which ones it cannot.
func newMuxer(ctx context.Context, c *conn, formats []format.Format) (*muxer, error) {
	m := &muxer{ctx: ctx, c: c, tracks: map[format.Format]*muxTrack{}}
	var tracks []*mpegts.Track
	var names []string
	for _, f := range formats {
		codec, params, rate := tsCodec(f)
		if codec == nil {
			names = append(names, f.Codec())
			continue
		}
		t := &muxTrack{ts: &mpegts.Track{Codec: codec}, params: params, rate: rate}
		m.tracks[f] = t
		tracks = append(tracks, t.ts)
	}
	if len(names) > 0 && len(tracks) > 0 {
		c.notice(fmt.Sprintf("left out what an MPEG-TS cannot hold: %s", strings.Join(names, ", ")))
	}
	if len(tracks) == 0 {
		return nil, fmt.Errorf("it has no track of H.264, HEVC, AAC, Opus, MP3 or AC-3 (but %s)", strings.Join(append(names, "no other"), ", "))
	}
	m.w = &mpegts.Writer{W: &m.out, Tracks: tracks}
	return m, m.w.Initialize()
}

// tsCodec returns how an MPEG-TS names a format, and nil when it cannot hold it.
func tsCodec(f format.Format) (codec mpegts.Codec, params [][]byte, rate int64) {
	switch f := f.(type) {
	case *format.H264:
		sps, pps := f.SafeParams()
		return &mpegts.CodecH264{}, [][]byte{sps, pps}, 0
	case *format.H265:
		vps, sps, pps := f.SafeParams()
		return &mpegts.CodecH265{}, [][]byte{vps, sps, pps}, 0
	case *format.MPEG4Audio:
		if f.Config != nil {
			return &mpegts.CodecMPEG4Audio{Config: *f.Config}, nil, 0
		}
	case *format.Opus:
		return &mpegts.CodecOpus{ChannelCount: f.ChannelCount}, nil, 0
	case *format.MPEG1Audio:
		return &mpegts.CodecMPEG1Audio{}, nil, 0
	case *format.AC3:
		return &mpegts.CodecAC3{SampleRate: f.SampleRate, ChannelCount: f.ChannelCount}, nil, int64(f.SampleRate)
	}
	return nil, nil, 0
}

func (m *muxer) holds(f format.Format) bool { return m.tracks[f] != nil }

// write writes what belongs together: the NAL units of one frame, or audio frames of which the first one is due at pts. Times are
// in units of 1/90000 s from whatever the source calls zero.
func (m *muxer) write(f format.Format, pts, dts int64, data [][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tracks[f]
	data = slices.DeleteFunc(slices.Clone(data), func(b []byte) bool { return len(b) == 0 })
	if t == nil || t.broken || len(data) == 0 {
		return nil
	}
	pts += muxStart
	if dts != noDTS {
		dts += muxStart
	}
	if pts < 0 {
		return nil // ten seconds before the source's zero: its clock jumped
	}
	if err := m.writeTrack(t, pts, dts, data); err != nil {
		t.broken = true
		m.c.notice(fmt.Sprintf("left out the %s track from here on: %v", f.Codec(), err))
		m.out.Reset()
		return nil
	}
	if m.out.Len() == 0 {
		return nil
	}
	out := m.flush.flush(bytes.Clone(m.out.Bytes()))
	m.out.Reset()
	return m.c.feed.write(m.ctx, out)
}

func (m *muxer) writeTrack(t *muxTrack, pts, dts int64, data [][]byte) error {
	switch t.ts.Codec.(type) {
	case *mpegts.CodecH264:
		data, isKey, isFrame := withParams(data, t.params, h264Role)
		if dts, ok := m.videoDTS(t, &h264.DTSExtractor{}, isKey, isFrame, pts, dts, data); ok {
			return m.w.WriteH264(t.ts, pts&clockMask, dts&clockMask, data)
		}
	case *mpegts.CodecH265:
		data, isKey, isFrame := withParams(data, t.params, h265Role)
		if dts, ok := m.videoDTS(t, &h265.DTSExtractor{}, isKey, isFrame, pts, dts, data); ok {
			return m.w.WriteH265(t.ts, pts&clockMask, dts&clockMask, data)
		}
	case *mpegts.CodecMPEG4Audio:
		return m.w.WriteMPEG4Audio(t.ts, pts&clockMask, data)
	case *mpegts.CodecOpus:
		return m.w.WriteOpus(t.ts, pts&clockMask, data)
	case *mpegts.CodecMPEG1Audio:
		return m.w.WriteMPEG1Audio(t.ts, pts&clockMask, data)
	case *mpegts.CodecAC3:
		for i, frame := range data {
			at := pts + int64(i)*ac3.SamplesPerFrame*clock/max(t.rate, 1)
			if err := m.w.WriteAC3(t.ts, at&clockMask, frame); err != nil {
				return err
			}
		}
	}
	return nil
}

// videoDTS returns the DTS of a frame, and false for what comes before the first key frame or is no frame.
func (m *muxer) videoDTS(t *muxTrack, e interface {
	dtsExtractor
	Initialize()
}, isKey, isFrame bool, pts, dts int64, data [][]byte) (int64, bool) {
	if !isFrame || (t.dts == nil && !isKey) {
		return 0, false
	}
	if t.dts == nil {
		e.Initialize()
		t.dts = e
	}
	if dts != noDTS {
		return min(dts, pts), true
	}
	dts, err := t.dts.Extract(data, pts)
	if err != nil {
		if !t.guessed {
			t.guessed = true
			m.c.notice(fmt.Sprintf("the order of decoding is not known and taken as the order of display: %v", err))
		}
		if isKey { // a new sequence may be one whose order can be told
			e.Initialize()
			t.dts = e
			_, _ = e.Extract(data, pts)
		}
		return pts, true
	}
	return min(dts, pts), true
}

// withParams puts the parameter sets that were told outside the stream before a key frame that comes without them, and keeps
// those that come within it. role returns which parameter set a NAL unit is (or -1), and whether it is of a key frame or any.
func withParams(data, params [][]byte, role func(nalu []byte) (set int, isKey, isFrame bool)) (_ [][]byte, isKey, isFrame bool) {
	var had int
	for _, nalu := range data {
		set, key, frame := role(nalu)
		if set >= 0 {
			params[set] = bytes.Clone(nalu)
			had |= 1 << set
		}
		isKey, isFrame = isKey || key, isFrame || frame
	}
	if !isKey || had == 1<<len(params)-1 {
		return data, isKey, isFrame
	}
	var missing [][]byte
	for i, p := range params {
		if had&(1<<i) == 0 && len(p) > 0 {
			missing = append(missing, p)
		}
	}
	return append(missing, data...), isKey, isFrame
}

func h264Role(nalu []byte) (set int, isKey, isFrame bool) {
	switch h264.NALUType(nalu[0] & 0x1f) {
	case h264.NALUTypeSPS:
		return 0, false, false
	case h264.NALUTypePPS:
		return 1, false, false
	case h264.NALUTypeIDR:
		return -1, true, true
	case h264.NALUTypeNonIDR, h264.NALUTypeDataPartitionA:
		return -1, false, true
	}
	return -1, false, false
}

func h265Role(nalu []byte) (set int, isKey, isFrame bool) {
	switch typ := h265.NALUType(nalu[0] >> 1 & 0x3f); typ {
	case h265.NALUType_VPS_NUT:
		return 0, false, false
	case h265.NALUType_SPS_NUT:
		return 1, false, false
	case h265.NALUType_PPS_NUT:
		return 2, false, false
	default:
		return -1, typ >= h265.NALUType_BLA_W_LP && typ <= h265.NALUType_CRA_NUT, typ < h265.NALUType_VPS_NUT
	}
}

// ticks converts a time of a clock with so many ticks a second to 1/90000 s.
func ticks(t, rate int64) int64 {
	return t/rate*clock + t%rate*clock/rate
}
