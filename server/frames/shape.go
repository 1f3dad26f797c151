package frames

import (
	"encoding/binary"
	"fmt"

	"upscaler/internal/av"
	"upscaler/internal/frame"
)

// maxSide is the most pixels a picture may have in a row or a column: what the engines and FFmpeg's scaler take.
const maxSide = 32768

// InputError says what is wrong with what the client sent. Its text is one sentence for people.
type InputError struct {
	Field string // of the contract: start.width, frame.strides
	Text  string
}

func (e *InputError) Error() string { return e.Text }

func inputError(field, format string, args ...any) error {
	return &InputError{Field: field, Text: fmt.Sprintf(format, args...)}
}

// Shape is what all pictures of a call have in common: size and pixel format.
type Shape struct {
	Width, Height int

	name    string
	format  frame.Format
	packing av.Interleaved
}

// NewShape checks what a client says of its pictures. Its errors are *InputError.
func NewShape(width, height uint32, pixelFormat string, maxPixels int64) (Shape, error) {
	s := Shape{Width: int(width), Height: int(height), name: pixelFormat}
	for _, side := range []struct {
		field string
		n     int
	}{{"start.width", s.Width}, {"start.height", s.Height}} {
		if side.n < 1 || side.n > maxSide {
			return s, inputError(side.field, "pictures of %dx%d cannot be upscaled: each side must have 1 to %d pixels", s.Width, s.Height, maxSide)
		}
	}
	if int64(s.Width)*int64(s.Height) > maxPixels {
		return s, inputError("start.width", "pictures of %dx%d have more than the %d pixels that this server takes", s.Width, s.Height, maxPixels)
	}
	var ok bool
	if s.format, s.packing, ok = av.NamedFormat(pixelFormat); !ok {
		return s, inputError("start.pixel_format",
			"the pixel format %.40q is not taken: name a planar YUV or gray one as FFmpeg does (yuv420p, yuv444p10le, gray), nv12 or p010le", pixelFormat)
	}
	return s, nil
}

// plane is a plane as the client sends it.
type plane struct{ row, rows int } // bytes in a row, without a gap

// planes returns the planes of a picture in the client's layout.
func (s Shape) planes() []plane {
	var list []plane
	for i := range s.format.Planes() {
		w, h := s.format.PlaneSize(i, s.Width, s.Height)
		if s.packing.Chroma && i == 1 {
			return append(list, plane{2 * w * s.format.SampleBytes(), h})
		}
		list = append(list, plane{w * s.format.SampleBytes(), h})
	}
	return list
}

// check returns the strides of a picture, or an *InputError unless data holds exactly the picture.
func (s Shape) check(data []byte, strides []uint32) ([]int, error) {
	planes := s.planes()
	if len(strides) != 0 && len(strides) != len(planes) {
		return nil, inputError("frame.strides", "there are %d strides for the %d planes of %s: send one for each, or none", len(strides), len(planes), s.name)
	}
	checked := make([]int, len(planes))
	var total int64
	for i, p := range planes {
		checked[i] = p.row
		if len(strides) != 0 {
			checked[i] = int(strides[i])
		}
		if checked[i] < p.row {
			return nil, inputError("frame.strides", "the stride of plane %d is %d, but its rows have %d bytes", i, checked[i], p.row)
		}
		total += int64(checked[i]) * int64(p.rows)
	}
	if total != int64(len(data)) {
		return nil, inputError("frame.data", "the frame has %d bytes, but %s of %dx%d with these strides has %d", len(data), s.name, s.Width, s.Height, total)
	}
	return checked, nil
}

// load copies a picture in the client's layout into a planar frame. What check has returned for it are its strides.
func (s Shape) load(dst *frame.Frame, data []byte, strides []int) {
	for i, p := range s.planes() {
		for y := range p.rows {
			row := data[y*strides[i]:][:p.row]
			switch {
			case s.packing.Chroma && i == 1:
				cb, cr := dst.Planes[1], dst.Planes[2]
				s.split(cb.Data[y*cb.Stride:], cr.Data[y*cr.Stride:], row)
			default:
				to := dst.Planes[i].Data[y*dst.Planes[i].Stride:][:p.row]
				copy(to, row)
				s.lower(to)
			}
		}
		data = data[strides[i]*p.rows:]
	}
}

// lower brings a row's samples to the low end of their bytes. What then exceeds the format's depth, as no decoder makes it,
// becomes white: engine and scaler need not know what to do with it.
func (s Shape) lower(row []byte) {
	depth := s.format.Depth
	if depth == 8 || depth == 16 {
		return
	}
	if s.packing.Shift > 0 {
		for x := 0; x < len(row); x += 2 {
			binary.LittleEndian.PutUint16(row[x:], binary.LittleEndian.Uint16(row[x:])>>s.packing.Shift)
		}
		return
	}
	white := uint16(1)<<depth - 1
	var all uint64
	x := 0
	for ; x+8 <= len(row); x += 8 {
		all |= binary.LittleEndian.Uint64(row[x:])
	}
	for ; x < len(row); x += 2 {
		all |= uint64(binary.LittleEndian.Uint16(row[x:]))
	}
	if all&(0x0001_0001_0001_0001*uint64(^white)) == 0 {
		return
	}
	for x := 0; x < len(row); x += 2 {
		binary.LittleEndian.PutUint16(row[x:], min(binary.LittleEndian.Uint16(row[x:]), white))
	}
}

// split takes a row of Cb and Cr in turns apart.
func (s Shape) split(cb, cr, both []byte) {
	if s.format.SampleBytes() == 1 {
		for x := range len(both) / 2 {
			cb[x], cr[x] = both[2*x], both[2*x+1]
		}
		return
	}
	for x := 0; x < len(both)/2; x += 2 {
		binary.LittleEndian.PutUint16(cb[x:], binary.LittleEndian.Uint16(both[2*x:])>>s.packing.Shift)
		binary.LittleEndian.PutUint16(cr[x:], binary.LittleEndian.Uint16(both[2*x+2:])>>s.packing.Shift)
	}
}

// store puts the scaled chroma and alpha planes into a packed frame whose luma is there, and brings it all into the client's
// layout.
func (s Shape) store(dst *frame.Frame, scaled [4]frame.Plane) {
	if !s.packing.Chroma {
		for i := 1; i < s.format.Planes(); i++ {
			av.CopyPlane(dst.Planes[i], scaled[i])
		}
		return
	}
	luma := dst.Planes[0]
	if s.packing.Shift > 0 {
		for x := 0; x < len(luma.Data); x += 2 {
			binary.LittleEndian.PutUint16(luma.Data[x:], binary.LittleEndian.Uint16(luma.Data[x:])<<s.packing.Shift)
		}
	}
	row := 2 * dst.Planes[1].Stride
	rest := dst.Bytes()[len(luma.Data):]
	for y := range dst.Planes[1].Height {
		s.merge(rest[y*row:][:row], scaled[1].Data[y*scaled[1].Stride:], scaled[2].Data[y*scaled[2].Stride:])
	}
}

// merge makes a row of Cb and Cr in turns.
func (s Shape) merge(both, cb, cr []byte) {
	if s.format.SampleBytes() == 1 {
		for x := range len(both) / 2 {
			both[2*x], both[2*x+1] = cb[x], cr[x]
		}
		return
	}
	for x := 0; x < len(both)/2; x += 2 {
		binary.LittleEndian.PutUint16(both[2*x:], binary.LittleEndian.Uint16(cb[x:])<<s.packing.Shift)
		binary.LittleEndian.PutUint16(both[2*x+2:], binary.LittleEndian.Uint16(cr[x:])<<s.packing.Shift)
	}
}
