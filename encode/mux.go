package encode

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/media"
	"upscaler/internal/notice"

	"github.com/asticode/go-astiav"
)

const (
	// ioBuffer is FFmpeg's output buffer in bytes: large enough that calls back into Go cost nothing, small beside a frame.
	ioBuffer = 128 << 10

	// firstFragment bounds what the MP4 muxer collects before it writes its header, in bytes and in video time. Left to itself
	// it waits until every track has a packet, which for a subtitle track may be at the end of the film.
	firstFragmentBytes = 8 << 20
	firstFragmentTime  = 5 * time.Second

	// growingFragment is the most video time that a fragment of a seekable MP4 holds while it grows: what a crash costs. A group
	// of pictures, which would end it otherwise, may take half a minute of work. The finished file has no fragments.
	growingFragment = 2 * time.Second

	// fragmentBytes bounds what the MP4 muxer collects for one fragment.
	fragmentBytes = 16 << 20

	// maxLead is the longest silence before the first picture that is taken for intended. Broadcasts count their time from
	// whenever the transmitter was started; in other containers than MPEG-TS players would show hours of nothing first.
	maxLead = 30 * time.Second

	// maxPriming is how far sound may begin before zero: what a decoder needs to get going and nobody is to hear. Opus asks for 80 ms,
	// two packets of AAC at 22 kHz take 93.
	maxPriming = 100 * time.Millisecond
)

var microseconds = astiav.NewRational(1, 1_000_000)

// mux writes packets of all streams in an order that players like. The encoded video is the master clock: packets that pass
// through wait until the video has reached their time. It belongs to one goroutine.
type mux struct {
	plan   *Layout
	notify notice.Func
	strict bool
	file   *file
	io     *astiav.IOContext
	fc     *astiav.FormatContext

	header  func() error // writes the header; nil once it has been called
	streams []muxStream  // by output index
	video   int          // output index of the video
	queue   queue

	fragment struct { // MP4's first one
		open  bool
		bytes int64
		video bool  // a packet of the video is in it
		start int64 // that packet's time in microseconds
	}
	segments *segments // nil for an output in one file
	repaired bool
	joined   bool // the video is that of an interrupted output and its continuation
}

type muxStream struct {
	*astiav.Stream
	from    astiav.Rational   // time base of the packets that come
	to      astiav.Rational   // of the packets that go
	shift   int64             // subtracted from timestamps, in from
	lastDTS int64             // in to
	text    *av.TextConverter // nil for packets that pass as they are
	cover   bool              // its only packet goes into the header
	damaged bool              // a notice has told of packets left out
}

// openMux sets up the container. codec is the opened video encoder. The header is written before the first packet of the video:
// Matroska wants cover art in it, which comes as a packet.
func openMux(out Output, m *av.Media, plan *Layout, codec *astiav.CodecContext, rate media.Rational, o Options) (_ *mux, err error) {
	x := &mux{plan: plan, notify: o.Notify, strict: o.Strict, file: &file{out: out}, video: plan.streams[m.VideoIndex]}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	if x.segments, err = openSegments(o.Live, plan.container, out); err != nil {
		return nil, err
	}
	var seek func(int64, int) (int64, error)
	if plan.seekable {
		seek = x.file.seek
	}
	if x.io, err = av.AllocOutputIO(ioBuffer, x.file.write, seek); err != nil {
		return nil, err
	}
	if x.fc, err = av.AllocMuxer(plan.Muxer); err != nil {
		return nil, err
	}
	x.fc.SetPb(x.io)
	for i, s := range m.Streams {
		if plan.streams[i] < 0 {
			continue
		}
		if i == m.VideoIndex {
			err = x.addVideo(m, codec, rate)
		} else {
			err = x.addCopy(m, s)
		}
		if err != nil {
			return nil, fmt.Errorf("stream %d: %w", i, err)
		}
	}
	if err := x.describe(m); err != nil {
		return nil, err
	}
	x.setShift(m)
	x.header = func() error { return x.writeHeader(m) }
	return x, nil
}

func (x *mux) newStream(m *av.Media, s *av.Stream) (*astiav.Stream, error) {
	st := x.fc.NewStream(nil)
	if st == nil {
		return nil, errors.New("no memory for a stream")
	}
	st.SetTimeBase(av.AVRational(s.TimeBase)) // a wish; the muxer decides
	st.SetDispositionFlags(s.Disposition)
	st.SetSampleAspectRatio(av.AVRational(s.SampleAspectRatio))
	if x.plan.Container == ContainerMPEGTS && m.Info.Container == "mpegts" {
		st.SetID(s.ID) // the PID
	}
	x.streams = append(x.streams, muxStream{Stream: st, from: av.AVRational(s.TimeBase), lastDTS: math.MinInt64})
	return st, nil
}

func (x *mux) addVideo(m *av.Media, codec *astiav.CodecContext, rate media.Rational) error {
	s := m.Video()
	st, err := x.newStream(m, s)
	if err != nil {
		return err
	}
	st.SetTimeBase(av.AVRational(m.VideoTimeBase))
	x.streams[len(x.streams)-1].from = av.AVRational(m.VideoTimeBase)
	p := st.CodecParameters()
	if err := p.FromCodecContext(codec); err != nil {
		return err
	}
	p.SetCodecTag(0)
	if x.plan.Codec == CodecHEVC && (x.plan.Container == ContainerMP4 || x.plan.Container == ContainerMOV) {
		p.SetCodecTag(av.CodecTag("hvc1")) // Apple's players refuse hev1
	}
	if err := av.CopyPictureSideData(p, s.Params, x.plan.scale); err != nil {
		return err
	}
	if s.AvgFrameRate.Num > 0 && s.AvgFrameRate.Den > 0 {
		av.SetStreamFrameRate(st, rate)
	}
	// What describes the old stream's bytes is no longer true.
	metadata := slices.DeleteFunc(slices.Clone(s.Metadata), func(kv av.KeyValue) bool { return ofCoding(kv.Key) })
	return x.setStreamMetadata(st, append(metadata, av.KeyValue{Key: "encoder", Value: x.plan.Encoder}))
}

func (x *mux) addCopy(m *av.Media, s *av.Stream) error {
	st, err := x.newStream(m, s)
	if err != nil {
		return err
	}
	p := st.CodecParameters()
	if x.plan.convert[s.Index] {
		text, err := av.NewTextConverter(s.Params, s.TimeBase, x.plan.container.text)
		if err != nil {
			return err
		}
		x.streams[len(x.streams)-1].text = text
		if err := text.Parameters(p); err != nil {
			return err
		}
		p.SetCodecTag(0)
		return x.setStreamMetadata(st, s.Metadata)
	}
	if err := s.Params.Copy(p); err != nil {
		return err
	}
	p.SetCodecTag(av.KeepTag(x.fc.OutputFormat(), s.Params))
	if x.plan.Container == ContainerMatroska && !x.plan.seekable {
		if err := tellAAC(p); err != nil {
			return err
		}
	}
	if s.Kind == media.KindVideo {
		av.SetStreamFrameRate(st, s.AvgFrameRate)
	}
	metadata := slices.Clone(s.Metadata)
	name, mime := fmt.Sprintf("attachment-%d", s.Index), "application/octet-stream"
	if s.AttachedPicture && x.plan.container.attachments {
		// Where cover art is an attached file; as a video track, which it would become, no player takes it for cover art.
		x.streams[len(x.streams)-1].cover = true
		p.SetMediaType(astiav.MediaTypeAttachment)
		st.SetDispositionFlags(0)
		switch av.CodecName(p.CodecID()) {
		case "png":
			name, mime = "cover.png", "image/png"
		case "bmp":
			name, mime = "cover.bmp", "image/bmp"
		default:
			name, mime = "cover.jpg", "image/jpeg"
		}
	}
	if p.MediaType() == astiav.MediaTypeAttachment { // Matroska refuses attachments without these
		if entry(metadata, "filename") == "" {
			metadata = append(metadata, av.KeyValue{Key: "filename", Value: name})
		}
		if entry(metadata, "mimetype") == "" {
			metadata = append(metadata, av.KeyValue{Key: "mimetype", Value: mime})
		}
	}
	return x.setStreamMetadata(st, metadata)
}

// accepts tells whether a container's muxer begins a file that holds nothing but this stream. Tables know codecs; the muxer
// also knows what it cannot do without, such as the codec's own header, which it may wait for where it can go back and write it
// later. Nothing is kept of the file.
func accepts(c *container, s *av.Stream, seekable bool) bool {
	x := &mux{plan: &Layout{Container: c.container, container: c, scale: 1, seekable: seekable}, file: &file{out: discard{}}}
	defer x.close()
	var seek func(int64, int) (int64, error)
	if seekable {
		seek = x.file.seek
	}
	var err error
	if x.io, err = av.AllocOutputIO(ioBuffer, x.file.write, seek); err != nil {
		return false
	}
	if x.fc, err = av.AllocMuxer(c.name); err != nil {
		return false
	}
	x.fc.SetPb(x.io)
	m := &av.Media{VideoTimeBase: s.TimeBase}
	return x.addCopy(m, s) == nil && x.writeHeader(m) == nil
}

// discard is an Output that forgets.
type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// quickTimeLanguages are languages that QuickTime has a number for under another code than most files use.
var quickTimeLanguages = map[string]string{"fre": "fra", "deu": "ger", "nld": "dut", "swe": "sve", "ell": "gre", "isl": "ice",
	"zho": "chi", "rum": "ron", "cze": "ces", "slo": "slk", "sqi": "alb"}

func (x *mux) setStreamMetadata(st *astiav.Stream, entries []av.KeyValue) error {
	if x.isMP4() {
		entries = slices.Clone(entries)
		for i, kv := range entries {
			if other := quickTimeLanguages[kv.Value]; kv.Key == "language" && other != "" && x.plan.Container == ContainerMOV {
				entries[i].Value = other
			}
		}
		if title := entry(entries, "title"); title != "" { // players show the handler's name as the track's title
			entries = slices.DeleteFunc(entries, func(kv av.KeyValue) bool { return kv.Key == "handler_name" })
			entries = append(entries, av.KeyValue{Key: "handler_name", Value: title})
		}
	}
	d := astiav.NewDictionary()
	err := av.SetEntries(d, entries)
	if err != nil {
		d.Free()
		return err
	}
	st.SetMetadata(d) // owned by the stream from here on
	return nil
}

// describe copies what belongs to the whole file: metadata, chapters, programs.
func (x *mux) describe(m *av.Media) error {
	metadata := slices.DeleteFunc(slices.Clone(m.Metadata), func(kv av.KeyValue) bool { return ofContainer(kv.Key) })
	d := astiav.NewDictionary()
	if err := av.SetEntries(d, metadata); err != nil {
		d.Free()
		return err
	}
	x.fc.SetMetadata(d)
	if x.plan.container.chapters {
		shift := x.shiftOf(m)
		for _, ch := range m.Chapters {
			if ch.End == av.NoTimestamp || ch.End < ch.Start {
				ch.End = ch.Start
			}
			if ch.TimeBase.Num <= 0 || ch.TimeBase.Den <= 0 {
				continue
			}
			d := astiav.RescaleQ(shift.Microseconds(), microseconds, av.AVRational(ch.TimeBase))
			ch.Start, ch.End = ch.Start-d, ch.End-d
			if err := av.AddChapter(x.fc, ch); err != nil {
				return err
			}
		}
	}
	if x.plan.programs {
		x.addPrograms(m)
	}
	return nil
}

// addPrograms repeats the input's programs.
func (x *mux) addPrograms(m *av.Media) {
	for _, p := range m.Programs {
		out := x.fc.NewProgram(p.ID)
		out.SetProgramNumber(p.Number)
		out.SetPmtPid(p.PMTPID)
		d := astiav.NewDictionary()
		if err := av.SetEntries(d, p.Metadata); err != nil {
			d.Free()
		} else {
			out.SetMetadata(d)
		}
		for _, i := range p.Streams {
			if i >= 0 && i < len(x.plan.streams) && x.plan.streams[i] >= 0 {
				out.AddStream(x.streams[x.plan.streams[i]].Stream)
			}
		}
	}
}

// shiftOf returns by how much all timestamps are reduced: nothing, but for files that begin at a time of no meaning. That is far from
// zero, or before it, as broadcasts do whose 33 bits of time overflow on the way: MP4 would hide what lies there, Matroska cannot say it.
func (x *mux) shiftOf(m *av.Media) time.Duration {
	if x.plan.Container == ContainerMPEGTS || m.Video().StartTime == av.NoTimestamp {
		return 0
	}
	seconds := func(t float64) time.Duration { return time.Duration(t * float64(time.Second)) }
	first := m.VideoTimeBase.Seconds(m.FirstPTS)
	earliest := first
	for i, s := range m.Streams {
		if x.plan.streams[i] >= 0 && s.StartTime != av.NoTimestamp && !s.AttachedPicture && i != m.VideoIndex &&
			(s.Kind == media.KindAudio || s.Kind == media.KindVideo) {
			earliest = min(earliest, s.TimeBase.Seconds(s.StartTime))
		}
	}
	switch {
	case math.Abs(earliest) > math.MaxInt32:
		return 0
	case earliest >= maxLead.Seconds():
		return seconds(math.Floor(earliest)) // which every time base can say
	case x.plan.live == nil && (first < 0 || earliest < -maxPriming.Seconds()):
		return seconds(earliest)
	}
	return 0
}

func (x *mux) setShift(m *av.Media) {
	shift := x.shiftOf(m)
	if shift == 0 {
		return
	}
	for i := range x.streams {
		x.streams[i].shift = astiav.RescaleQ(shift.Microseconds(), microseconds, x.streams[i].from)
	}
	text := "The input's clock begins at %v; the output's begins at zero, all streams alike."
	if shift > 0 {
		text = "The input's clock begins at %[1]v; the output's begins %[1]v earlier, all streams alike."
	}
	x.tell(notice.TimestampsRepaired, notice.NoStream, fmt.Sprintf(text, shift.Round(time.Millisecond)))
}

func (x *mux) tell(code notice.Code, stream int, text string) {
	if x.notify != nil {
		x.notify(notice.Notice{Code: code, Stream: stream, Text: text})
	}
}

// begin writes the header if that has not been done.
func (x *mux) begin() error {
	if x.header == nil {
		return nil
	}
	for _, q := range x.queue.items {
		if s := x.streams[x.plan.streams[q.p.Stream()]]; s.cover {
			if err := s.CodecParameters().SetExtraData(q.p.Raw().Data()); err != nil {
				return fmt.Errorf("no memory for cover art: %w", err)
			}
		}
	}
	header := x.header
	x.header = nil
	return header()
}

func (x *mux) writeHeader(m *av.Media) error {
	seekable := x.plan.seekable
	o := map[string]string{}
	switch x.plan.Container {
	case ContainerMP4, ContainerMOV:
		x.fragment.open = true
		flags := "+frag_keyframe+delay_moov+default_base_moof"
		if seekable {
			// A fragmented file while it grows, whose index is completed at the end: it can be played after a crash, and is an
			// ordinary file after success.
			flags = "+frag_keyframe+hybrid_fragmented"
			o["flush_packets"] = "0"
			o["frag_duration"] = strconv.FormatInt(growingFragment.Microseconds(), 10)
		}
		if hasPhoneKeys(m) {
			flags += "+use_metadata_tags" // phones' metadata; the usual tags have no place for it
		}
		o["movflags"] = flags
		o["frag_size"] = strconv.Itoa(fragmentBytes)
		// Exact start times: the muxer would rather shift everything to zero than write edit lists into fragmented files, and it
		// writes the length of the gap before a track in units of the movie's time scale, a millisecond by default.
		o["use_editlist"] = "1"
		o["avoid_negative_ts"] = "disabled"
		o["movie_timescale"] = strconv.Itoa(movieTimescale(m.VideoTimeBase))
	case ContainerMatroska, ContainerWebM:
		// Blocks may lie before their cluster's time, so that audio that begins a little before zero needs no shift of all.
		o["avoid_negative_ts"] = "disabled"
		if seekable {
			o["flush_packets"] = "0"
		}
	case ContainerMPEGTS:
		o["mpegts_copyts"] = "1" // no constant added to all timestamps
	}
	if x.plan.live != nil {
		x.plan.live.muxOptions(x.plan.Container, o)
	}
	err := av.WithOptions(o, x.fc.WriteHeader)
	if x.file.err != nil {
		return x.file.err
	}
	if err != nil {
		return fmt.Errorf("writing the header of the %s file: %w", x.plan.container.label, err)
	}
	// The MP4 muxer turns this off for files whose index comes first; AAC from MPEG-TS needs it all the same, and its index is
	// not written before the first packets.
	x.fc.SetFlags(x.fc.Flags().Add(astiav.FormatContextFlagAutoBsf))
	for i := range x.streams {
		x.streams[i].to = x.streams[i].TimeBase()
	}
	return nil
}

// movieTimescale returns the MP4 muxer's own choice for the video track, so that the gap before the video is exact.
func movieTimescale(tb media.Rational) int {
	scale := max(tb.Den, 1)
	for scale < 10_000 {
		scale *= 2
	}
	return scale
}

// writePacket queues a packet that passes through, which the mux owns from here on, and writes what is due.
func (x *mux) writePacket(p *av.Packet) error {
	i := p.Stream()
	if i < 0 || i >= len(x.plan.streams) || x.plan.streams[i] < 0 {
		p.Free()
		return nil // its stream is dropped
	}
	if x.hidden(p) {
		p.Free()
		return nil
	}
	dts := p.DTS()
	if dts == av.NoTimestamp {
		dts = p.PTS()
	}
	key := int64(math.MinInt64) // without a time (cover art): at once
	if dts != av.NoTimestamp {
		key = astiav.RescaleQ(dts, x.streams[x.plan.streams[i]].from, microseconds)
	}
	x.queue.push(p, key)
	if x.queue.bytes <= maxQueued {
		return nil
	}
	return x.writeQueued(math.MinInt64)
}

// hidden tells whether a packet is one that the input's edit list hides and this container would show: only MP4 has such lists.
// What decoders need to get going stays.
func (x *mux) hidden(p *av.Packet) bool {
	return !x.isMP4() && p.Raw().Flags().Has(astiav.PacketFlagDiscard) && p.PTS() != av.NoTimestamp &&
		p.TimeBase().Seconds(p.PTS()) < -maxPriming.Seconds()
}

// writeQueued writes the packets whose time is not after key, in microseconds of the input's clock.
func (x *mux) writeQueued(key int64) error {
	if err := x.begin(); err != nil {
		return err
	}
	for p := x.queue.popUntil(key); p != nil; p = x.queue.popUntil(key) {
		from := p.Stream()
		s := &x.streams[x.plan.streams[from]]
		shown := !s.cover
		var err error
		if s.text != nil {
			shown, err = s.text.Convert(p.Raw())
		}
		if shown && err == nil {
			p.Raw().SetStreamIndex(s.Index())
			err = x.write(p.Raw())
		}
		p.Free()
		switch {
		case err == nil:
		case x.file.err != nil || x.strict:
			return err
		case !s.damaged: // a packet that its container does not understand is no reason to lose the film
			s.damaged = true
			x.tell(notice.InputDamaged, from, fmt.Sprintf("Packets of stream %d are left out: %v.", from, err))
		}
	}
	return nil
}

// writeVideo writes a packet of the encoder after everything that comes before it.
func (x *mux) writeVideo(p *astiav.Packet) error {
	key := astiav.RescaleQ(p.Dts(), x.streams[x.video].from, microseconds)
	if err := x.writeQueued(key); err != nil {
		return err
	}
	if err := x.segment(p, key); err != nil {
		return err
	}
	if err := x.mayJump(p); err != nil {
		return err
	}
	p.SetStreamIndex(x.video)
	if err := x.write(p); err != nil {
		return err
	}
	if err := x.boundFirstFragment(key); err != nil {
		return err
	}
	return x.flushFrame()
}

// write hands a packet with timestamps of its input stream to the muxer. The packet stays the caller's.
func (x *mux) write(p *astiav.Packet) error {
	s := &x.streams[p.StreamIndex()]
	if s.shift != 0 {
		if p.Pts() != av.NoTimestamp {
			p.SetPts(p.Pts() - s.shift)
		}
		if p.Dts() != av.NoTimestamp {
			p.SetDts(p.Dts() - s.shift)
		}
	}
	p.RescaleTs(s.from, s.to)
	return x.put(s, p)
}

// put hands a packet with timestamps of the output stream to the muxer.
func (x *mux) put(s *muxStream, p *astiav.Packet) error {
	p.SetPos(-1)
	x.keepOrder(s, p)
	x.fragment.bytes += int64(p.Size())
	err := x.fc.WriteFrame(p)
	if x.file.err != nil {
		return x.file.err
	}
	if err != nil {
		return fmt.Errorf("writing a packet of output stream %d to the %s file: %w", s.Index(), x.plan.container.label, err)
	}
	return nil
}

// keepOrder makes decoding times grow where they do not: muxers refuse such packets, and to lose a packet is worse than to
// move it by one tick. It happens in damaged files, and where a coarser time base rounds two times to one.
func (x *mux) keepOrder(s *muxStream, p *astiav.Packet) {
	dts := p.Dts()
	if dts == av.NoTimestamp {
		dts = p.Pts()
	}
	if dts == av.NoTimestamp {
		return
	}
	if dts <= s.lastDTS {
		// Where the continuation of an interrupted video begins, its encoder may count decoding times from a little earlier.
		if dts < s.lastDTS && !x.repaired && (!x.joined || s.Index() != x.video) {
			x.repaired = true
			x.tell(notice.TimestampsRepaired, notice.NoStream, "Packets whose times do not grow were moved by the least that makes them grow.")
		}
		dts = s.lastDTS + 1
	}
	s.lastDTS = dts
	p.SetDts(dts)
	if p.Pts() == av.NoTimestamp || p.Pts() < dts && s.Index() != x.video {
		p.SetPts(dts)
	}
}

// boundFirstFragment makes the MP4 muxer write its header when it has waited long enough for packets of every track.
func (x *mux) boundFirstFragment(key int64) error {
	if !x.fragment.open {
		return nil
	}
	if !x.fragment.video {
		x.fragment.video, x.fragment.start = true, key
	}
	wait := firstFragmentTime
	if x.plan.live != nil {
		wait = liveFirstFragment
	}
	early := x.plan.live != nil && x.complete()
	if !early && x.fragment.bytes < firstFragmentBytes && time.Duration(key-x.fragment.start)*time.Microsecond < wait {
		return nil
	}
	return x.flushFragment()
}

// flushFragment ends the first fragment of an MP4 file: its header goes out.
func (x *mux) flushFragment() error {
	x.fragment.open = false
	for range 2 { // with a delayed header the first call writes only that
		if err := x.fc.WriteFrame(nil); err != nil && x.file.err == nil {
			return fmt.Errorf("writing the first part of the %s file: %w", x.plan.container.label, err)
		}
		if x.file.err != nil {
			return x.file.err
		}
	}
	if !x.plan.seekable {
		// From here on times are absolute: a track that begins later has no entry in the header that could tell when.
		if err := x.fc.PrivateData().Options().Set("movflags", "+frag_discont", 0); err != nil {
			return fmt.Errorf("setting movflags: %w", err)
		}
	}
	return nil
}

// endFragments writes the last fragment, and makes the muxer of a seekable file forget that it wrote fragments.
func (x *mux) endFragments() error {
	if err := x.flushFragment(); err != nil || !x.plan.seekable {
		return err
	}
	// FFmpeg 7.1 would leave marks of a fragmented file in the completed index: edit lists of length zero, which mean "to the end"
	// only in fragmented files, and the box that announces fragments. Its own flag for "fragmented" is the bit 2 of movflags and
	// has no name there. TestSeekableMP4IsOrdinary fails should that ever change.
	if err := x.fc.PrivateData().Options().Set("movflags", "-2", 0); err != nil {
		return fmt.Errorf("setting movflags: %w", err)
	}
	return nil
}

func (x *mux) isMP4() bool {
	return x.plan.Container == ContainerMP4 || x.plan.Container == ContainerMOV
}

// finish writes what is queued and completes the file.
func (x *mux) finish() error {
	if err := x.writeQueued(math.MaxInt64); err != nil {
		return err
	}
	if x.isMP4() {
		if err := x.endFragments(); err != nil {
			return err
		}
	}
	if s := x.segments; s != nil && s.open {
		return x.endSegment(s.end) // neither MPEG-TS nor pictures have a trailer
	}
	err := x.fc.WriteTrailer()
	if x.file.err != nil {
		return x.file.err
	}
	if err != nil {
		return fmt.Errorf("completing the %s file: %w", x.plan.container.label, err)
	}
	return nil
}

// close frees everything. A file that was not finished stays as it is.
func (x *mux) close() {
	x.queue.free()
	for i := range x.streams {
		x.streams[i].text.Close()
	}
	av.FreeMuxer(x.fc)
	av.FreeOutputIO(x.io)
	x.fc, x.io = nil, nil
}
