package encode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync/atomic"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// The frame rates that encoders are told, in frames a second. The rate guides rate control only, timestamps are exact without
// it; SVT-AV1 refuses rates above 240.
const (
	fallbackRate = 25
	maxRate      = 240
)

// video completes pictures and encodes them. It belongs to one goroutine.
type video struct {
	plan     *Layout
	color    av.Color
	sar      media.Rational
	timeBase media.Rational
	rate     media.Rational

	codec  *astiav.CodecContext
	frame  *astiav.Frame // in the encoder's pixel format
	work   *astiav.Frame // in the composed format, when that is another one
	planes *av.PlaneScaler
	luma   *av.LumaScaler // of the bicubic picture to compare with, else nil
	conv   *av.FormatConverter
	still  *av.StillConverter // after all else, when the encoder stores a still picture
	loan   *av.Loan           // of the upscaled luma, when it can go to the encoder as it is; else it is copied
	packet *astiav.Packet

	keys     keyFrames
	begun    bool              // the encoder has been given a picture
	inside   map[int64]encoded // the frames inside the encoder, by PTS
	frames   atomic.Int64
	packets  atomic.Int64
	position atomic.Int64 // PTS of the last frame taken
}

// encoded is what is added to a frame once it is a packet.
type encoded struct {
	duration int64
	message  []byte // HDR10+ metadata; nil for none
}

// openVideo opens the encoder. Extra options (the user's) that it refuses are an *OptionError.
func openVideo(m *av.Media, plan *Layout, globalHeader bool, threads int) (_ *video, err error) {
	s := m.Video()
	v := &video{
		plan:     plan,
		color:    encodable(m.Color),
		sar:      s.SampleAspectRatio,
		timeBase: m.VideoTimeBase,
		rate:     frameRate(s),
		inside:   map[int64]encoded{},
	}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	if v.timeBase.Num <= 0 || v.timeBase.Den <= 0 {
		return nil, fmt.Errorf("the video stream has no time base")
	}
	v.keys = newKeyFrames(plan.live, av.AVRational(v.timeBase))
	if err := v.openCodec(m, globalHeader, threads); err != nil {
		return nil, err
	}
	if v.frame, err = av.AllocPicture(plan.target, plan.Width, plan.Height); err != nil {
		return nil, err
	}
	if plan.composed != plan.target {
		if v.work, err = av.AllocPicture(plan.composed, plan.Width, plan.Height); err != nil {
			return nil, err
		}
		if v.conv, err = av.NewFormatConverter(plan.composed, plan.target, plan.Width, plan.Height, m.Color.ChromaLocation); err != nil {
			return nil, err
		}
	}
	if plan.encoder.still {
		if v.still, err = av.NewStillConverter(plan.target, m.Color, plan.Width, plan.Height, plan.pixels, plan.turn); err != nil {
			return nil, err
		}
		v.color.Range, v.color.Space = av.RangeFull, av.SpaceUnknown // of RGB
	}
	scaled := plan.working
	scaled.Alpha = plan.composed.Alpha
	if v.planes, err = av.NewPlaneScaler(scaled, m.Width, m.Height, plan.scale, m.Color.ChromaLocation); err != nil {
		return nil, err
	}
	if plan.compare != nil {
		if v.luma, err = av.NewLumaScaler(plan.working.Depth, m.Width, m.Height, plan.scale); err != nil {
			return nil, err
		}
	}
	if plan.lends(m) {
		if v.loan, err = av.NewLoan(); err != nil {
			return nil, err
		}
	}
	if v.packet = av.AllocPacket(); v.packet == nil {
		return nil, errors.New("no memory for a packet")
	}
	return v, nil
}

// lends tells whether the upscaled luma is the encoder's first plane as it is.
func (l *Layout) lends(m *av.Media) bool {
	return l.encoder.copies && l.composed == l.target && l.compare == nil && l.Width == m.Width*l.scale && l.Height == m.Height*l.scale
}

func frameRate(s *av.Stream) media.Rational {
	for _, r := range []media.Rational{s.AvgFrameRate, s.RealFrameRate} {
		if r.Num > 0 && r.Den > 0 {
			if r.Float() > maxRate {
				return media.Rational{Num: maxRate, Den: 1}
			}
			return r
		}
	}
	return media.Rational{Num: fallbackRate, Den: 1}
}

// encodable returns the colour description with what no encoder accepts replaced by "unknown": numbers that the standard reserves,
// and a matrix for RGB, which the samples, being YUV, contradict.
func encodable(c av.Color) av.Color {
	if c.Space <= 0 || c.Space == 3 || c.Space > 14 {
		c.Space = av.SpaceUnknown
	}
	if c.Primaries <= 0 || c.Primaries == 3 || c.Primaries > 12 && c.Primaries != 22 {
		c.Primaries = av.PrimariesUnknown
	}
	if c.Transfer <= 0 || c.Transfer == 3 || c.Transfer > 18 {
		c.Transfer = av.TransferUnknown
	}
	return c
}

func (v *video) openCodec(m *av.Media, globalHeader bool, threads int) error {
	plan := v.plan
	codec, err := plan.encoder.find()
	if err != nil {
		return err
	}
	if v.codec = av.AllocEncoder(codec); v.codec == nil {
		return fmt.Errorf("no memory for the encoder %s", codec.Name())
	}
	c := v.codec
	width, height := plan.turn.Size(plan.Width, plan.Height)
	c.SetWidth(width)
	c.SetHeight(height)
	c.SetPixelFormat(plan.pixels)
	c.SetTimeBase(av.AVRational(v.timeBase))
	c.SetFramerate(av.AVRational(v.rate))
	c.SetSampleAspectRatio(av.AVRational(v.sar))
	c.SetThreadCount(threads)
	// A group of pictures that needs none of the one before: an interrupted output is gone on with from such a place, and players
	// seek there.
	c.SetFlags(c.Flags().Add(astiav.CodecContextFlagClosedGop))
	if globalHeader {
		c.SetFlags(c.Flags().Add(astiav.CodecContextFlagGlobalHeader))
	}
	av.SetEncoderColor(c, v.color)
	static := av.StaticSideData(m.Video().Params)
	for _, sd := range m.FirstSideData {
		switch sd.Type {
		case av.SideDataMasteringDisplay, av.SideDataContentLight, av.SideDataAmbientViewing:
			static = append(static, sd) // replaces the container's: the stream itself is nearer to the truth
		}
	}
	for _, sd := range static {
		if err := av.AddEncoderSideData(c, sd); err != nil {
			return err
		}
	}
	err = av.WithOptions(v.options(threads), func(d *astiav.Dictionary) error { return c.Open(codec, d) })
	if err == nil {
		return nil
	}
	if plan.settings.user {
		return optionError("encoder_options", "%s refuses to start with these options: %v.", plan.encoder.name, err)
	}
	return fmt.Errorf("the encoder %s does not start for %dx%d %s: %w", codec.Name(), plan.Width, plan.Height, plan.PixelFormat, err)
}

// options completes the job's settings by what depends on the machine and on the picture.
func (v *video) options(threads int) map[string]string {
	plan := v.plan
	o := maps.Clone(plan.settings.options)
	add := func(key string, params ...string) { // to a list of the encoder's own parameters; the user's come first
		if have := o[key]; have != "" {
			params = append([]string{have}, params...)
		}
		o[key] = strings.Join(params, ":")
	}
	lookahead := lookaheadFrames(plan)
	if plan.live != nil {
		lookahead = defaultLookahead // there is none to be bounded
	}
	switch plan.encoder.codec {
	case CodecH264:
		if _, set := o["rc-lookahead"]; !set && lookahead < defaultLookahead {
			o["rc-lookahead"] = strconv.Itoa(lookahead)
		}
	case CodecHEVC:
		add("x265-params", "log-level=none", "pools="+strconv.Itoa(threads)) // it prints to stderr, and takes all cores
		if lookahead < defaultLookahead {
			add("x265-params", "rc-lookahead="+strconv.Itoa(lookahead))
		}
	case CodecAV1:
		if _, set := o["g"]; v.keys.every > 0 && !set { // it cannot be asked for a key frame
			o["g"] = strconv.Itoa(max(1, int(plan.live.KeyFrameInterval.Seconds()*v.rate.Float())))
		}
		add("svtav1-params", "lp="+strconv.Itoa(threads)) // logical processors
		if plan.Tune != "" {
			add("svtav1-params", "tune="+plan.Tune)
		}
		o["err_detect"] = "explode" // else it ignores parameters that it does not understand
	case CodecVP9:
		if plan.target.Alpha {
			o["auto-alt-ref"] = "0" // libvpx cannot combine hidden frames with transparency
		}
		if lookahead < defaultLookahead {
			o["lag-in-frames"] = strconv.Itoa(lookahead)
		}
	}
	return o
}

// lookaheadMemory is the most memory in bytes that the pictures in an encoder's lookahead may take. With up to 40 frames, as the
// presets have it, 4K would take 500 MB a job.
const lookaheadMemory = 256 << 20

// defaultLookahead is where the encoders' presets lie; minLookahead is what B-frame decisions need at least.
const (
	defaultLookahead = 25
	minLookahead     = 5
)

func lookaheadFrames(plan *Layout) int {
	n := lookaheadMemory / max(plan.target.Bytes(plan.Width, plan.Height), 1)
	return int(min(max(n, minLookahead), defaultLookahead))
}

// encode completes the picture of f with its upscaled luma, encodes it, and calls emit for each packet that comes out, which
// emit must not keep.
func (v *video) encode(f *frame.Frame, luma frame.Plane, emit func(*astiav.Packet) error) error {
	if err := v.compose(f, luma); err != nil {
		return err
	}
	switch {
	case v.still != nil:
		if err := v.still.Convert(v.frame); err != nil {
			return err
		}
		return v.send(v.still.Frame(), f, emit)
	case v.loan != nil:
		picture, err := v.loan.Lend(v.frame, luma)
		if err != nil {
			return err
		}
		if err := v.send(picture, f, emit); err != nil {
			return err
		}
		return v.loan.TakeBack()
	}
	return v.send(v.frame, f, emit)
}

// send encodes the complete picture of f.
func (v *video) send(picture *astiav.Frame, f *frame.Frame, emit func(*astiav.Packet) error) error {
	duration := f.Duration
	if duration <= 0 {
		duration = astiav.RescaleQ(1, astiav.NewRational(v.rate.Den, v.rate.Num), av.AVRational(v.timeBase))
	}
	if err := av.SetFrameProperties(picture, f.PTS, duration, v.sar, v.color, v.sideData(f)); err != nil {
		return err
	}
	if _, twice := v.inside[f.PTS]; twice {
		return fmt.Errorf("two frames have the presentation time %d", f.PTS)
	}
	v.inside[f.PTS] = encoded{duration, v.message(f)}
	v.keys.mark(picture, f.PTS)
	v.begun = true
	v.frames.Add(1)
	v.position.Store(f.PTS)
	if err := v.codec.SendFrame(picture); err != nil {
		return fmt.Errorf("encoding frame %d with %s: %w", v.frames.Load(), v.plan.Encoder, err)
	}
	return v.receive(emit)
}

// message returns a frame's HDR10+ metadata for HEVC, whose encoder does not take it.
func (v *video) message(f *frame.Frame) []byte {
	if v.plan.encoder.codec != CodecHEVC {
		return nil
	}
	for _, sd := range f.SideData {
		if m, ok := av.HDR10PlusMessage(sd); ok {
			return m
		}
	}
	return nil
}

// sideData returns what of a frame's side data the encoder is to see: Dolby Vision's is left out, for it describes the picture
// before scaling and needs a configuration that the output does not have.
func (v *video) sideData(f *frame.Frame) []frame.SideData {
	kept := f.SideData[:0:0]
	for _, sd := range f.SideData {
		switch sd.Type {
		case av.SideDataDolbyVision, av.SideDataDolbyVisionRPU:
		case av.SideDataHDR10Plus:
			if v.plan.keepsHDR10Plus(sd) {
				kept = append(kept, sd)
			}
		case av.SideDataICCProfile: // describes RGB
			if v.still != nil {
				kept = append(kept, sd)
			}
		default:
			kept = append(kept, sd)
		}
	}
	return kept
}

// drain ends the stream and emits what the encoder still holds.
func (v *video) drain(emit func(*astiav.Packet) error) error {
	if err := v.codec.SendFrame(nil); err != nil && !errors.Is(err, astiav.ErrEof) {
		return fmt.Errorf("ending the stream of %s: %w", v.plan.Encoder, err)
	}
	return v.receive(emit)
}

func (v *video) receive(emit func(*astiav.Packet) error) error {
	for {
		err := av.ReceivePacket(v.codec, v.packet)
		if errors.Is(err, astiav.ErrEagain) || errors.Is(err, astiav.ErrEof) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("encoding with %s: %w", v.plan.Encoder, err)
		}
		pts := v.packet.Pts()
		from, known := v.inside[pts]
		if !known {
			v.packet.Unref()
			return fmt.Errorf("%s returned a frame with the presentation time %d, which no frame had", v.plan.Encoder, pts)
		}
		delete(v.inside, pts)
		v.packet.SetDuration(from.duration)
		v.packets.Add(1)
		if from.message != nil {
			err = av.AddMessage(v.packet, from.message)
		}
		if err == nil {
			err = emit(v.packet)
		}
		v.packet.Unref()
		if err != nil {
			return err
		}
	}
}

// compose makes the complete picture in v.frame, but for luma that is lent to the encoder.
func (v *video) compose(f *frame.Frame, luma frame.Plane) error {
	plan := v.plan
	w, h := f.Width*plan.scale, f.Height*plan.scale
	if luma.Width != w || luma.Height != h || luma.Depth != f.Format.Depth {
		return fmt.Errorf("the upscaled luma is %dx%d of %d bits, want %dx%d of %d", luma.Width, luma.Height, luma.Depth, w, h, f.Format.Depth)
	}
	dst := v.frame
	if v.work != nil {
		dst = v.work
		if err := av.RenewFrame(v.work, plan.composed, plan.Width, plan.Height); err != nil {
			return err
		}
	}
	if err := av.RenewFrame(v.frame, plan.target, plan.Width, plan.Height); err != nil {
		return err
	}
	planes := av.FramePlanes(dst, plan.composed)
	src := *f
	if !plan.composed.Alpha {
		src.Format.Alpha = false
	}
	if err := v.planes.Scale(planes, &src); err != nil {
		return err
	}
	if c := plan.compare; c == nil {
		if v.loan == nil {
			av.CopyPlane(planes[0], luma)
		}
		v.finish(planes, f, w, h)
	} else if err := v.compareWith(planes, f, luma); err != nil {
		return err
	}
	if v.conv == nil {
		return nil
	}
	if err := v.conv.Convert(v.frame, v.work); err != nil {
		return err
	}
	if plan.composed.Alpha && plan.target.Alpha && plan.target.Depth > plan.composed.Depth {
		i := plan.target.Planes() - 1
		widen(av.FramePlanes(v.frame, plan.target)[i], planes[i])
	}
	return nil
}

// finish completes planes whose first w x h pixels are set, but for gray's chroma.
func (v *video) finish(planes [4]frame.Plane, f *frame.Frame, w, h int) {
	composed := v.plan.composed
	for i := range composed.Planes() {
		if f.Format.Gray && (i == 1 || i == 2) {
			fillNeutral(planes[i])
			continue
		}
		pw, ph := composed.PlaneSize(i, w, h)
		pad(planes[i], pw, ph)
	}
}

// widen copies an alpha plane to a deeper one so that opaque stays opaque. The scaler only shifts values, which is right for
// limited range, but alpha has the full range.
func widen(dst, src frame.Plane) {
	from, to := 1<<src.Depth-1, 1<<dst.Depth-1
	for y := range src.Height {
		in, out := src.Data[y*src.Stride:], dst.Data[y*dst.Stride:]
		for x := range src.Width {
			var v int
			if src.Depth > 8 {
				v = int(binary.LittleEndian.Uint16(in[2*x:]))
			} else {
				v = int(in[x])
			}
			binary.LittleEndian.PutUint16(out[2*x:], uint16((v*to+from/2)/from))
		}
	}
}

// fillNeutral sets a chroma plane to no colour.
func fillNeutral(p frame.Plane) {
	for y := range p.Height {
		row := p.Data[y*p.Stride:]
		if p.Depth <= 8 {
			for x := range p.Width {
				row[x] = 1 << (p.Depth - 1)
			}
			continue
		}
		for x := range p.Width {
			row[2*x], row[2*x+1] = 0, byte(1<<(p.Depth-9))
		}
	}
}

// pad repeats the last of w columns and h rows to the right and down to the plane's end.
func pad(p frame.Plane, w, h int) {
	n := 1
	if p.Depth > 8 {
		n = 2
	}
	for y := 0; y < h && w < p.Width; y++ {
		row := p.Data[y*p.Stride:]
		for x := w; x < p.Width; x++ {
			copy(row[x*n:(x+1)*n], row[(w-1)*n:w*n])
		}
	}
	for y := h; y < p.Height; y++ {
		copy(p.Data[y*p.Stride:y*p.Stride+p.Width*n], p.Data[(h-1)*p.Stride:])
	}
}

func (v *video) close() {
	if v.codec != nil && v.packet != nil && v.plan.encoder.codec == CodecAV1 && !v.begun {
		// SVT-AV1 waits for ever when it is freed before its first picture.
		_ = v.codec.SendFrame(v.frame)
		_ = v.drain(func(*astiav.Packet) error { return nil })
	}
	av.FreeEncoder(v.codec)
	av.FreeFrame(v.frame)
	av.FreeFrame(v.work)
	av.FreePacket(v.packet)
	v.conv.Close()
	v.still.Close()
	if v.planes != nil {
		v.planes.Close()
	}
	v.luma.Close()
	v.loan.Close() // after the encoder
	v.codec, v.frame, v.work, v.packet, v.conv, v.still, v.planes, v.luma, v.loan = nil, nil, nil, nil, nil, nil, nil, nil, nil
}
