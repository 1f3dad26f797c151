package sr

import "upscaler/internal/frame"

// minCore is the least width and height a tile has besides its halo: below it, nearly all computation is for the halo.
const minCore = 32

// tile is one part of a frame, in input pixels.
type tile struct {
	x, y                  int // where the window that the network sees begins; all windows of a grid have the same size
	keepX, keepY          int // where the part whose result is kept begins
	keepWidth, keepHeight int
}

// bandRows is the height of a band, what is remembered and computed at the least: small beside the halo that is computed with it,
// and enough for the bookkeeping of a band to be nothing beside its computation.
const bandRows = 8

// band is some rows of the kept part of a tile, in input pixels.
type band struct {
	tile    int // index in the grid
	y, rows int
}

// grid is how frames of one size are cut.
type grid struct {
	width, height int // of every window, halo included
	halo          int
	tiles         []tile
	bands         []band // of all tiles, from the top to the bottom of each
}

// newGrid cuts frames for a network: its tiles are of at most n.MaxPixels pixels, and their bands of bandRows rows, or one a tile
// when the network computes whole tiles only.
func newGrid(width, height, halo int, n Network) *grid {
	g := cut(width, height, halo, n.MaxPixels())
	for i, t := range g.tiles {
		rows := t.keepHeight
		if n.ComputesRows() {
			rows = bandRows
		}
		for y := 0; y < t.keepHeight; y += rows {
			g.bands = append(g.bands, band{tile: i, y: t.keepY + y, rows: min(rows, t.keepHeight-y)})
		}
	}
	return &g
}

// cut divides a width x height frame into windows of equal size of at most maxPixels, computing as few pixels twice as it can.
//
// All windows have one size, so that one set of buffers and one compiled shape serve them all: the last one of a row is moved
// inwards until it ends with the frame. A window ends at the frame's edge or reaches halo pixels beyond what is kept of it;
// the network's own zero padding is then where it would be without tiles, and the result is the same to the bit.
func cut(width, height, halo, maxPixels int) grid {
	bestX, bestY, best := 0, 0, 0
	for nx := 1; nx == 1 || width/nx >= minCore; nx++ {
		tw := windowSize(width, nx, halo)
		for ny := 1; ny == 1 || height/ny >= minCore; ny++ {
			th := windowSize(height, ny, halo)
			total := nx * ny * tw * th
			if tw*th <= maxPixels && (best == 0 || total < best) {
				bestX, bestY, best = nx, ny, total
			}
			if tw*th <= maxPixels {
				break
			}
		}
	}
	if best == 0 { // the halo alone exceeds the budget: the smallest windows there are
		bestX, bestY = max(1, width/minCore), max(1, height/minCore)
	}
	g := grid{width: windowSize(width, bestX, halo), height: windowSize(height, bestY, halo), halo: halo}
	for iy := range bestY {
		for ix := range bestX {
			t := tile{x: windowStart(width, g.width, bestX, ix), y: windowStart(height, g.height, bestY, iy)}
			t.keepX, t.keepWidth = kept(width, g.width, bestX, ix, halo)
			t.keepY, t.keepHeight = kept(height, g.height, bestY, iy, halo)
			g.tiles = append(g.tiles, t)
		}
	}
	return g
}

// windowSize is the size of each of n windows that cover size pixels with halo to spare on their inner sides.
func windowSize(size, n, halo int) int {
	if n == 1 || size <= 2*halo {
		return size
	}
	return min(size, (size-2*halo+n-1)/n+2*halo)
}

// windowStart is where window i of n begins: spread evenly, the first at 0, the last ending at size.
func windowStart(size, window, n, i int) int {
	if n == 1 {
		return 0
	}
	return i * (size - window) / (n - 1)
}

// kept is what of window i's result is used: from its halo on (or the edge) to where the next window's part begins.
func kept(size, window, n, i, halo int) (start, length int) {
	if i > 0 {
		start = min(size, windowStart(size, window, n, i)+halo)
	}
	end := size
	if i < n-1 {
		end = min(size, windowStart(size, window, n, i+1)+halo)
	}
	return start, end - start
}

// view returns the width x height part of p that begins at (x, y). It shares p's memory.
func view(p frame.Plane, x, y, width, height int) frame.Plane {
	p.Data = p.Data[y*p.Stride+x*sampleBytes(p.Depth):]
	p.Width, p.Height = width, height
	return p
}

// rows returns how many rows the bands first to end-1 have, which are of one tile.
func (g *grid) rows(first, end int) int {
	last := g.bands[end-1]
	return last.y + last.rows - g.bands[first].y
}

// runs calls f for each run of bands of one tile that have the same leader.
func (g *grid) runs(leaders []*piece, f func(leader *piece, first, end int)) {
	for first := 0; first < len(leaders); {
		end := first + 1
		for end < len(leaders) && leaders[end] == leaders[first] && g.bands[end].tile == g.bands[first].tile {
			end++
		}
		f(leaders[first], first, end)
		first = end
	}
}

// closeGaps takes the leaders away from few bands between others of their tile that have none: to compute the others in two pieces
// would take longer, as each computes half of the halo on both of its sides.
func (g *grid) closeGaps(leaders []*piece) {
	for end := 0; end < len(leaders); end++ {
		first := end
		for end < len(leaders) && leaders[end] != nil && g.bands[end].tile == g.bands[first].tile {
			end++
		}
		inside := first > 0 && end < len(leaders) && g.bands[first-1].tile == g.bands[end].tile
		if first < end && inside && leaders[first-1] == nil && leaders[end] == nil && g.rows(first, end) <= g.halo {
			clear(leaders[first:end])
		}
	}
}

// input returns the rows of the frame that a band's result depends on.
func (g *grid) input(b band) (first, end int) {
	t := g.tiles[b.tile]
	return max(t.y, b.y-g.halo), min(t.y+g.height, b.y+b.rows+g.halo)
}

// output returns where the result of the bands first to end-1, which are of one tile, lies in an output plane.
func (g *grid) output(first, end int, dst frame.Plane, scale int) frame.Plane {
	b := g.bands[first]
	t := g.tiles[b.tile]
	return view(dst, t.keepX*scale, b.y*scale, t.keepWidth*scale, g.rows(first, end)*scale)
}

// window returns the bands first to end-1, which are of one tile, of a source plane and of its output plane.
func (g *grid) window(first, end int, src, dst frame.Plane, scale int) Window {
	b := g.bands[first]
	t := g.tiles[b.tile]
	return Window{
		Src:   view(src, t.x, t.y, g.width, g.height),
		Dst:   g.output(first, end, dst, scale),
		SkipX: (t.keepX - t.x) * scale,
		SkipY: (b.y - t.y) * scale,
	}
}

func sampleBytes(depth int) int {
	if depth > 8 {
		return 2
	}
	return 1
}
