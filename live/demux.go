package live

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/bluenviron/gortsplib/v5/pkg/format"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/ac3"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts"
)

const (
	// probeFrames and probeBytes bound the search for the first sound: three seconds at 30 frames a second.
	probeFrames = 90
	probeBytes  = 4 << 20
	// gatherSamples bounds the search for the parameter sets of the video, which come with its first key frame.
	gatherSamples = 500
)

// sample is one video frame as NAL units, or audio frames of which the first is due at pts. Times are in 1/90000 s and begin near
// zero.
type sample struct {
	track    int
	pts, dts int64
	data     [][]byte
}

// demuxer reads the tracks of an MPEG-TS for protocols that send tracks.
type demuxer struct {
	r       *mpegts.Reader
	tracks  []format.Format
	leftOut int // tracks of other formats
	clock   mpegts.TimeDecoder
	zero    int64 // what clock says at the first video frame, or at the first sample where there is no video
	ready   []sample
}

// openDemuxer reads until the tracks are known.
func openDemuxer(ctx context.Context, q *gops) (*demuxer, error) {
	r := &unitReader{ctx: ctx, q: q}
	if err := r.probe(); err != nil {
		return nil, err
	}
	d := &demuxer{r: &mpegts.Reader{R: r}}
	if err := d.r.Initialize(); err != nil {
		return nil, err
	}
	for _, t := range d.r.Tracks() {
		n := len(d.tracks)
		audio := func(pts int64, frames [][]byte) error { return d.take(n, pts, pts, frames) }
		video := func(pts, dts int64, au [][]byte) error { return d.take(n, pts, dts, au) }
		switch codec := t.Codec.(type) {
		case *mpegts.CodecH264:
			d.tracks = append(d.tracks, &format.H264{PayloadTyp: 96, PacketizationMode: 1})
			d.r.OnDataH264(t, video)
		case *mpegts.CodecH265:
			d.tracks = append(d.tracks, &format.H265{PayloadTyp: 96})
			d.r.OnDataH265(t, video)
		case *mpegts.CodecMPEG4Audio:
			d.tracks = append(d.tracks, &format.MPEG4Audio{
				PayloadTyp: 96, Config: &codec.Config, SizeLength: 13, IndexLength: 3, IndexDeltaLength: 3,
			})
			d.r.OnDataMPEG4Audio(t, audio)
		case *mpegts.CodecOpus:
			d.tracks = append(d.tracks, &format.Opus{PayloadTyp: 96, ChannelCount: codec.ChannelCount})
			d.r.OnDataOpus(t, audio)
		case *mpegts.CodecMPEG1Audio:
			d.tracks = append(d.tracks, &format.MPEG1Audio{})
			d.r.OnDataMPEG1Audio(t, audio)
		case *mpegts.CodecAC3:
			d.tracks = append(d.tracks, &format.AC3{PayloadTyp: 96, SampleRate: codec.SampleRate, ChannelCount: codec.ChannelCount})
			// OnDataAC3 wants one frame at a time, but FFmpeg puts as many together as fit. This one gives what comes as it is.
			d.r.OnDataMPEGxVideo(t, func(pts int64, data []byte) error { return audio(pts, splitAC3(data)) })
		}
	}
	if len(d.tracks) == 0 {
		return nil, errNothingToSend
	}
	d.leftOut = len(d.r.Tracks()) - len(d.tracks)
	if err := d.gather(); err != nil {
		return nil, err
	}
	for _, s := range d.ready {
		if isVideo(d.tracks[s.track]) {
			d.zero = s.dts
			break
		}
	}
	return d, nil
}

// splitAC3 cuts frames apart, and leaves out what is not whole.
func splitAC3(data []byte) (frames [][]byte) {
	for {
		var info ac3.SyncInfo
		if info.Unmarshal(data) != nil || info.FrameSize() <= 0 || info.FrameSize() > len(data) {
			return frames
		}
		frames = append(frames, data[:info.FrameSize()])
		data = data[info.FrameSize():]
	}
}

var errNothingToSend = errors.New("the stream has no track of H.264, HEVC, AAC, Opus, MP3 or AC-3, which are what can be sent there")

func (d *demuxer) take(track int, pts, dts int64, data [][]byte) error {
	delay := (pts - dts) & clockMask // of display after decoding; times have 33 bits
	dts = d.clock.Decode(dts)
	pts = dts + delay
	if len(data) > 0 {
		d.ready = append(d.ready, sample{track, pts, dts, data})
	}
	return nil
}

// next returns the next sample.
func (d *demuxer) next() (sample, error) {
	for len(d.ready) == 0 {
		if err := d.r.Read(); err != nil {
			return sample{}, err
		}
	}
	s := d.ready[0]
	d.ready = d.ready[1:]
	s.pts, s.dts = s.pts-d.zero, s.dts-d.zero
	return s, nil
}

// gather reads on until every video track has its parameter sets, which other protocols tell before the first frame.
func (d *demuxer) gather() error {
	seen := 0
	for {
		for ; seen < len(d.ready); seen++ {
			s := d.ready[seen]
			switch f := d.tracks[s.track].(type) {
			case *format.H264:
				params := [][]byte{f.SPS, f.PPS}
				withParams(s.data, params, h264Role)
				f.SPS, f.PPS = params[0], params[1]
			case *format.H265:
				params := [][]byte{f.VPS, f.SPS, f.PPS}
				withParams(s.data, params, h265Role)
				f.VPS, f.SPS, f.PPS = params[0], params[1], params[2]
			}
		}
		if d.hasParams() {
			return nil
		}
		if seen > gatherSamples {
			return errors.New("the video does not tell its parameter sets")
		}
		if err := d.r.Read(); err != nil {
			return err
		}
	}
}

func (d *demuxer) hasParams() bool {
	for _, f := range d.tracks {
		switch f := f.(type) {
		case *format.H264:
			if f.SPS == nil || f.PPS == nil {
				return false
			}
		case *format.H265:
			if f.VPS == nil || f.SPS == nil || f.PPS == nil {
				return false
			}
		}
	}
	return true
}

func isVideo(f format.Format) bool {
	switch f.(type) {
	case *format.H264, *format.H265:
		return true
	}
	return false
}

func duration(t int64) time.Duration {
	return time.Duration(t/clock)*time.Second + time.Duration(t%clock)*time.Second/clock
}

// unitReader reads the units of a queue as bytes.
type unitReader struct {
	ctx   context.Context
	q     *gops
	flush pesFlusher
	left  []byte
}

func (r *unitReader) Read(p []byte) (int, error) {
	if len(r.left) == 0 {
		data, err := r.q.next(r.ctx)
		if err != nil {
			return 0, err
		}
		r.left = r.flush.flush(data)
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// probe reads until there was sound of each track whose format is told by its first frame, and brings that to the front.
// mpegts.Reader looks for it in the first megabyte, which a key frame may fill. A track that stays silent is struck from the table
// of tracks, as it would be waited for without end.
func (r *unitReader) probe() error {
	var units []byte
	var t tables
	var lead uint16
	begun := map[uint16]int{}
	wanted := func() (pids []uint16) {
		for _, track := range t.tracks {
			// AAC and AC-3. A frame is complete when the next one begins.
			if (track.typ == 0x0f || track.typ == 0x81) && begun[track.pid] < 2 {
				pids = append(pids, track.pid)
			}
		}
		return pids
	}
	frames := 0
	for frames < probeFrames && len(units) < probeBytes && (frames == 0 || len(wanted()) > 0) {
		data, err := r.q.next(r.ctx)
		if err != nil {
			return err
		}
		for i := 0; i+packetSize <= len(data); i += packetSize {
			t.take(data[i : i+packetSize])
			if pid, begins := pidOf(data[i:]); begins {
				begun[pid]++
			}
		}
		lead, _ = t.lead()
		frames = begun[lead]
		units = append(units, r.flush.flush(data)...)
	}
	first := t.withoutTracks(wanted())
	var then []byte
	for i := 0; i+packetSize <= len(units); i += packetSize {
		p := units[i : i+packetSize]
		switch pid, _ := pidOf(p); pid {
		case 0, t.pmtPID:
		case lead:
			then = append(then, p...)
		default:
			first = append(first, p...)
		}
	}
	r.left = slices.Concat(first, then)
	return nil
}

// withoutTracks returns the packets of the tables with the type of some tracks made one that nobody knows.
func (t *tables) withoutTracks(pids []uint16) []byte {
	packets := t.packets()
	if len(pids) == 0 || len(t.pmt) != packetSize { // a table of several packets is left as it is
		return packets
	}
	p := packets[len(packets)-packetSize:]
	section := sectionOf(payload(p))
	section = section[:sectionLen(section)]
	for _, track := range t.tracks {
		for _, pid := range pids {
			if track.pid == pid {
				section[track.at] = 0xff
			}
		}
	}
	binary.BigEndian.PutUint32(section[len(section)-4:], crcMPEG2(section[:len(section)-4]))
	return packets
}

// crcMPEG2 is the checksum of a table: CRC-32 with its bits in order, which hash/crc32 has only reversed.
func crcMPEG2(data []byte) uint32 {
	crc := ^uint32(0)
	for _, b := range data {
		crc ^= uint32(b) << 24
		for range 8 {
			if crc&(1<<31) != 0 {
				crc = crc<<1 ^ 0x04c11db7
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}
