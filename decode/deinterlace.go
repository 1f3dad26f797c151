package decode

import (
	"errors"
	"fmt"

	"upscaler/internal/av"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// The smallest picture bwdif takes.
const (
	minFieldsWidth  = 3 << 1 // three columns of the chroma planes, too
	minFieldsHeight = 4 << 1
)

// deinterlacer makes progressive pictures of interlaced ones by FFmpeg's filters: one of each, or of each field, by bwdif; or those
// of the film by fieldmatch and decimate, with bwdif for what does not match. It is set up for one size and pixel format. It
// holds pictures back, since it looks at the next ones.
type deinterlacer struct {
	width, height int
	format        astiav.PixelFormat

	graph *astiav.FilterGraph
	in    *astiav.BuffersrcFilterContext
	out   *astiav.BuffersinkFilterContext
	frame *astiav.Frame
	to    astiav.Rational // the time base handed out
}

// fieldsOf says what a deinterlacer is to do.
type fieldsOf struct {
	mode      Deinterlace
	fieldRate bool
	timeBase  media.Rational // of the pictures that come
	out       media.Rational // of those that go
	rate      media.Rational // of the pictures that come, in frames a second
	threads   int
}

// graph returns the filters. With DeinterlaceOn, pictures that do not say that they are interlaced are treated as such, too.
func (o fieldsOf) graph() string {
	which, rate := "interlaced", "send_frame"
	if o.mode == DeinterlaceFilm {
		return "fieldmatch,bwdif=mode=send_frame:deint=interlaced,decimate"
	}
	if o.mode == DeinterlaceOn {
		which = "all"
	}
	if o.fieldRate {
		rate = "send_field"
	}
	return "bwdif=mode=" + rate + ":parity=auto:deint=" + which
}

// unit returns how much finer than the stream's the time base of the frames is to be: fields lie half-way between frames, and the
// frames of film at quarters of those of 60 fields a second.
func (o Options) unit() int64 {
	switch {
	case o.Deinterlace == DeinterlaceFilm:
		return 4
	case o.FieldRate && o.Deinterlace != DeinterlaceOff:
		return 2
	}
	return 1
}

// newDeinterlacer sets up a deinterlacer for pictures like p.
func newDeinterlacer(p av.Picture, o fieldsOf) (_ *deinterlacer, err error) {
	d := &deinterlacer{width: p.Width, height: p.Height, format: p.Format, graph: astiav.AllocFilterGraph(), frame: av.AllocFrame()}
	if d.graph == nil || d.frame == nil {
		return nil, errNoMemory
	}
	av.TrackOpen()
	defer func() {
		if err != nil {
			d.close()
			err = fmt.Errorf("setting up the deinterlacer: %w", err)
		}
	}()
	d.graph.SetThreadCount(o.threads)

	params := astiav.AllocBuffersrcFilterContextParameters()
	outputs, inputs := astiav.AllocFilterInOut(), astiav.AllocFilterInOut()
	defer params.Free()
	defer outputs.Free()
	defer inputs.Free()
	params.SetWidth(p.Width)
	params.SetHeight(p.Height)
	params.SetPixelFormat(p.Format)
	params.SetTimeBase(av.AVRational(o.timeBase))
	if o.rate.Num > 0 && o.rate.Den > 0 {
		params.SetFramerate(av.AVRational(o.rate))
	}
	params.SetColorSpace(astiav.ColorSpace(p.Color.Space))
	params.SetColorRange(astiav.ColorRange(p.Color.Range))
	if d.in, err = d.graph.NewBuffersrcFilterContext(astiav.FindFilterByName("buffer"), "in"); err != nil {
		return nil, err
	}
	if err = d.in.SetParameters(params); err != nil {
		return nil, err
	}
	if err = d.in.Initialize(nil); err != nil {
		return nil, err
	}
	if d.out, err = d.graph.NewBuffersinkFilterContext(astiav.FindFilterByName("buffersink"), "out"); err != nil {
		return nil, err
	}
	outputs.SetName("in")
	outputs.SetFilterContext(d.in.FilterContext())
	inputs.SetName("out")
	inputs.SetFilterContext(d.out.FilterContext())
	if err = d.graph.Parse(o.graph(), inputs, outputs); err != nil {
		return nil, err
	}
	if err = d.graph.Configure(); err != nil {
		return nil, err
	}
	// A graph that had to insert a conversion would hand out another format than it takes.
	if got := d.out.PixelFormat(); got != p.Format {
		return nil, fmt.Errorf("the filters do not take %s", av.PixelFormatName(p.Format))
	}
	d.to = av.AVRational(o.out)
	return d, nil
}

// fits tells whether a picture can go through this deinterlacer.
func (d *deinterlacer) fits(p av.Picture) bool {
	return p.Width == d.width && p.Height == d.height && p.Format == d.format
}

// push gives it a picture, whose PTS is set, or nil at the end; take gets what comes out with its presentation time and duration.
func (d *deinterlacer) push(f *astiav.Frame, take func(f *astiav.Frame, pts, duration int64) error) error {
	if err := d.in.AddFrame(f, astiav.NewBuffersrcFlags(astiav.BuffersrcFlagKeepRef)); err != nil {
		return fmt.Errorf("deinterlacing: %w", err)
	}
	for {
		err := d.out.GetFrame(d.frame, astiav.NewBuffersinkFlags())
		if errors.Is(err, astiav.ErrEagain) || errors.Is(err, astiav.ErrEof) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("deinterlacing: %w", err)
		}
		from := d.out.TimeBase()
		err = take(d.frame, astiav.RescaleQ(d.frame.Pts(), from, d.to), astiav.RescaleQ(av.Inspect(d.frame).Duration, from, d.to))
		d.frame.Unref()
		if err != nil {
			return err
		}
	}
}

func (d *deinterlacer) close() {
	if d.graph != nil {
		d.graph.Free()
		d.graph = nil
		av.TrackClose()
	}
	av.FreeFrame(d.frame)
	d.frame = nil
}
