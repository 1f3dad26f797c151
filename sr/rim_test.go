package sr

import (
	"fmt"
	"testing"

	"upscaler/internal/frame"
)

// rimmed makes src larger by repeating its pixels, with lines along the edges of it as networks make them.
func rimmed(src frame.Plane, scale, off int) frame.Plane {
	dst := newPlane(src.Width*scale, src.Height*scale, src.Depth)
	for y := range dst.Height {
		for x := range dst.Width {
			v := get(src, x/scale, y/scale)
			if edge := min(x, y, dst.Width-1-x, dst.Height-1-y) / scale; edge < rim {
				v += off * (1 - 2*(edge%2))
			}
			set1(dst, x, y, max(0, min(1<<src.Depth-1, v)))
		}
	}
	return dst
}

// TestMendRim: flat areas are within one code value of what they were up to the edge; where there is detail, and within the frame, all
// stays as it is.
func TestMendRim(t *testing.T) {
	for _, size := range [][2]int{{40, 30}, {5, 30}, {40, 1}, {16, 16}, {17, 3}} {
		for _, depth := range []int{8, 10, 16} {
			for _, scale := range []int{2, 3, 4} {
				t.Run(fmt.Sprint(size, depth, scale), func(t *testing.T) {
					flat := newPlane(size[0], size[1], depth)
					for y := range flat.Height {
						for x := range flat.Width {
							set1(flat, x, y, 16)
						}
					}
					dst := rimmed(flat, scale, 7)
					MendRim(flat, dst)
					for y := range dst.Height {
						for x := range dst.Width {
							if v := get(dst, x, y); v < 15 || v > 17 {
								t.Fatalf("sample %d,%d is %d, want 16", x, y, v)
							}
						}
					}
					detail := noise(size[0], size[1], depth, 3)
					within := rimmed(detail, scale, 0)
					MendRim(detail, within)
					if !equalPlanes(within, rimmed(detail, scale, 0)) {
						t.Error("what is in the range of its surroundings has changed")
					}
				})
			}
		}
	}
	// Further in nothing is looked at.
	flat := newPlane(64, 64, 8)
	dst := newPlane(128, 128, 8)
	set1(dst, 2*rim, 2*rim, 99)
	set1(dst, 127-2*rim, 127-2*rim, 99)
	MendRim(flat, dst)
	if get(dst, 2*rim, 2*rim) != 99 || get(dst, 127-2*rim, 127-2*rim) != 99 {
		t.Error("samples beyond the rim have changed")
	}
}

func BenchmarkMendRim(b *testing.B) {
	src := noise(640, 360, 8, 1)
	dst := rimmed(src, 2, 7)
	for b.Loop() {
		MendRim(src, dst)
	}
}
