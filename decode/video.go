package decode

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"
	"upscaler/internal/notice"

	"github.com/asticode/go-astiav"
)

// video decodes one stream and brings its pictures into pooled Go memory, all of one size and layout.
type video struct {
	s     *Source
	codec *astiav.CodecContext
	frame *astiav.Frame
	crop  av.Crop

	draining bool
	failures int // of the decoder in a row

	opaque  bool               // the first picture is, and all are taken to be, since nearly all GIFs have a transparent colour and few use it
	direct  bool               // the first picture's format is copied, not converted
	source  astiav.PixelFormat // the first picture's format
	convert av.Converter       // for pictures that differ from the first, and for formats without a planar layout
	unit    int64              // of Media.VideoTimeBase in one of the stream's
	fields  *deinterlacer      // nil until an interlaced picture has come

	cannotDeinterlace bool
}

// maxFailures bounds how many errors a decoder may give in a row before it gets the next packet, or is taken to have ended; its
// threads may each have one.
const maxFailures = 64

func newVideo(s *Source) (*video, error) {
	st := s.media.Video()
	v := &video{s: s, crop: av.TakeCrop(st.Params), unit: 1}
	if unit := s.opts.unit(); int64(st.TimeBase.Den)*unit <= math.MaxInt32 {
		v.unit = unit
		s.media.VideoTimeBase.Den = st.TimeBase.Den * int(unit)
	}
	codec := decoder(st)
	if v.codec = astiav.AllocCodecContext(codec); v.codec == nil {
		return nil, errNoMemory
	}
	av.TrackOpen()
	if v.frame = av.AllocFrame(); v.frame == nil {
		v.close()
		return nil, errNoMemory
	}
	if err := v.codec.FromCodecParameters(st.Params); err != nil {
		v.close()
		return nil, fmt.Errorf("setting up the decoder: %w", err)
	}
	av.SetPacketTimeBase(v.codec, st.TimeBase)
	options := map[string]string{
		"threads":    strconv.Itoa(s.opts.Threads),
		"max_pixels": strconv.FormatInt(codecPixels(s.opts.Limits.MaxPixels), 10),
	}
	if s.opts.Live { // threads that work on frames of their own each keep one back
		options["thread_type"], options["flags"] = "slice", "+low_delay"
	}
	err := av.WithOptions(options, func(d *astiav.Dictionary) error {
		if err := v.codec.Open(codec, d); err != nil {
			return inputError(Damaged, err, "The %s decoder cannot be started with this input's header; it is damaged or not supported.",
				av.CodecName(st.Params.CodecID()))
		}
		return nil
	})
	if err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

// codecPixels returns the limit for FFmpeg's decoders when pictures of max pixels are to pass: they hold it against sizes rounded
// up to whole blocks and vectors (64 pixels). checkSize then looks at the true size.
func codecPixels(max int64) int64 { return max + max/8 + 1<<20 }

// decoder returns the decoder for a stream: FFmpeg's preferred one, except where WebM carries alpha in a second picture, which
// only libvpx decodes.
func decoder(st *av.Stream) *astiav.Codec {
	for _, kv := range st.Metadata {
		if strings.EqualFold(kv.Key, "alpha_mode") && kv.Value == "1" {
			name := map[astiav.CodecID]string{astiav.CodecIDVp8: "libvpx", astiav.CodecIDVp9: "libvpx-vp9"}[st.Params.CodecID()]
			if c := astiav.FindDecoderByName(name); name != "" && c != nil {
				return c
			}
		}
	}
	return astiav.FindDecoder(st.Params.CodecID())
}

func (v *video) close() {
	if v.fields != nil {
		v.fields.close()
		v.fields = nil
	}
	v.convert.Free()
	av.FreeFrame(v.frame)
	v.frame = nil
	if v.codec != nil {
		v.codec.Free()
		v.codec = nil
		av.TrackClose()
	}
}

// send gives a packet to the decoder, which must have been emptied by receive. A packet it cannot make sense of is counted.
func (v *video) send(p *astiav.Packet) error {
	v.failures = 0
	v.s.sent.Add(1)
	return v.judge(v.codec.SendPacket(p))
}

// restart makes the decoder forget what it was given: the next packet does not follow upon the last.
func (v *video) restart() error {
	if err := v.flush(); err != nil {
		return err
	}
	av.FlushDecoder(v.codec)
	return nil
}

// drain tells the decoder that no packet will follow, so that it gives the pictures it has kept for reordering.
func (v *video) drain() error {
	v.draining = true
	return v.judge(v.codec.SendPacket(nil))
}

// judge counts damage and lets other errors through.
func (v *video) judge(err error) error {
	switch {
	case err == nil, errors.Is(err, astiav.ErrEof), errors.Is(err, astiav.ErrEagain):
		return nil
	case errors.Is(err, noMemory):
		return inputError(TooLarge, err, "Decoding the input takes more memory than is allowed.")
	}
	v.s.noteDamage("Parts of the video are damaged and were skipped.")
	return nil
}

type received int

const (
	receivedNothing received = iota // the decoder wants a packet
	receivedFrame
	receivedEnd
)

// receive takes at most one picture from the decoder and queues what comes of it.
func (v *video) receive() (received, error) {
	err := av.ReceiveFrame(v.codec, v.frame)
	switch {
	case err == nil:
		v.failures = 0
		defer v.frame.Unref()
		return receivedFrame, v.take(v.frame)
	case errors.Is(err, astiav.ErrEagain) && !v.draining:
		return receivedNothing, nil
	case errors.Is(err, astiav.ErrEof), errors.Is(err, astiav.ErrEagain):
		return receivedEnd, v.flush()
	}
	if err := v.judge(err); err != nil {
		return receivedNothing, err
	}
	if v.failures++; v.failures <= maxFailures {
		return receivedFrame, nil // none in fact, but the decoder is to be asked again
	}
	if v.draining {
		return receivedEnd, v.flush()
	}
	return receivedNothing, nil
}

// take handles one decoded picture, which stays the caller's.
func (v *video) take(f *astiav.Frame) error {
	p := av.Inspect(f)
	if err := v.s.checkSize(p.Width, p.Height); err != nil {
		return err
	}
	if p.Corrupt {
		v.s.noteDamage("Parts of the video are damaged; the decoder has guessed what they show.")
	}
	if err := v.crop.Apply(f); err != nil {
		v.crop = av.Crop{} // nonsense in the container: show everything
		v.s.noteDamage("The container's cropping makes no sense and is ignored.")
	}
	p = av.Inspect(f)
	pts := v.s.time.frame(p.PTS, p.Duration, v.draining)
	if err := v.chooseDeinterlacer(p); err != nil {
		return err
	}
	if v.fields == nil {
		return v.emit(f, pts*v.unit, p.Duration*v.unit)
	}
	f.SetPts(pts)
	return v.fields.push(f, v.emit)
}

// flush takes what is still held back after the last picture.
func (v *video) flush() error {
	if v.fields == nil {
		return nil
	}
	fields := v.fields
	v.fields = nil
	defer fields.close()
	return fields.push(nil, v.emit)
}

// chooseDeinterlacer sets up the deinterlacer from the first picture on that asks for one; all later pictures go through it, and
// those that are not interlaced come out as they were.
func (v *video) chooseDeinterlacer(p av.Picture) error {
	mode := v.s.opts.Deinterlace
	if v.fields != nil && !v.fields.fits(p) {
		if err := v.flush(); err != nil {
			return err
		}
	}
	wanted := mode == DeinterlaceOn || mode == DeinterlaceFilm || mode == DeinterlaceAuto && p.Interlaced
	if v.fields != nil || !wanted || v.cannotDeinterlace || p.Width < minFieldsWidth || p.Height < minFieldsHeight {
		return nil
	}
	st := v.s.media.Video()
	fields, err := newDeinterlacer(p, fieldsOf{mode: mode, fieldRate: v.s.opts.FieldRate, timeBase: st.TimeBase, out: v.s.media.VideoTimeBase,
		rate: st.AvgFrameRate, threads: v.s.opts.Threads})
	if v.cannotDeinterlace = err != nil; v.cannotDeinterlace { // a pixel format that bwdif does not take
		v.s.notify(notice.MetadataReduced, v.s.media.VideoIndex,
			fmt.Sprintf("The video is interlaced, but its pixel format %s cannot be deinterlaced.", av.PixelFormatName(p.Format)))
		return nil
	}
	v.fields = fields
	text := "The video is interlaced; it is deinterlaced, one frame for each frame."
	switch {
	case mode == DeinterlaceFilm:
		text = "The video is taken for film in 60 fields a second; its frames are put together again, four of each five."
		v.changeRate(4, 5)
	case v.s.opts.FieldRate:
		text = "The video is interlaced; it is deinterlaced, one frame for each field."
		v.changeRate(2, 1)
	}
	v.s.notify(notice.Deinterlaced, v.s.media.VideoIndex, text)
	return nil
}

// changeRate makes Media tell the rate and number of the frames that will be handed out, as long as nobody has asked for it.
func (v *video) changeRate(num, den int) {
	if v.s.given {
		return
	}
	st := v.s.media.Video()
	for _, r := range []*media.Rational{&st.AvgFrameRate, &st.RealFrameRate} {
		if r.Num > 0 && r.Num <= math.MaxInt32/num && r.Den <= math.MaxInt32/den {
			r.Num, r.Den = r.Num*num, r.Den*den
		}
	}
	st.Frames = st.Frames / int64(den) * int64(num)
}

// emit copies or converts one picture into pooled memory and queues it. Times are in Media.VideoTimeBase.
func (v *video) emit(f *astiav.Frame, pts, duration int64) error {
	s := v.s
	s.picture()
	p := av.Inspect(f)
	if !s.given {
		if err := v.first(f, p); err != nil {
			return err
		}
		s.media.FirstPTS = pts
		s.cutMedia(pts)
	}
	m := s.media
	if !s.cutFrame(pts) {
		s.skipped.Add(1)
		return nil
	}
	if v.opaque && av.HasTransparency(f) {
		s.notify(notice.MetadataReduced, m.VideoIndex, "Some pictures have transparency, which is left out: the first one has none.")
	}
	dst, err := s.frame()
	if err != nil {
		return err
	}
	same := p.Width == m.Width && p.Height == m.Height
	if v.direct && same && p.Format == v.source {
		// A copy, not a reference: it takes microseconds, and what the decoder holds for a picture may be many times as large as what
		// is shown of it, which is all that the pool's budget can count.
		av.CopyPicture(dst, f)
	} else {
		switch {
		case !same:
			s.notify(notice.SizeChanged, m.VideoIndex, fmt.Sprintf(
				"The picture's size changes from %dx%d to %dx%d; all frames are scaled to the first size before upscaling.",
				m.Width, m.Height, p.Width, p.Height))
		case p.Format != v.source:
			s.notify(notice.PixelFormatConverted, m.VideoIndex, fmt.Sprintf("The pixel format changes from %s to %s; all frames are brought to the first.",
				av.PixelFormatName(v.source), av.PixelFormatName(p.Format)))
		}
		if err := v.convert.Convert(dst, f, fullIfJPEG(p, known(p.Color, m.Color)), m.Color); err != nil {
			dst.Release()
			return fmt.Errorf("converting a picture: %w", err)
		}
	}
	dst.PTS, dst.Duration = s.cut.frameTime(pts, duration)
	dst.KeyFrame = p.KeyFrame
	dst.SideData = av.SideData(f)
	s.pending = append(s.pending, Unit{Frame: dst, Came: s.reader.arrivals.frame(pts)})
	return nil
}

// first settles by the first picture what all frames will be like.
//
// RGB becomes YUV with the matrix of BT.709, which sRGB's primaries belong to whatever the size, and with the full range: the
// limited one would merge code values that differ. Both are said in Color, and so in the output's headers.
func (v *video) first(f *astiav.Frame, p av.Picture) error {
	m := v.s.media
	m.Width, m.Height = p.Width, p.Height
	m.Color = known(p.Color, m.Color)
	m.Interlaced, m.TopFieldFirst = p.Interlaced, p.TopFieldFirst
	m.FirstSideData = av.SideData(f)
	if p.SampleAspectRatio.Num != 0 && m.Video().SampleAspectRatio.Num == 0 {
		m.Video().SampleAspectRatio = p.SampleAspectRatio
	}
	v.source = p.Format
	if m.Working, v.direct = av.Layout(p.Format); v.direct {
		m.Color = fullIfJPEG(p, m.Color)
	} else {
		var ok bool
		picture := m.Info.Container == "gif" || m.Info.Container == "apng" || strings.HasSuffix(m.Info.Container, "_pipe")
		v.opaque = picture && !av.HasTransparency(f)
		if m.Working, ok = av.Nearest(p.Format, v.opaque); !ok {
			return inputError(Unsupported, nil, "The video's pixel format (%s) is not supported.", av.PixelFormatName(p.Format))
		}
		if av.IsRGB(p.Format) {
			if deep := m.Working; (v.s.opts.Stills || v.s.opts.Part.Pictures == 1) && deep.Depth < stillDepth {
				deep.Depth = stillDepth
				m.Working = deep
				v.s.notify(notice.PixelFormatConverted, m.VideoIndex,
					"The picture's RGB is YUV of 10 bits on its way; colours come back to within one code value.")
			}
			m.Color.Range, m.Color.Space, m.Color.ChromaLocation = av.RangeFull, av.SpaceBT709, 0
			if m.Color.Primaries == av.PrimariesUnknown {
				m.Color.Primaries = av.PrimariesBT709
			}
			if m.Color.Transfer == av.TransferUnknown {
				m.Color.Transfer = av.TransferSRGB
			}
		}
		to, _ := av.PixelFormatOf(m.Working)
		v.s.notify(notice.PixelFormatConverted, m.VideoIndex, fmt.Sprintf("The video's pixel format %s is converted to %s.",
			av.PixelFormatName(p.Format), av.PixelFormatName(to)))
	}
	m.Video().Params.SetPixelFormat(p.Format)
	m.UpdateInfo()
	v.s.given = true
	if like := v.s.opts.Like; like != nil {
		v.direct = v.direct && m.Working == like.Working && m.Color == like.Color
		m.Width, m.Height, m.Working, m.Color = like.Width, like.Height, like.Working, like.Color
	}
	return nil
}

// stillDepth is the depth in bits that RGB is at least worked on with when it becomes a still picture, which is RGB again: 8 bits
// of YUV tell apart a quarter of the colours that 8 bits of RGB do.
const stillDepth = 10

// known returns c with what it does not say taken from rest.
func known(c, rest av.Color) av.Color {
	if c.Range == av.RangeUnknown {
		c.Range = rest.Range
	}
	if c.Space == av.SpaceUnknown {
		c.Space = rest.Space
	}
	if c.Primaries == av.PrimariesUnknown {
		c.Primaries = rest.Primaries
	}
	if c.Transfer == av.TransferUnknown {
		c.Transfer = rest.Transfer
	}
	if c.ChromaLocation == 0 {
		c.ChromaLocation = rest.ChromaLocation
	}
	return c
}

// fullIfJPEG returns c with the full range when the pixel format's name says so (yuvj420p).
func fullIfJPEG(p av.Picture, c av.Color) av.Color {
	if strings.HasPrefix(av.PixelFormatName(p.Format), "yuvj") {
		c.Range = av.RangeFull
	}
	return c
}

// frame takes a frame from the pool, and does not count the time that takes as work.
func (s *Source) frame() (*frame.Frame, error) {
	begin := time.Now()
	defer func() { s.reader.waited += time.Since(begin) }()
	f, err := s.opts.Pool.Get(s.reader.ctx, s.media.Working, s.media.Width, s.media.Height)
	if err == nil {
		return f, nil
	}
	var tooLarge *frame.TooLargeError
	if errors.As(err, &tooLarge) {
		return nil, inputError(TooLarge, err, "One %dx%d frame of the input takes more memory than a job may hold.",
			s.media.Width, s.media.Height)
	}
	return nil, err
}
