// Package decode turns the bytes of a video file, or of a live feed, into frames of one size and layout in pooled Go memory, and
// into the packets of all other streams, which pass through as they are.
//
// The bytes come from a stranger. Only the formats listed in demux.go are opened, nothing else is read whatever the file names,
// and every size the file claims is held against a limit before memory is spent on it.
package decode

import (
	"context"
	"errors"
	"io"
	"math"
	"sync/atomic"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"
	"upscaler/internal/notice"

	"github.com/asticode/go-astiav"
)

// Limits bound what an input may cost. A zero field means its default.
type Limits struct {
	MaxPixels       int64         // width times height of a picture
	MaxStreams      int           // streams of a file, attachments included
	MaxPacketBytes  int64         // one packet
	MaxHeadBytes    int64         // headers read in large pieces: attached fonts and pictures
	ProbeBytes      int64         // read to learn what the streams are
	AnalyzeDuration time.Duration // media time read to learn what the streams are
	PrerollBytes    int64         // packets of other streams read before the first picture
}

// DefaultLimits returns the limits that hold where Limits has zeros.
func DefaultLimits() Limits {
	return Limits{
		MaxPixels:       4096 * 2304,     // DCI 4K and UHD; twice as wide and high is what encoders take
		MaxStreams:      256,             // Blu-ray remuxes with all languages and fonts have about a hundred
		MaxPacketBytes:  64 << 20,        // an uncompressed UHD picture of 4:2:2 at 16 bits takes 35 MB
		MaxHeadBytes:    256 << 20,       // fonts of an elaborately subtitled film
		ProbeBytes:      5_000_000,       // FFmpeg's own default
		AnalyzeDuration: 5 * time.Second, // FFmpeg's own default
		PrerollBytes:    64 << 20,        // an hour of sound
	}
}

// Deinterlace says what happens to interlaced video.
type Deinterlace int

// The ways to treat interlaced video; the values are those of upscale.v1.Deinterlace.
const (
	DeinterlaceAuto Deinterlace = 0 // frames that say that they are interlaced
	DeinterlaceOn   Deinterlace = 1 // every frame
	DeinterlaceOff  Deinterlace = 2 // none
	DeinterlaceFilm Deinterlace = 3 // undo 3:2 pulldown: four frames of five
)

// Options say how to decode an input.
type Options struct {
	Name   string // the file's name; nothing is opened by it, it only helps to tell raw streams apart
	Limits Limits
	Pool   *frame.Pool // memory of the frames handed out; must hold at least one
	// Notify receives notices, at most one of each code and stream; nil discards them.
	Notify  notice.Func
	Threads int // threads of the decoder; 0 means 2
	// Spool makes storage for an input that cannot be read front to back; nil means that such inputs are refused.
	Spool       func() (Spool, error)
	Deinterlace Deinterlace
	// FieldRate makes a frame of each field of what is deinterlaced, at twice the rate. Not with DeinterlaceFilm.
	FieldRate bool
	Stills    bool // each picture becomes a still picture
	Part      Part // what to hand out of the input; the zero Part is all of it
	// Live reads a running stream: little of it is looked at before it begins, and no frame waits in the decoder for others
	// that only keep its threads busy.
	Live bool
	// Like is the Media of an input that this one continues: its frames come in that one's size, layout and colours.
	Like *av.Media
}

// defaultThreads is small because each thread holds a frame of its own, and the network needs the cores more.
const defaultThreads = 2

// Unit is what Next returns: a frame or a packet, never both. The caller owns it: Frame.Release or Packet.Free.
type Unit struct {
	Frame  *frame.Frame
	Packet *av.Packet
	// Came is when the first byte of a running stream's frame was read, where the format tells; else when it was decoded.
	Came time.Time
}

func (u Unit) free() {
	u.Frame.Release()
	u.Packet.Free()
}

// Stats are counters of a Source. They may be read while it works.
type Stats struct {
	Frames         uint64        // frames handed out
	Skipped        uint64        // frames decoded that lie outside of the part
	Bytes          uint64        // bytes of the input read
	VideoPackets   uint64        // packets given to the decoder
	DamagedPackets uint64        // packets or frames the decoder could not, or only partly, make sense of
	Busy           time.Duration // time spent decoding, without waiting for input or for frame memory
}

// Source is an input being decoded. One goroutine uses it; only Stats may be called from others.
type Source struct {
	opts  Options
	media *av.Media

	reader  *reader
	spool   Spool
	input   *av.Input
	format  *astiav.FormatContext
	coded   *astiav.CodecParameters // of the video, as the demuxer has them now
	packet  *astiav.Packet
	video   *video
	time    *timeline
	cut     *cut                   // nil when all of the input is wanted
	notices map[notice.Notice]bool // sent, by code and stream

	pending []Unit  // read and, but for the first ones, not yet handed out
	handed  int     // of pending; all are never: it is emptied then
	preroll int64   // bytes of the packets in pending, while there is no picture yet
	drained bool    // no packet and no frame will come any more
	eof     bool    // the demuxer has ended; the decoder may still hold frames
	end     []int64 // how far each stream reaches, in its time base, or NoTimestamp
	good    struct {
		packets, damaged uint64 // sent and damaged when the last picture came
		read             int64  // bytes read then
		size             int64  // mean bytes of a picture, with what lies between
	}
	known bool // the first bytes are those of a format we read
	late  bool // the format's streams show up only after its header
	given bool // the first picture has been decoded and Media is complete

	frames, skipped, bytes, damaged, sent atomic.Uint64
	busy                                  atomic.Int64
}

// Open reads the head of an input, up to and including its first picture, so that Media knows what frames will look like.
//
// r blocks until there are bytes; when ctx ends, its Read must return ctx's cause. What is wrong with the input is an
// *InputError; the reader's, the spool's and ctx's errors are returned as they are.
func Open(ctx context.Context, r io.Reader, opts Options) (_ *Source, err error) {
	opts.Limits = opts.Limits.withDefaults()
	if opts.Threads <= 0 {
		opts.Threads = defaultThreads
	}
	s := &Source{opts: opts, reader: &reader{r: r}, notices: map[notice.Notice]bool{}, cut: newCut(opts.Part)}
	if opts.Live {
		s.reader.arrivals = &arrivals{}
	}
	begin, waited := s.enter(ctx)
	defer s.leave(begin, waited)
	defer func() {
		if err != nil {
			s.media.Free()
			s.Close()
		}
	}()
	if err := s.openDemuxer(); err != nil {
		return nil, err
	}
	for !s.given {
		if err := s.step(); err != nil {
			return nil, err
		}
		if s.drained && !s.given {
			return nil, s.nothingDecoded()
		}
		if err := s.checkPreroll(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// checkPreroll bounds what is held of the other streams while there is no picture to go with it.
func (s *Source) checkPreroll() error {
	if s.preroll <= s.opts.Limits.PrerollBytes {
		return nil
	}
	return inputError(Damaged, nil, "No picture could be decoded within %d MiB of the other streams.", s.opts.Limits.PrerollBytes>>20)
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	if l.MaxPixels <= 0 {
		l.MaxPixels = d.MaxPixels
	}
	if l.MaxStreams <= 0 {
		l.MaxStreams = d.MaxStreams
	}
	if l.MaxPacketBytes <= 0 {
		l.MaxPacketBytes = d.MaxPacketBytes
	}
	if l.MaxHeadBytes <= 0 {
		l.MaxHeadBytes = d.MaxHeadBytes
	}
	if l.ProbeBytes <= 0 {
		l.ProbeBytes = d.ProbeBytes
	}
	if l.AnalyzeDuration <= 0 {
		l.AnalyzeDuration = d.AnalyzeDuration
	}
	if l.PrerollBytes <= 0 {
		l.PrerollBytes = d.PrerollBytes
	}
	return l
}

// Media returns what the input holds. It is the caller's from now on, who calls its Free when Source and output are closed.
func (s *Source) Media() *av.Media { return s.media }

// Next returns the next frame or packet, in the order in which the file holds them, except that a frame comes when the decoder
// has finished it. It returns io.EOF at the end, and the cause of ctx soon after ctx ends. It waits while the pool has no memory for
// a frame. After any error the Source is only good to be closed.
func (s *Source) Next(ctx context.Context) (Unit, error) {
	begin, waited := s.enter(ctx)
	defer s.leave(begin, waited)
	for len(s.pending) == 0 || s.cut.waiting() {
		if s.drained && s.cut.waiting() {
			return Unit{}, s.cut.missed()
		}
		if s.drained {
			return Unit{}, io.EOF
		}
		if err := s.step(); err != nil {
			return Unit{}, err
		}
		if s.cut.waiting() {
			if err := s.checkPreroll(); err != nil {
				return Unit{}, err
			}
		}
	}
	u := s.pending[s.handed]
	s.pending[s.handed] = Unit{}
	if s.handed++; s.handed == len(s.pending) {
		s.pending, s.handed = s.pending[:0], 0
	}
	if u.Frame != nil {
		s.frames.Add(1)
	}
	return u, nil
}

// Stats returns the counters.
func (s *Source) Stats() Stats {
	return Stats{
		Frames:         s.frames.Load(),
		Skipped:        s.skipped.Load(),
		Bytes:          s.bytes.Load(),
		VideoPackets:   s.sent.Load(),
		DamagedPackets: s.damaged.Load(),
		Busy:           time.Duration(s.busy.Load()),
	}
}

// SkipUnreferenced makes the decoder leave out pictures that no other is built upon, or stop doing so: the cheapest way to fall
// behind less. It may be called between two calls of Next.
func (s *Source) SkipUnreferenced(skip bool) {
	if s.video != nil {
		av.SkipUnreferenced(s.video.codec, skip)
	}
}

// Unread returns what has been read of the input and not been looked at, for another Source that goes on after ErrChanged.
func (s *Source) Unread() []byte { return s.input.Unread() }

// Close frees everything but Media and what Next has handed out. A second call does nothing.
func (s *Source) Close() error {
	for _, u := range s.pending {
		u.free()
	}
	s.pending = nil
	s.drained = true
	if s.cut != nil {
		s.cut.skim.free()
	}
	if s.video != nil {
		s.video.close()
		s.video = nil
	}
	s.closeFormat()
	av.FreePacket(s.packet)
	s.packet = nil
	s.input.Free()
	if s.spool != nil {
		err := s.spool.Close()
		s.spool = nil
		return err
	}
	return nil
}

// enter makes ctx the one that ends waiting during a call. What it returns is for leave.
func (s *Source) enter(ctx context.Context) (begin time.Time, waited time.Duration) {
	s.reader.ctx = ctx
	return time.Now(), s.reader.waited
}

// leave ends the call that enter began, and counts the time it has worked.
func (s *Source) leave(begin time.Time, waited time.Duration) {
	s.busy.Add(int64(time.Since(begin) - (s.reader.waited - waited)))
	s.bytes.Store(uint64(s.reader.read))
	s.reader.ctx = nil
}

// notify sends a notice unless one of the same code and stream has been sent.
func (s *Source) notify(code notice.Code, stream int, text string) {
	key := notice.Notice{Code: code, Stream: stream}
	if s.notices[key] || s.opts.Notify == nil {
		return
	}
	s.notices[key] = true
	s.opts.Notify(notice.Notice{Code: code, Text: text, Stream: stream})
}

// step does one piece of work: takes one frame from the decoder, or reads one packet.
func (s *Source) step() error {
	if err := context.Cause(s.reader.ctx); err != nil {
		return err
	}
	if s.cut.over() {
		if s.partIsWhole() {
			s.drained = true
			return nil
		}
		return s.readPacket()
	}
	got, err := s.video.receive()
	switch {
	case err != nil:
		return err
	case got == receivedFrame:
		return nil
	case got == receivedEnd:
		s.drained = true
		s.checkLength()
		return nil
	}
	return s.readPacket()
}

func (s *Source) readPacket() error {
	if s.cut != nil {
		if p := s.cut.skim.next(); p != nil {
			defer av.FreePacket(p)
			return s.sendHeld(p)
		}
		if s.eof {
			return s.video.drain()
		}
	}
	s.input.Allow(s.opts.Limits.MaxPacketBytes)
	if err := s.format.ReadFrame(s.packet); err != nil {
		if err := s.inputErr(); err != nil {
			return err
		}
		switch {
		case errors.Is(err, astiav.ErrEagain):
			return nil
		case !errors.Is(err, astiav.ErrEof):
			s.noteDamage("The input ends early or is damaged; what could be read up to there is used.")
		}
		s.eof = true
		if s.cut.over() {
			s.drained = true
			return nil
		}
		if s.cut != nil {
			s.cut.skim.over = true
			return nil // what is held goes to the decoder, then it is drained
		}
		return s.video.drain()
	}
	defer s.packet.Unref()
	i := s.packet.StreamIndex()
	if s.opts.Live && (s.changed(i) || s.stuck()) {
		return ErrChanged
	}
	if i >= len(s.media.Streams) {
		s.notify(notice.StreamDropped, i, "A stream that begins in the middle of the file is left out.")
		return nil
	}
	if int64(s.packet.Size()) > s.opts.Limits.MaxPacketBytes {
		return inputError(TooLarge, nil, "A packet of the input has %d bytes; at most %d are accepted.",
			s.packet.Size(), s.opts.Limits.MaxPacketBytes)
	}
	if s.packet.Flags().Has(astiav.PacketFlagCorrupt) {
		s.noteDamage("Parts of the input are damaged or missing.")
	}
	s.time.packet(s.packet, i != s.media.VideoIndex)
	s.noteEnd(i, s.packet)
	if i == s.media.VideoIndex {
		if s.cut.over() {
			return nil
		}
		held, err := s.skims(s.packet)
		if held || err != nil {
			return err
		}
		if s.cut != nil && len(s.cut.skim.held) > 0 { // this one after those
			own := av.AllocPacket()
			if own == nil {
				return errNoMemory
			}
			own.MoveRef(s.packet)
			s.cut.skim.held = append(s.cut.skim.held, own)
			return nil
		}
		s.reader.arrivals.packet(s.packet)
		return s.video.send(s.packet)
	}
	if !s.cut.wants(s.packet, s.media.Streams[i]) {
		return nil
	}
	p := av.AllocPacket()
	if p == nil {
		return errNoMemory
	}
	p.MoveRef(s.packet)
	out := av.NewPacket(p, s.media.Streams[i].TimeBase)
	s.pending = append(s.pending, Unit{Packet: out})
	if !s.given || s.cut.waiting() {
		s.preroll += int64(out.Size())
	}
	return nil
}

// Stuck is a running stream that goes on without pictures: FFmpeg's MPEG-TS demuxer does not see that a stream has changed its codec,
// and what reaches the decoder then is damaged packets, or nothing.
const (
	// stuckPackets is how many packets may go by without a picture, most of them damaged: half a second at 25 pictures a second.
	stuckPackets = 12

	// stuckPictures is how many pictures' worth of bytes may go by without one, more than any decoder keeps back, and stuckBytes
	// how many bytes at least, for what is read at once.
	stuckPictures = 50
	stuckBytes    = 256 << 10

	// sizeMemory is how many pictures the running mean of their size looks back.
	sizeMemory = 32
)

// picture remembers where the stream stands when a picture comes.
func (s *Source) picture() {
	if s.given {
		s.good.size += (s.reader.read - s.good.read - s.good.size) / sizeMemory
	}
	s.good.packets, s.good.damaged, s.good.read = s.sent.Load(), s.damaged.Load(), s.reader.read
}

// stuck tells whether the decoder can make nothing of what comes.
func (s *Source) stuck() bool {
	if !s.given {
		return false
	}
	if read := s.reader.read - s.good.read; read > stuckBytes && read > stuckPictures*s.good.size {
		return true
	}
	return s.sent.Load()-s.good.packets > stuckPackets && s.damaged.Load()-s.good.damaged > stuckPackets/2
}

// changed tells whether the packet's stream, of the demuxer's number i, is a video other than the one being decoded, or the same
// in another codec.
func (s *Source) changed(i int) bool {
	switch {
	case i == s.media.VideoIndex:
		return s.coded.CodecID() != s.media.Video().Params.CodecID()
	case i < len(s.media.Streams):
		return false
	}
	streams := s.format.Streams()
	return i < len(streams) && streams[i].CodecParameters().MediaType() == astiav.MediaTypeVideo
}

// sendHeld gives a packet that was held back to the decoder.
func (s *Source) sendHeld(p *astiav.Packet) error {
	if s.cut.skim.dropped {
		s.cut.skim.dropped = false
		if err := s.video.restart(); err != nil {
			return err
		}
	}
	return s.video.send(p)
}

// noteDamage counts a damaged packet or frame, and tells the user once.
func (s *Source) noteDamage(text string) {
	s.damaged.Add(1)
	s.notify(notice.InputDamaged, notice.NoStream, text)
}

// noteEnd remembers how far each stream reaches.
func (s *Source) noteEnd(i int, p *astiav.Packet) {
	if t := p.Pts(); t != av.NoTimestamp {
		s.end[i] = max(s.end[i], t+p.Duration())
	}
}

// missing is how many seconds a file may end before its header says without being called truncated: headers round, and
// count the last frame's duration in different ways.
const missing = 0.5

// checkLength tells the user when the file has ended long before its header says. A truncated file is no error for most
// demuxers: it just ends.
func (s *Source) checkLength() {
	if s.media.DurationGuessed {
		return
	}
	// Matroska's duration counts from zero, the others' from the first packet: from zero is the more careful reading.
	reached, promised := math.Inf(-1), s.media.Info.Duration.Seconds()
	for i, st := range s.media.Streams {
		if s.end[i] != av.NoTimestamp {
			reached = max(reached, st.TimeBase.Seconds(s.end[i]))
		}
		if st.Duration > 0 && st.StartTime != av.NoTimestamp && !st.AttachedPicture {
			promised = max(promised, st.TimeBase.Seconds(st.StartTime+st.Duration))
		}
	}
	if promised-reached > missing && !math.IsInf(reached, 0) {
		s.noteDamage("The input ends early; what could be read up to there is used.")
	}
}

// nothingDecoded says why there is no picture at all.
func (s *Source) nothingDecoded() error {
	if s.damaged.Load() == 0 {
		return inputError(Damaged, nil, "The input has no picture: it ends before the first one.")
	}
	return inputError(Damaged, nil, "No picture of the input could be decoded: it is damaged, truncated, or larger than %d pixels.",
		s.opts.Limits.MaxPixels)
}

// inputErr returns the reader's error as the caller should see it, nil when the reader is fine.
func (s *Source) inputErr() error {
	err := s.input.Err()
	if errors.Is(err, av.ErrTooMuch) {
		return inputError(TooLarge, err, "The input claims a packet or a header larger than is accepted.")
	}
	return err
}

var errNoMemory = errors.New("out of memory for a packet")

// reader counts what is read from r and how long that had to wait, and stops with the cause of ctx.
type reader struct {
	ctx    context.Context
	r      io.Reader
	read   int64
	ended  bool // r has told its end
	waited time.Duration

	arrivals *arrivals // of a running stream
}

func (r *reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	begin := time.Now()
	n, err := r.r.Read(p)
	r.waited += time.Since(begin)
	r.read += int64(max(n, 0))
	r.arrivals.note(r.read)
	r.ended = r.ended || err == io.EOF
	return n, err
}

// microseconds returns a duration in FFmpeg's microseconds.
func microseconds(d time.Duration) int64 { return int64(d / time.Microsecond) }

// isVideo tells whether a stream shows moving pictures: not cover art and not preview pictures.
func isVideo(s *av.Stream) bool {
	return s.Kind == media.KindVideo && !s.AttachedPicture && !s.Disposition.Has(astiav.DispositionFlagTimedThumbnails)
}
