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

// memo remembers a job's last frame, so that tiles whose input (halo included) did not change are not computed again: exact,
// and nearly free beside inference. Screen recordings, slides and animation consist mostly of such tiles. The job's mutex guards it.
type memo struct {
	src, dst frame.Plane
	grid     grid
	scale    int
	valid    bool     // src holds a frame
	leaders  []*piece // for each tile, the piece that computes or has computed the result for src; nil when there is none
}

func newMemo(src, dst frame.Plane, g grid, scale int) *memo {
	m := &memo{src: src, dst: dst, grid: g, scale: scale, leaders: make([]*piece, len(g.tiles))}
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

// leader returns the piece whose result is that of tile i of src, nil when that tile differs from the last frame's.
func (m *memo) leader(i int, src frame.Plane) *piece {
	if !m.valid || m.leaders[i] == nil {
		return nil
	}
	g, t := &m.grid, m.grid.tiles[i]
	if !equalPlanes(view(m.src, t.x, t.y, g.width, g.height), view(src, t.x, t.y, g.width, g.height)) {
		return nil
	}
	return m.leaders[i]
}

// result returns tile i's kept part of the remembered result.
func (m *memo) result(i int) frame.Plane {
	t := m.grid.tiles[i]
	return view(m.dst, t.keepX*m.scale, t.keepY*m.scale, t.keepWidth*m.scale, t.keepHeight*m.scale)
}

// remember makes src the frame that the next one is compared with.
func (m *memo) remember(src frame.Plane) {
	copyPlane(m.src, src)
	m.valid = true
}

func equalPlanes(a, b frame.Plane) bool {
	n := a.Width * sampleBytes(a.Depth)
	for y := range a.Height {
		if !bytes.Equal(a.Data[y*a.Stride:][:n], b.Data[y*b.Stride:][:n]) {
			return false
		}
	}
	return true
}

func copyPlane(dst, src frame.Plane) {
	n := src.Width * sampleBytes(src.Depth)
	for y := range src.Height {
		copy(dst.Data[y*dst.Stride:][:n], src.Data[y*src.Stride:][:n])
	}
}
