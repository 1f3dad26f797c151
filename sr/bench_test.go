package sr

import "testing"

// BenchmarkMemo measures what remembering frames costs: for a frame that changed (compare, copy input, copy result) and for one that
// did not (compare, copy result), 1920x1080 at 8 bits, x2.
func BenchmarkMemo(b *testing.B) {
	src, other := noise(1920, 1080, 8, 1), noise(1920, 1080, 8, 1)
	for y := range 1080 {
		set1(other, 1919, y, get(other, 1919, y)^1) // the worst case: all is compared
	}
	dst := newPlane(3840, 2160, 8)
	g := newGrid(1920, 1080, 17, &blurNetwork{engine: &blurEngine{maxPixels: 1 << 30, rows: true}})
	m := newMemo(src, dst, g, 2)
	leaders := make([]*piece, len(g.bands))
	p := &piece{end: len(g.bands)}
	b.Run("changed", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			next := src
			if i%2 == 1 {
				next = other
			}
			m.find(leaders, next)
			m.remember(next)
			m.lead(p)
			m.keep(p, dst)
		}
	})
	b.Run("same", func(b *testing.B) {
		m.remember(src)
		for b.Loop() {
			m.find(leaders, src)
			if leaders[0] != held || leaders[len(leaders)-1] != held {
				b.Fatal("not the same")
			}
			copyPlane(dst, m.dst)
		}
	})
}
