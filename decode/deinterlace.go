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

// deinterlacer makes one progressive picture of each interlaced one by FFmpeg's bwdif filter. It is set up for one size and
// pixel format. It holds one picture back, since it looks at the next one.
type deinterlacer struct {
	width, height int
	format        astiav.PixelFormat

	graph *astiav.FilterGraph
	in    *astiav.BuffersrcFilterContext
	out   *astiav.BuffersinkFilterContext
	frame *astiav.Frame
	scale int64 // units of the filter's output time base in one of the input's: bwdif halves the time base when it can
}

// newDeinterlacer sets up a deinterlacer for pictures like p with presentation times in tb. With all, pictures that do not say
// that they are interlaced are treated as such, too.
func newDeinterlacer(p av.Picture, tb media.Rational, all bool, threads int) (_ *deinterlacer, err error) {
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
	d.graph.SetThreadCount(threads)

	params := astiav.AllocBuffersrcFilterContextParameters()
	outputs, inputs := astiav.AllocFilterInOut(), astiav.AllocFilterInOut()
	defer params.Free()
	defer outputs.Free()
	defer inputs.Free()
	params.SetWidth(p.Width)
	params.SetHeight(p.Height)
	params.SetPixelFormat(p.Format)
	params.SetTimeBase(av.AVRational(tb))
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
	which := "interlaced"
	if all {
		which = "all"
	}
	if err = d.graph.Parse("bwdif=mode=send_frame:parity=auto:deint="+which, inputs, outputs); err != nil {
		return nil, err
	}
	if err = d.graph.Configure(); err != nil {
		return nil, err
	}
	// A graph that had to insert a conversion would hand out another format than it takes.
	if got := d.out.PixelFormat(); got != p.Format {
		return nil, fmt.Errorf("bwdif does not take %s", av.PixelFormatName(p.Format))
	}
	if d.scale = int64(d.out.TimeBase().Den()) / int64(tb.Den); d.scale != 2 {
		d.scale = 1
	}
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
		err = take(d.frame, d.frame.Pts()/d.scale, av.Inspect(d.frame).Duration/d.scale)
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
