package pipeline

import "time"

// The ladder's patience.
const (
	// settle is how long a step down is given to take effect before the next one.
	settle = 500 * time.Millisecond

	// calm is how long there must have been room before a step up is tried; after a step up that did not hold it doubles, up to
	// maxCalm. A step that has held for proven makes it short again.
	calm    = 5 * time.Second
	maxCalm = 2 * time.Minute
	proven  = time.Minute

	// busiest is the share of the machine that a level may be expected to take for it to be tried: the rest is for what comes
	// unevenly.
	busiest = 0.85
)

// ladder chooses the level of a live job: 0 is the best, each next one is faster. It has no clock of its own.
type ladder struct {
	levels int
	budget time.Duration
	// load returns the share of the machine that a level is expected to take, 1 for all of it, and false when that is not known.
	load func(level int) (float64, bool)

	level   int
	changed time.Time // of the last step
	roomy   time.Time // since when there is room; zero when there is none
	up      time.Time // of the last step up
	patient time.Duration
}

// begin chooses the best level that is expected to keep up, the last one when none is.
func (l *ladder) begin(now time.Time) {
	l.patient, l.changed = calm, now
	l.level = firstLevel(l.levels, l.load)
}

func firstLevel(levels int, load func(level int) (float64, bool)) int {
	level := 0
	for level < levels-1 {
		if load, known := load(level); !known || load <= busiest {
			break
		}
		level++
	}
	return level
}

// FirstLevel returns the level that a live job of frames so far apart begins at, when estimate is what LiveConfig.Estimate is to be.
func FirstLevel(levels []Level, interval time.Duration, estimate func(level int) (time.Duration, bool)) int {
	return firstLevel(len(levels), func(level int) (float64, bool) {
		if levels[level].Engine == nil || interval <= 0 {
			return 0, true
		}
		each, known := estimate(level)
		return float64(each) / float64(interval), known
	})
}

// bottom tells whether there is no faster level.
func (l *ladder) bottom() bool { return l.level == l.levels-1 }

// observe takes how long the frame now due has waited, and returns whether the level has changed.
func (l *ladder) observe(now time.Time, waited time.Duration) bool {
	switch {
	case waited > l.budget/2:
		l.roomy = time.Time{}
		if l.bottom() || now.Sub(l.changed) < settle {
			return false
		}
		if !l.up.IsZero() {
			if now.Sub(l.up) < proven {
				l.patient = min(2*l.patient, maxCalm)
			} else {
				l.patient = calm
			}
			l.up = time.Time{}
		}
		l.level++
		l.changed = now
		return true
	case waited > l.budget/4:
		l.roomy = time.Time{}
	case l.roomy.IsZero():
		l.roomy = now
	case l.level > 0 && now.Sub(l.roomy) >= l.patient:
		if load, known := l.load(l.level - 1); known && load > busiest {
			return false
		}
		l.level--
		l.changed, l.up, l.roomy = now, now, now
		return true
	}
	return false
}
