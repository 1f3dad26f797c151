package pipeline

import (
	"testing"
	"time"

	"upscaler/internal/frame"
	"upscaler/internal/media"
)

// TestLadder plays a machine whose levels take 120, 60 and 10 % of it and sees where the ladder goes.
func TestLadder(t *testing.T) {
	const budget = 400 * time.Millisecond
	t0 := time.Unix(0, 0)
	newLadder := func(loads ...float64) *ladder {
		l := &ladder{levels: len(loads), budget: budget, load: func(i int) (float64, bool) { return loads[i], loads[i] >= 0 }}
		l.begin(t0)
		return l
	}
	t.Run("begins with the best level that is expected to hold", func(t *testing.T) {
		for _, c := range []struct {
			loads []float64
			want  int
		}{
			{[]float64{1.2, 0.6, 0.1}, 1}, {[]float64{0.5, 0.3, 0.1}, 0}, {[]float64{1.2, 1.1, 0.9}, 2}, {[]float64{3}, 0},
			{[]float64{-1, 0.3}, 0}, // not known: try
		} {
			if l := newLadder(c.loads...); l.level != c.want {
				t.Errorf("%v: level %d, want %d", c.loads, l.level, c.want)
			}
		}
	})
	// feed observes one wait 25 times a second and returns the steps.
	feed := func(l *ladder, from time.Time, length, waited time.Duration) (steps []time.Duration) {
		for at := from; at.Before(from.Add(length)); at = at.Add(40 * time.Millisecond) {
			if l.observe(at, waited) {
				steps = append(steps, at.Sub(from))
			}
		}
		return steps
	}
	t.Run("steps down while frames wait", func(t *testing.T) {
		l := newLadder(0.5, 0.3, 0.1)
		steps := feed(l, t0, 3*time.Second, budget)
		if len(steps) != 2 || !l.bottom() {
			t.Fatalf("steps at %v to level %d, want two to the bottom", steps, l.level)
		}
		if gap := steps[1] - steps[0]; gap < settle {
			t.Errorf("the second step came %v after the first, want at least %v", gap, settle)
		}
	})
	t.Run("steps up when there is room, and not beyond what fits", func(t *testing.T) {
		l := newLadder(1.2, 0.6, 0.1)
		feed(l, t0, 2*time.Second, budget)
		steps := feed(l, t0.Add(2*time.Second), 2*time.Minute, 0)
		if len(steps) != 1 || l.level != 1 || steps[0] < calm-time.Second {
			t.Errorf("steps at %v to level %d, want one to level 1 after %v", steps, l.level, calm)
		}
	})
	t.Run("is more patient after a step up that did not hold", func(t *testing.T) {
		l := newLadder(-1, 0.1) // the better level's load is not known
		now := t0
		var waits []time.Duration
		for range 4 {
			feed(l, now, time.Second, budget) // falls
			now = now.Add(time.Second)
			steps := feed(l, now, 3*time.Minute, 0)
			if len(steps) != 1 {
				t.Fatalf("steps at %v, want one", steps)
			}
			waits = append(waits, steps[0])
			now = now.Add(steps[0] + time.Second)
		}
		for i := 1; i < len(waits); i++ {
			if waits[i] < waits[i-1]*3/2 {
				t.Errorf("waits of %v before each step up, want each about twice the last", waits)
			}
		}
	})
	t.Run("stays where frames neither wait nor leave room", func(t *testing.T) {
		l := newLadder(0.5, 0.3, 0.1)
		l.level = 1
		if steps := feed(l, t0, time.Minute, budget*3/8); len(steps) > 0 {
			t.Errorf("steps at %v", steps)
		}
	})
}

// TestClock plays sources whose timestamps do what timestamps do.
func TestClock(t *testing.T) {
	k90 := media.Rational{Num: 1, Den: 90_000}
	const each = 3600
	t0 := time.Unix(0, 0)
	wall := func(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }
	type picture struct {
		conn int
		pts  float64 // seconds
		came float64
	}
	// run returns the output times in seconds, -1 for a picture that comes too late.
	run := func(c *clock, pictures ...picture) (out []float64) {
		for _, p := range pictures {
			at, ok, _ := c.picture(p.conn, int64(p.pts*90_000), each, wall(p.came))
			if !ok {
				out = append(out, -1)
				continue
			}
			out = append(out, float64(at)/90_000)
		}
		return out
	}
	near := func(t *testing.T, got []float64, want ...float64) {
		t.Helper()
		for i := range want {
			if d := got[i] - want[i]; d > 0.05 || d < -0.05 {
				t.Errorf("picture %d is shown at %.3f, want %.3f (all: %.3f)", i, got[i], want[i], got)
			}
		}
	}
	t.Run("true times stay as they are", func(t *testing.T) {
		got := run(&clock{timeBase: k90}, picture{0, 5000, 0}, picture{0, 5000.04, 0.045}, picture{0, 5000.08, 0.2}, picture{0, 5000.5, 0.5})
		for i, want := range []float64{5000, 5000.04, 5000.08, 5000.5} {
			if got[i] != want {
				t.Errorf("picture %d at %v, want %v", i, got[i], want)
			}
		}
	})
	t.Run("a jump forward and one back", func(t *testing.T) {
		near(t, run(&clock{timeBase: k90}, picture{0, 10, 0}, picture{0, 10.04, 0.04}, picture{0, 9000, 0.08}, picture{0, 9000.04, 0.12},
			picture{0, 3, 0.16}, picture{0, 3.04, 0.20}), 10, 10.04, 10.08, 10.12, 10.16, 10.20)
	})
	t.Run("another connection", func(t *testing.T) {
		near(t, run(&clock{timeBase: k90}, picture{0, 10, 0}, picture{1, 700, 5}, picture{1, 700.04, 5.04}), 10, 15, 15.04)
	})
	t.Run("a source that paused goes on with the wall", func(t *testing.T) {
		near(t, run(&clock{timeBase: k90}, picture{0, 10, 0}, picture{0, 10.04, 8}, picture{0, 10.08, 8.04}), 10, 18, 18.04)
	})
	t.Run("held pictures are not taken back", func(t *testing.T) {
		c := &clock{timeBase: k90}
		run(c, picture{0, 10, 0})
		if at := float64(c.repeat(wall(1))) / 90_000; at < 10.9 || at > 11.1 {
			t.Errorf("repeated at %v, want 11", at)
		}
		got := run(c, picture{0, 10.96, 1.02}, picture{0, 11.04, 1.06})
		if got[0] != -1 {
			t.Errorf("a picture from before the last one is shown at %v", got[0])
		}
		near(t, got[1:], 11.04)
	})
	t.Run("late for long is a new clock", func(t *testing.T) {
		c := &clock{timeBase: k90}
		run(c, picture{0, 10, 0})
		c.repeat(wall(1.5))
		var late []picture
		for s := 0.0; s < 2; s += 0.04 {
			late = append(late, picture{0, 10.04 + s, 1.52 + s})
		}
		got := run(c, late...)
		if got[0] != -1 {
			t.Errorf("the first late picture is shown at %v", got[0])
		}
		if last := got[len(got)-1]; last < 13.3 || last > 13.6 {
			t.Errorf("the last picture is shown at %v, want 13.5 as on the wall", last)
		}
	})
	t.Run("a slow drift is followed for a day", func(t *testing.T) {
		c := &clock{timeBase: k90}
		jumps := 0
		for n := range 24 * 3600 {
			// The source's clock gains 100 millionths: 8.6 s a day.
			_, ok, jumped := c.picture(0, int64(float64(n)*1.0001*90_000), each, wall(float64(n)))
			if jumped || !ok {
				jumps++
			}
		}
		if jumps > 0 {
			t.Errorf("%d pictures were not believed", jumps)
		}
	})
}

// TestIntakeDropsTheOldest fills an intake beyond what it holds.
func TestIntakeDropsTheOldest(t *testing.T) {
	q := newIntake(3)
	for i := range 10 {
		q.put(item{frame: testFrame(t, int64(i))})
	}
	if waiting, dropped := q.waiting(); waiting != 3 || dropped != 7 {
		t.Errorf("%d wait, %d were dropped, want 3 and 7", waiting, dropped)
	}
	q.end()
	for _, want := range []int64{7, 8, 9} {
		it, more := q.take(t.Context())
		if !more || it.frame.PTS != want {
			t.Fatalf("took %v, %v, want frame %d", it.frame, more, want)
		}
		it.free()
	}
	if _, more := q.take(t.Context()); more {
		t.Error("there is more after the end")
	}
}

func testFrame(t *testing.T, pts int64) *frame.Frame {
	t.Helper()
	f, err := testPool.Get(t.Context(), frame.Format{Depth: 8, Gray: true}, 8, 8)
	if err != nil {
		t.Fatal(err)
	}
	f.PTS = pts
	return f
}

var testPool = frame.NewPool(1 << 20)
