package av

import (
	"strings"

	"upscaler/internal/frame"

	"github.com/asticode/go-astiav"
)

// Interleaved tells how a semi-planar pixel format differs from the planar one of its layout: Cb and Cr take turns in one plane.
type Interleaved struct {
	Chroma bool
	Shift  int // the samples stand so many bits above the low end of their two bytes
}

// NamedFormat returns the layout of the planar or semi-planar pixel format (nv12, p010) that FFmpeg has under this name. ok is
// false for all others, packed and RGB formats among them. Formats that differ in their range alone (yuvj420p) are one.
func NamedFormat(name string) (format frame.Format, packing Interleaved, ok bool) {
	if rest, full := strings.CutPrefix(name, "yuvj"); full {
		name = "yuv" + rest
	}
	p := astiav.FindPixelFormatByName(name)
	format, ok = Layout(p)
	if !ok {
		return frame.Format{}, Interleaved{}, false
	}
	if planar, _ := PixelFormatOf(format); planar == p {
		return format, Interleaved{}, true
	}
	switch p {
	case astiav.PixelFormatNv12:
		return format, Interleaved{Chroma: true}, true
	case astiav.PixelFormatP010Le:
		return format, Interleaved{Chroma: true, Shift: 16 - format.Depth}, true
	}
	return frame.Format{}, Interleaved{}, false
}

// BufferedScaler is a PlaneScaler with a picture in C memory to write to. It belongs to one goroutine.
type BufferedScaler struct {
	scaler  *PlaneScaler
	picture *astiav.Frame
	planes  [4]frame.Plane
}

// NewBufferedScaler takes what NewPlaneScaler takes. The caller owns it and calls Close.
func NewBufferedScaler(format frame.Format, srcW, srcH, factor, location int) (*BufferedScaler, error) {
	s := &BufferedScaler{}
	var err error
	if s.scaler, err = NewPlaneScaler(format, srcW, srcH, factor, location); err != nil {
		return nil, err
	}
	if format.Planes() > 1 {
		if s.picture, err = AllocPicture(format, srcW*factor, srcH*factor); err != nil {
			s.Close()
			return nil, err
		}
		s.planes = FramePlanes(s.picture, format)
	}
	return s, nil
}

// Scale enlarges the chroma and alpha planes of src and returns them in their places among the planes; the first, luma, holds
// nothing. They are valid until the next call.
func (s *BufferedScaler) Scale(src *frame.Frame) ([4]frame.Plane, error) {
	return s.planes, s.scaler.Scale(s.planes, src)
}

// Close frees the scaler. A second call does nothing.
func (s *BufferedScaler) Close() {
	s.scaler.Close()
	FreeFrame(s.picture)
	s.picture, s.planes = nil, [4]frame.Plane{}
}
