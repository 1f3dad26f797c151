// Package frame holds decoded pictures in Go memory and the pool that bounds how much of it a job may hold.
package frame

// Format is the layout of a planar picture: luma, two chroma planes (absent for gray), and alpha when there is one. Samples
// of 8 bits take one byte, deeper ones two, little-endian, in the low bits.
type Format struct {
	Depth   int  // bits a sample: 8, 9, 10, 12, 14 or 16
	Gray    bool // no chroma planes
	Alpha   bool
	ChromaW int // log2 of the horizontal chroma subsampling: 1 for 4:2:0 and 4:2:2, 0 for 4:4:4
	ChromaH int // log2 of the vertical chroma subsampling: 1 for 4:2:0
}

// SampleBytes returns the bytes a sample takes: 1 or 2.
func (f Format) SampleBytes() int {
	if f.Depth > 8 {
		return 2
	}
	return 1
}

// Planes returns how many planes a picture of this format has: 1 (gray), 2 (gray and alpha), 3 or 4.
func (f Format) Planes() int {
	n := 3
	if f.Gray {
		n = 1
	}
	if f.Alpha {
		n++
	}
	return n
}

// PlaneSize returns the width and height in samples of plane i of a picture of w x h pixels. Chroma sizes round up, as
// FFmpeg's do. The planes are in the order luma, Cb, Cr, alpha.
func (f Format) PlaneSize(i, w, h int) (int, int) {
	if f.Gray || i == 0 || i == 3 {
		return w, h
	}
	return (w + 1<<f.ChromaW - 1) >> f.ChromaW, (h + 1<<f.ChromaH - 1) >> f.ChromaH
}

// Bytes returns the bytes that all planes of a w x h picture take without padding.
func (f Format) Bytes(w, h int) int64 {
	var n int64
	for i := range f.Planes() {
		pw, ph := f.PlaneSize(i, w, h)
		n += int64(pw) * int64(ph) * int64(f.SampleBytes())
	}
	return n
}

// Plane is a rectangle of samples.
type Plane struct {
	Data   []byte
	Stride int // bytes from one row to the next
	Width  int // samples
	Height int
	Depth  int // bits a sample
}

// SideData is one piece of metadata that FFmpeg attaches to a frame (dynamic HDR, captions), kept as it is.
type SideData struct {
	Type int // AVFrameSideDataType
	Data []byte
}

// Frame is one decoded picture. It belongs to one goroutine at a time; Release returns its memory to the pool.
type Frame struct {
	Width, Height int
	Format        Format
	Planes        [4]Plane // the first Format.Planes() are set
	PTS           int64    // in the time base of the source's video stream
	Duration      int64    // in the same time base; 0 when unknown
	KeyFrame      bool
	SideData      []SideData

	buf  []byte
	pool *Pool
}
