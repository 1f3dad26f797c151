package native

import "math"

// stage maps a byte q to saturate(round(fma(q, a, b))).
type stage struct{ a, b float32 }

// stageMargin is how far from a rounding boundary every byte must stay, so that float32's own rounding cannot matter.
const stageMargin = 1e-4

// solveStages returns stages that do what the table does: one if one can, else one for each of the steps.
func solveStages(u *channelUse) ([]stage, bool) {
	if s, ok := solveStage(&u.table); ok {
		return []stage{s}, true
	}
	if len(u.steps) > maxStages {
		return nil, false
	}
	var out []stage
	for _, t := range u.steps {
		s, ok := solveStage(t)
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

// solveStage finds a and b such that rounding and saturating a*q + b gives the table's value for all 256 bytes. For a given
// a, every byte bounds b from below and above; the room between the bounds is a concave function of a, so a ternary search
// finds the a that leaves the most.
func solveStage(t *lut) (stage, bool) {
	bounds := func(a float64) (lo, hi float64) {
		lo, hi = -1e9, 1e9
		for q, v := range t {
			if v > 0 {
				lo = max(lo, float64(v)-0.5-a*float64(q))
			}
			if v < 255 {
				hi = min(hi, float64(v)+0.5-a*float64(q))
			}
		}
		return lo, hi
	}
	left, right := -512.0, 512.0
	for range 120 {
		m1, m2 := left+(right-left)/3, right-(right-left)/3
		lo1, hi1 := bounds(m1)
		lo2, hi2 := bounds(m2)
		if hi1-lo1 < hi2-lo2 {
			left = m1
		} else {
			right = m2
		}
	}
	a := float32((left + right) / 2)
	lo, hi := bounds(float64(a))
	b := float32((lo + hi) / 2)
	if math.Abs(float64(b)) > 1e6 { // every byte saturates alike: nothing bounds b on one side
		b = float32(math.Copysign(1e3, float64(b)))
	}
	for q, v := range t {
		x := float64(a)*float64(q) + float64(b)
		if v > 0 && x < float64(v)-0.5+stageMargin || v < 255 && x > float64(v)+0.5-stageMargin {
			return stage{}, false
		}
	}
	return stage{a, b}, true
}
