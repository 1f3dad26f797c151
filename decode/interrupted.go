package decode

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"upscaler/internal/av"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// outputFormats are the demuxers of what this service writes.
const outputFormats = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts"

// maxReorder is how many pictures decoding may run ahead of presentation in any codec: H.264 and HEVC allow 16.
const maxReorder = 16

// EncodedVideo says which stream of an interrupted output is the upscaled video.
type EncodedVideo struct {
	Codec         string // FFmpeg's name
	Width, Height int
	Order         int // how many other video streams come before it
}

// Interrupted is an output that was interrupted: it hands out the packets of its video as far as no picture is missing among them.
// It is as little to be believed as any input, and is opened by the same rules. One goroutine uses it.
type Interrupted struct {
	r      io.ReadSeeker
	size   int64
	want   EncodedVideo
	limits Limits
	ctx    context.Context // of the call that is going on

	input  *av.Input
	format *astiav.FormatContext
	stream int // the video's index
	packet *astiav.Packet

	header   []byte
	timeBase media.Rational
	frames   int
	delay    int
	start    int64 // the first picture's time
	end      int64 // the time at which the pictures end
	left     int   // packets not yet handed out
}

// OpenInterrupted looks through the size bytes of an interrupted output for what can be used of it. An output that is damaged,
// truncated or something else altogether is no error: there is only less to be used, down to nothing. Errors are r's and
// ctx's. r must stay until Close.
func OpenInterrupted(ctx context.Context, r io.ReadSeeker, size int64, want EncodedVideo, limits Limits) (*Interrupted, error) {
	k := &Interrupted{r: r, size: size, want: want, limits: limits.withDefaults(), ctx: ctx}
	usable, err := k.open()
	if err == nil && usable {
		k.survey()
		err = k.failure()
	}
	k.closeFormat()
	if err == nil && k.frames > 0 {
		if usable, err = k.open(); !usable {
			k.frames = 0
		}
	}
	if err != nil {
		k.Close()
		return nil, err
	}
	k.left, k.ctx = k.frames, nil
	return k, nil
}

// Frames returns how many pictures can be used.
func (k *Interrupted) Frames() int { return k.frames }

// Header returns the codec's header (extradata) as the file has it.
func (k *Interrupted) Header() []byte { return k.header }

// Delay returns by how many pictures decoding runs ahead of presentation.
func (k *Interrupted) Delay() int { return k.delay }

// TimeBase returns the unit of the packets' times in seconds.
func (k *Interrupted) TimeBase() media.Rational { return k.timeBase }

// Seconds returns for how long the pictures that can be used are shown.
func (k *Interrupted) Seconds() float64 {
	if k.frames == 0 {
		return 0
	}
	return k.timeBase.Seconds(k.end - k.start)
}

// Next returns the next packet in decoding order, which the caller frees, or io.EOF after Frames of them.
func (k *Interrupted) Next(ctx context.Context) (*av.Packet, error) {
	if k.left == 0 {
		return nil, io.EOF
	}
	k.ctx = ctx
	defer func() { k.ctx = nil }()
	if !k.read() {
		if err := k.failure(); err != nil {
			return nil, err
		}
		return nil, errors.New("the interrupted output reads differently the second time")
	}
	k.left--
	p := av.AllocPacket()
	if p == nil {
		k.packet.Unref()
		return nil, errNoMemory
	}
	p.MoveRef(k.packet)
	return av.NewPacket(p, k.timeBase), nil
}

// Close frees everything; a second call does nothing.
func (k *Interrupted) Close() {
	k.closeFormat()
	k.left = 0
}

func (k *Interrupted) closeFormat() {
	if k.format != nil {
		k.format.CloseInput()
		k.format = nil
		av.TrackClose()
	}
	av.FreePacket(k.packet)
	k.packet = nil
	k.input.Free()
	k.input = nil
}

// open opens the demuxer at the file's beginning. usable is false when it holds no such video.
func (k *Interrupted) open() (usable bool, err error) {
	head := make([]byte, min(k.size, maxHead))
	if _, err := k.r.Seek(0, io.SeekStart); err != nil {
		return false, fmt.Errorf("rewinding the interrupted output: %w", err)
	}
	if _, err := io.ReadFull(k.r, head); err != nil {
		return false, fmt.Errorf("reading the interrupted output: %w", err)
	}
	begin := growing(head)
	if _, err := k.r.Seek(int64(len(begin)), io.SeekStart); err != nil {
		return false, fmt.Errorf("rewinding the interrupted output: %w", err)
	}
	// It is read front to back, as it was written.
	if k.input, err = av.NewInput(io.MultiReader(bytes.NewReader(begin), &followed{k}), -1); err != nil {
		return false, err
	}
	if k.packet = av.AllocPacket(); k.packet == nil {
		return false, errNoMemory
	}
	k.input.Allow(k.limits.MaxHeadBytes)
	more := map[string]string{}
	if len(head) >= 8 && string(head[4:8]) == "ftyp" {
		// The edit list of an MP4 that still grows has the length zero, which FFmpeg takes by its word for the first fragment and
		// shows none of it.
		more["advanced_editlist"] = "0"
	}
	var opened bool
	if k.format, opened, err = openFormat(k.input, outputFormats, "", k.limits, more); !opened || err != nil {
		return false, k.failure()
	}
	if k.format.NbStreams() > k.limits.MaxStreams {
		return false, nil
	}
	if err := av.FindStreamInfo(k.format, codecPixels(k.limits.MaxPixels)); err != nil {
		return false, k.failure()
	}
	return k.findVideo(), k.failure()
}

func (k *Interrupted) findVideo() bool {
	order := 0
	for i, s := range k.format.Streams() {
		p := s.CodecParameters()
		if p.MediaType() != astiav.MediaTypeVideo || s.DispositionFlags().Has(astiav.DispositionFlagAttachedPic) {
			s.SetDiscard(astiav.DiscardAll)
			continue
		}
		if order == k.want.Order {
			k.stream, k.header, k.timeBase = i, p.ExtraData(), av.Rational(s.TimeBase())
			return av.CodecName(p.CodecID()) == k.want.Codec && p.Width() == k.want.Width && p.Height() == k.want.Height
		}
		s.SetDiscard(astiav.DiscardAll)
		order++
	}
	return false
}

// survey counts the packets that can be used: those before the last place where every picture that follows is also shown later,
// and far enough from the end that none of an earlier time can have followed there. A group of pictures may end anywhere: none
// of its pictures needs one that is decoded later.
func (k *Interrupted) survey() {
	var (
		count  int
		last   int64   // the latest time of those before recent
		recent []int64 // the times of the last packets
	)
	for k.read() {
		pts := k.packet.Pts()
		isKey := k.packet.Flags().Has(astiav.PacketFlagKey)
		k.packet.Unref()
		if count == 0 {
			if !isKey {
				return // nothing to build upon
			}
			k.start, last = pts, pts
		}
		count++
		ahead := 0
		for _, other := range recent {
			if other > pts {
				ahead++
			}
		}
		k.delay = max(k.delay, ahead)
		if recent = append(recent, pts); len(recent) <= maxReorder {
			continue
		}
		last = max(last, recent[0])
		recent = recent[1:]
		if next := slices.Min(recent); next > last {
			k.frames, k.end = count-len(recent), next
		}
	}
}

// read reads the video's next packet; false at the end, at damage, and where times are missing.
func (k *Interrupted) read() bool {
	for {
		k.input.Allow(k.limits.MaxPacketBytes)
		if err := k.format.ReadFrame(k.packet); err != nil {
			return false
		}
		if k.packet.StreamIndex() != k.stream {
			k.packet.Unref()
			continue
		}
		if k.packet.Flags().Has(astiav.PacketFlagCorrupt) || k.packet.Pts() == av.NoTimestamp || k.packet.Size() == 0 {
			k.packet.Unref()
			return false
		}
		return true
	}
}

// failure returns the error of the reader or of the context; what is wrong with the file is none.
func (k *Interrupted) failure() error {
	if k.input == nil {
		return nil
	}
	if err := k.input.Err(); err != nil && !errors.Is(err, av.ErrTooMuch) {
		return err
	}
	return nil
}

// followed reads the file and stops with the cause of the call's context.
type followed struct{ k *Interrupted }

func (f *followed) Read(p []byte) (int, error) {
	if err := context.Cause(f.k.ctx); err != nil {
		return 0, err
	}
	return f.k.r.Read(p)
}

// growing returns the first bytes of an MP4 as they were while it grew, when it had just been completed: its muxer makes all
// fragments the content of one mdat box then, whose header goes over that of the first index, which is at the beginning. None
// for other files. The layout is that of FFmpeg's hybrid_fragmented: ftyp, an empty free or wide, moov.
func growing(head []byte) []byte {
	const header = 8
	if len(head) < header || string(head[4:8]) != "ftyp" {
		return nil
	}
	start := int(binary.BigEndian.Uint32(head))
	end := start + 2*header // of the two headers that follow, and of a single large one of a file above 4 GiB
	if start < header || start > maxHead || end > len(head) || string(head[start+4:start+8]) != "mdat" && string(head[start+12:start+16]) != "mdat" {
		return nil
	}
	for at := end; at+header <= len(head); {
		size := int(binary.BigEndian.Uint32(head[at:]))
		switch kind := string(head[at+4 : at+8]); {
		case at == end && kind != "mvhd", size < header, size > maxHead:
			return nil
		case kind == "mdat", kind == "moof", kind == "sidx":
			begin := append(slices.Clone(head[:start]), "\x00\x00\x00\x08free"...)
			begin = binary.BigEndian.AppendUint32(begin, uint32(at-start-header))
			return append(begin, "moov"...)
		}
		at += size
	}
	return nil
}
