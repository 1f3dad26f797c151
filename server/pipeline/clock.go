package pipeline

import (
	"time"

	"upscaler/internal/media"
)

// The tolerances within which a running stream's timestamps are believed.
const (
	// maxAhead is by how much pictures may run ahead of the wall clock: streams come in bursts, and begin with one.
	maxAhead = 10 * time.Second

	// maxBehind is by how much they may stay behind it. A source that paused goes on where it was; its output does not.
	maxBehind = 2 * time.Second

	// maxCatchUp is how long pictures that come too late are dropped, for a network that hands over at once what it held back.
	// If they are still late after it, the source's clock has changed.
	maxCatchUp = time.Second

	// drift is how many frames it takes for the clock to follow a source whose clock is a little fast or slow.
	drift = 64

	// maxAstray is how far a packet of another stream may be from the last picture to be believed.
	maxAstray = 10 * time.Second
)

// clock turns the source's timestamps into the output's. There they always rise and keep to the wall clock, whatever the source
// does: jumps, wraps around, vanishes and comes back with another time. All streams of a source move alike, so sound keeps its
// place beside the picture. Times are in the output's video time base unless said otherwise.
type clock struct {
	timeBase media.Rational
	paced    bool // frames come by their timestamps, not by the wall clock

	begun    bool
	conn     int   // the connection that offset is for
	offset   int64 // added to the source's times
	last     int64 // the output's last picture
	duration int64 // of a picture
	anchor   int64 // output time that belongs to at
	at       time.Time
	late     time.Time // since when pictures come too late; zero when they do not
}

// picture returns the output time of a picture that came at the given wall time with the source's time pts, from the connection
// numbered conn; ok is false when it comes too late to be shown. jumped says that the source's clock was not believed.
func (c *clock) picture(conn int, pts, duration int64, came time.Time) (out int64, ok, jumped bool) {
	if duration > 0 {
		c.duration = duration
	}
	if !c.begun {
		at := pts + c.offset
		c.begun, c.conn, c.last = true, conn, at
		c.anchor, c.at = at, came
		return at, true, false
	}
	expected := c.expected(came)
	if conn != c.conn {
		c.conn = conn
		return c.restart(pts, expected, came), true, false
	}
	at := pts + c.offset
	if c.paced {
		if at <= c.last || at > c.last+c.units(maxAhead) {
			return c.restart(pts, c.last+c.step(), came), true, true
		}
		c.last = at
		return at, true, false
	}
	switch off := at - expected; {
	case off > c.units(maxAhead) || off < -c.units(maxBehind):
		return c.restart(pts, expected, came), true, true
	case at <= c.last:
		if c.late.IsZero() {
			c.late = came
		}
		if came.Sub(c.late) < maxCatchUp {
			return 0, false, false
		}
		return c.restart(pts, expected, came), true, true
	default:
		c.late = time.Time{}
		c.anchor, c.at = expected+off/drift, came
	}
	c.last = at
	return at, true, false
}

// repeat returns the output time of the last picture when it is shown once more at the given wall time.
func (c *clock) repeat(now time.Time) int64 {
	c.last = max(c.last+c.step(), c.expected(now))
	return c.last
}

// beginAfterZero moves a stream that begins before zero, as FFmpeg counts what lies before a wrap of the source's clock: not every
// container has such times.
func (c *clock) beginAfterZero(start int64) {
	if start < 0 {
		c.offset = c.units(time.Second) - start // a second is for sound that begins before the picture
	}
}

// restart makes the picture with the source's time pts come at the output time given, or as soon after the last as can be.
func (c *clock) restart(pts, at int64, came time.Time) int64 {
	at = max(at, c.last+c.step())
	c.offset = at - pts
	c.last, c.anchor, c.at, c.late = at, at, came, time.Time{}
	return at
}

// expected returns the output time that belongs to a wall time.
func (c *clock) expected(now time.Time) int64 { return c.anchor + c.units(now.Sub(c.at)) }

// knows tells whether the times of a connection can be turned into the output's.
func (c *clock) knows(conn int) bool { return c.begun && c.conn == conn }

// near tells whether an output time is so close to the last picture's that it may be true.
func (c *clock) near(at int64) bool {
	off := at - c.last
	return !c.begun || max(off, -off) <= c.units(maxAstray)
}

func (c *clock) step() int64 { return max(c.duration, 1) }

// units returns a duration in the time base.
func (c *clock) units(d time.Duration) int64 {
	if c.timeBase.Num == 0 {
		return 0
	}
	return int64(d.Seconds() * float64(c.timeBase.Den) / float64(c.timeBase.Num))
}
