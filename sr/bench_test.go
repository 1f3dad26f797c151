package sr

import (
	"testing"

	"upscaler/internal/frame"
)

// BenchmarkMemo measures what remembering frames costs: for a frame that changed (compare, copy input, copy result) and for one that
// did not (compare, copy result), 1920x1080 at 8 bits, x2.
func BenchmarkMemo(b *testing.B) {
	src, other := noise(1920, 1080, 8, 1), noise(1920, 1080, 8, 1)
	set1(other, 1919, 1079, get(other, 1919, 1079)^1) // the worst case: all is compared
	dst := newPlane(3840, 2160, 8)
	g := cut(1920, 1080, 17, 600_000)
	m := newMemo(src, dst, g, 2)
	result := func(c tile) frame.Plane { return g.window(c, src, dst, 2).Dst }
	b.Run("changed", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			next := src
			if i%2 == 1 {
				next = other
			}
			for t := range g.tiles {
				m.leader(t, next)
				copyPlane(m.result(t), result(g.tiles[t]))
			}
			m.remember(next)
		}
	})
	b.Run("same", func(b *testing.B) {
		m.remember(src)
		for t := range m.leaders {
			m.leaders[t] = &piece{}
		}
		for b.Loop() {
			for t := range g.tiles {
				if m.leader(t, src) == nil {
					b.Fatal("not the same")
				}
				copyPlane(result(g.tiles[t]), m.result(t))
			}
		}
	})
}
