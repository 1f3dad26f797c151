package sr

import (
	"bytes"

	"upscaler/internal/frame"
)

// MemoLimit is the most bytes a job spends on remembering its last frame and its result: enough for x2 of 10-bit 4K. Larger
// frames are simply always computed.
const MemoLimit = 128 << 20

// MemoBytes is the memory that a job keeps besides the planes it is given, for frames of the given size.
func MemoBytes(width, height, depth, scale int) int64 {
	n := int64(width) * int64(height) * int64(sampleBytes(depth)) * int64(1+scale*scale)
	if n > MemoLimit {
		return 0
	}
	return n
}

// memo remembers a job's last frame, so that bands whose input (halo included) did not change are not computed again: exact,
// and nearly free beside inference. Screen recordings, slides, animation and people before a still background consist mostly of
// such bands. The job's mutex guards it.
type memo struct {
	src, dst frame.Plane
	grid     *grid
	scale    int
	valid    bool     // src holds a frame
	leaders  []*piece // for each band, the piece that computes the result for src, or held; nil when there is none
}

// held stands in a memo for the pieces whose results it holds.
var held = &piece{}

func newMemo(src, dst frame.Plane, g *grid, scale int) *memo {
	m := &memo{src: src, dst: dst, grid: g, scale: scale, leaders: make([]*piece, len(g.bands))}
	for _, p := range []*frame.Plane{&m.src, &m.dst} {
		p.Stride = p.Width * sampleBytes(p.Depth)
		p.Data = make([]byte, p.Stride*p.Height)
	}
	return m
}

// fits reports whether the memo is for frames like src.
func (m *memo) fits(src frame.Plane) bool {
	return m.src.Width == src.Width && m.src.Height == src.Height && m.src.Depth == src.Depth
}

// find sets leaders to those whose result is that of each band of src, nil where the band's input differs from the last frame's.
func (m *memo) find(leaders []*piece, src frame.Plane) {
	clear(leaders)
	if !m.valid {
		return
	}
	size := sampleBytes(src.Depth)
	tile, same := -1, 0 // same: rows above y, without a gap, that are equal
	y := 0
	for i, b := range m.grid.bands {
		t := m.grid.tiles[b.tile]
		if b.tile != tile {
			tile, same, y = b.tile, 0, t.y
		}
		first, end := m.grid.input(b)
		for ; y < end; y++ {
			at, from := m.src.Data[y*m.src.Stride+t.x*size:], src.Data[y*src.Stride+t.x*size:]
			if bytes.Equal(at[:m.grid.width*size], from[:m.grid.width*size]) {
				same++
			} else {
				same = 0
			}
		}
		if same >= end-first {
			leaders[i] = m.leaders[i]
		}
	}
}

// lead makes p the piece that later frames take the result of its bands from.
func (m *memo) lead(p *piece) {
	for i := p.first; i < p.end; i++ {
		m.leaders[i] = p
	}
}

// keep copies the result of a finished piece, where no later one has taken its place.
func (m *memo) keep(p *piece, dst frame.Plane) {
	for i := p.first; i < p.end; {
		end := i
		for end < p.end && m.leaders[end] == p {
			end++
		}
		if end > i {
			for k := i; k < end; k++ {
				m.leaders[k] = held
			}
			copyPlane(m.grid.output(i, end, m.dst, m.scale), m.grid.output(i, end, dst, m.scale))
		}
		i = max(end, i+1)
	}
}

// drop makes sure that nothing takes over the result of a piece.
func (m *memo) drop(p *piece) {
	for i := p.first; i < p.end; i++ {
		if m.leaders[i] == p {
			m.leaders[i] = nil
		}
	}
}

// remember makes src the frame that the next one is compared with.
func (m *memo) remember(src frame.Plane) {
	copyPlane(m.src, src)
	m.valid = true
}

func copyPlane(dst, src frame.Plane) {
	n := src.Width * sampleBytes(src.Depth)
	for y := range src.Height {
		copy(dst.Data[y*dst.Stride:][:n], src.Data[y*src.Stride:][:n])
	}
}
