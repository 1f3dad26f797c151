package native

// The weights in the orders in which the vector paths read them. A group is `lanes` output channels; channels beyond the
// last have zero weights. native.h names the layouts.

// groups returns how many groups of output channels the op has.
func (o *op) groups() int { return o.cpad / lanes }

// weight returns the weight of output channel oc for value i of kernel row ky, where a row's values are its k * cin taps in
// the order pixel, channel; zero outside.
func (o *op) weight(oc, ky, i int) int8 {
	if oc >= o.cout || i >= o.k*o.cin {
		return 0
	}
	return o.weights[(oc*o.k+ky)*o.k*o.cin+i]
}

// pairs returns the weights for sums over two 16-bit values at a time.
func (o *op) pairs() (w []int16, rowPairs int) {
	rowPairs = (o.k*o.cin + 1) / 2
	w = make([]int16, 0, o.groups()*o.k*rowPairs*lanes*2)
	for g := range o.groups() {
		for ky := range o.k {
			for p := range rowPairs {
				for lane := range lanes {
					w = append(w, int16(o.weight(g*lanes+lane, ky, 2*p)), int16(o.weight(g*lanes+lane, ky, 2*p+1)))
				}
			}
		}
	}
	return w, rowPairs
}

// winogradRows is 2G of Winograd's F(2x2, 3x3): twice the usual matrix, so that it is whole. The sums come out four times too
// large, exactly.
var winogradRows = [4][3]int{{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}}

// winograd returns the transformed weights 2G w (2G)^T of a 3x3 convolution: at most 9 * 128, so 16 bits hold them. nil for
// other kernels, and for an odd number of input channels.
func (o *op) winograd() []int16 {
	if o.k != 3 || o.cin%2 != 0 {
		return nil
	}
	at := func(oc, ci, pos int) int16 {
		if oc >= o.cout {
			return 0
		}
		u := 0
		for ky := range 3 {
			for kx := range 3 {
				u += winogradRows[pos/4][ky] * winogradRows[pos%4][kx] * int(o.weight(oc, ky, kx*o.cin+ci))
			}
		}
		return int16(u)
	}
	w := make([]int16, 0, o.cpad*16*o.cin)
	for g := range o.groups() {
		for pos := range 16 {
			for ci := 0; ci < o.cin; ci += 2 {
				for lane := range lanes {
					w = append(w, at(g*lanes+lane, ci, pos), at(g*lanes+lane, ci+1, pos))
				}
			}
		}
	}
	return w
}

// step is where four consecutive bytes of input are read: in which of the op's rows, how many bytes from the output pixel.
type step struct{ row, offset int }

// quads are the weights for sums over four bytes at a time. Each step's four bytes are used for `taps` taps: for the output
// pixel itself, and for those 1 or, where a pixel is a byte, 4 to the left.
type quads struct {
	weights []int8 // group, step, tap, lane, 4
	steps   []step
	taps    int
}

// quads returns the weights and where each four bytes are read. pixel is the distance between the sources' pixels. Where a
// source holds other channels too, or its taps are not a multiple of four, the bytes read in vain have zero weights.
func (o *op) quads(pixel int) quads {
	type run struct{ row, offset, ky, first, n int } // consecutive bytes of a row: the values first.. of kernel row ky
	q := quads{taps: 1}
	tapValues := 0 // from a tap's value to the next tap's
	var runs []run
	channel := 0
	for s, src := range o.sources {
		for ky := range o.k {
			row, left := s*o.k+ky, -(o.k/2)*pixel
			switch {
			case pixel == 1:
				n := o.k
				if o.k > 4 && o.k <= 8 {
					q.taps, tapValues, n = 2, 4, 4
				}
				runs = append(runs, run{row, left, ky, 0, n})
			case o.k == 3:
				q.taps, tapValues = 3, o.cin
				runs = append(runs, run{row, left, ky, channel, src.n})
			default:
				for kx := range o.k {
					runs = append(runs, run{row, left + kx*pixel, ky, kx*o.cin + channel, src.n})
				}
			}
		}
		channel += src.n
	}
	for g := range o.groups() {
		for _, r := range runs {
			for i := 0; i < r.n; i += 4 {
				if g == 0 {
					q.steps = append(q.steps, step{r.row, r.offset + i})
				}
				for t := range q.taps {
					for lane := range lanes {
						for j := range 4 {
							v := int8(0)
							if i+j < r.n {
								v = o.weight(g*lanes+lane, r.ky, r.first+t*tapValues+i+j)
							}
							q.weights = append(q.weights, v)
						}
					}
				}
			}
		}
	}
	return q
}
