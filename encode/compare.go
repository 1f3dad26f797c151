package encode

import (
	"encoding/binary"
	"fmt"

	"upscaler/internal/av"
	"upscaler/internal/frame"
)

// comparison is a picture that shows another twice, side by side once it is turned as its container asks for.
type comparison struct {
	w, h         int  // of a half, in pixels
	stacked      bool // the halves lie one above the other as coded: the picture is turned by a quarter to be looked at
	bicubicFirst bool // the bicubic half is the left or upper one as coded
}

// lineWidth is how much of each half the line between them takes, in luma samples.
const lineWidth = 1

// double makes room for a second picture beside the first.
func (l *Layout) double(turn av.Orientation) error {
	c := &comparison{w: l.Width, h: l.Height, stacked: turn.Transpose, bicubicFirst: !turn.FlipX}
	switch { // a chroma sample belongs to one half
	case c.stacked && l.composed.ChromaH > 0:
		c.h += c.h & 1
	case !c.stacked && l.composed.ChromaW > 0:
		c.w += c.w & 1
	}
	l.compare = c
	if l.Width, l.Height = 2*c.w, c.h; c.stacked {
		l.Width, l.Height = c.w, 2*c.h
	}
	if l.Width > maxSide || l.Height > maxSide {
		return &UnsupportedError{Text: fmt.Sprintf("The comparison would be %dx%d pixels; the largest that can be encoded is %dx%d.",
			l.Width, l.Height, maxSide, maxSide)}
	}
	return nil
}

// half returns the first or second half of a picture's planes.
func (c *comparison) half(planes [4]frame.Plane, format frame.Format, second bool) (half [4]frame.Plane) {
	for i := range format.Planes() {
		p := planes[i]
		p.Width, p.Height = format.PlaneSize(i, c.w, c.h)
		switch {
		case second && c.stacked:
			p.Data = p.Data[p.Height*p.Stride:]
		case second:
			p.Data = p.Data[p.Width*format.SampleBytes():]
		}
		half[i] = p
	}
	return half
}

// compareWith fills both halves of a picture whose first pixels already have chroma and alpha.
func (v *video) compareWith(planes [4]frame.Plane, f *frame.Frame, luma frame.Plane) error {
	c, composed := v.plan.compare, v.plan.composed
	first, second := c.half(planes, composed, false), c.half(planes, composed, true)
	bicubic, model := first, second
	if !c.bicubicFirst {
		bicubic, model = second, first
	}
	// Chroma and bicubic luma first: their scaler may write a little further than it should.
	for i := 1; i < composed.Planes(); i++ {
		av.CopyPlane(second[i], first[i])
	}
	if err := v.luma.Scale(bicubic[0], f.Luma()); err != nil {
		return err
	}
	av.CopyPlane(model[0], luma)
	v.finish(first, f, luma.Width, luma.Height)
	v.finish(second, f, luma.Width, luma.Height)
	if c.stacked {
		drawLine(planes[0], 0, c.h-lineWidth, c.w, 2*lineWidth)
	} else {
		drawLine(planes[0], c.w-lineWidth, 0, 2*lineWidth, c.h)
	}
	return nil
}

// drawLine fills a rectangle of a luma plane with white.
func drawLine(p frame.Plane, x, y, w, h int) {
	white := 235 << (p.Depth - 8)
	for j := y; j < min(y+h, p.Height); j++ {
		row := p.Data[j*p.Stride:]
		for i := x; i < min(x+w, p.Width); i++ {
			if p.Depth > 8 {
				binary.LittleEndian.PutUint16(row[2*i:], uint16(white))
			} else {
				row[i] = byte(white)
			}
		}
	}
}
