package av

import (
	"encoding/binary"
	"math"
	"testing"

	"upscaler/internal/frame"
)

func TestOrientation(t *testing.T) {
	matrix := func(a, b, c, d int32) []byte {
		var m []byte
		for _, v := range []int32{a, b, 0, c, d, 0, 0, 0, 1 << 30} {
			m = binary.NativeEndian.AppendUint32(m, uint32(v))
		}
		return m
	}
	const one = 1 << 16
	diagonal := int32(math.Round(one * math.Sqrt2 / 2))
	for _, c := range []struct {
		name   string
		matrix []byte
		want   Orientation
	}{
		{"none", matrix(one, 0, 0, one), Orientation{}},
		{"half turn", matrix(-one, 0, 0, -one), Orientation{FlipX: true, FlipY: true}},
		{"quarter turn clockwise", matrix(0, one, -one, 0), Orientation{Transpose: true, FlipX: true}},
		{"quarter turn back", matrix(0, -one, one, 0), Orientation{Transpose: true, FlipY: true}},
		{"mirror", matrix(-one, 0, 0, one), Orientation{FlipX: true}},
		{"a few degrees", matrix(one-100, 3600, -3600, one-100), Orientation{}},
		{"half way", matrix(diagonal, diagonal, -diagonal, diagonal), Orientation{}},
		{"short", matrix(0, one, -one, 0)[:35], Orientation{}},
		{"nothing", nil, Orientation{}},
		{"extremes", matrix(math.MinInt32, math.MaxInt32, math.MinInt32, math.MinInt32), Orientation{FlipX: true, FlipY: true}},
	} {
		if got := orientation(c.matrix); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestStillFormat(t *testing.T) {
	for _, c := range []struct {
		format frame.Format
		deep   bool
		want   string
	}{
		{frame.Format{Depth: 8, ChromaW: 1, ChromaH: 1}, false, "rgb24"},
		{frame.Format{Depth: 10}, false, "rgb24"},
		{frame.Format{Depth: 10}, true, "rgb48be"},
		{frame.Format{Depth: 8, Alpha: true}, false, "rgba"},
		{frame.Format{Depth: 16, Alpha: true}, true, "rgba64be"},
		{frame.Format{Depth: 8, Gray: true}, false, "gray"},
		{frame.Format{Depth: 16, Gray: true}, true, "gray16be"},
	} {
		if got := PixelFormatName(StillFormat(c.format, c.deep)); got != c.want {
			t.Errorf("StillFormat(%+v, %v) = %s, want %s", c.format, c.deep, got, c.want)
		}
	}
}
