package live

import (
	"bytes"
	"context"
	"slices"
	"sync"
)

const packetSize = 188 // bytes of a packet of an MPEG-TS

// gops holds the MPEG-TS that waits to be sent, bounded in bytes. It is cut into units: the packets from the beginning of one video
// frame to the beginning of the next, with the sound between them (an MPEG-TS of sound alone: from one frame of it to the next).
// Where flush tells that a frame is whole its unit ends there, and what comes before the next frame is a unit too.
// When it is full, all units before its newest key frame are dropped, or all of them until the next key frame.
//
// One goroutine writes, one reads.
type gops struct {
	limit int
	more  chan struct{} // holds a token when something came or it was ended

	mu      sync.Mutex
	rest    []byte // the beginning of a packet whose end was not written yet
	tables  tables
	current *unit // not complete yet
	units   []unit
	size    int   // bytes of units
	needKey bool  // drop what comes until a key frame
	fresh   bool  // what is read next does not follow what was read before
	dropped int64 // video frames
	err     error // why there will be no more
}

type unit struct {
	data  []byte
	frame bool // it begins with a video frame
	key   bool // which is a key frame
}

func newGOPs(limit int) *gops {
	return &gops{limit: limit, more: make(chan struct{}, 1), needKey: true, fresh: true}
}

// write copies p and never waits.
func (q *gops) write(p []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return q.err
	}
	q.rest = append(q.rest, p...)
	n := 0
	for len(q.rest)-n >= packetSize {
		if q.rest[n] != 0x47 { // not where a packet begins: find the next
			n++
			continue
		}
		q.packet(q.rest[n : n+packetSize])
		n += packetSize
	}
	q.rest = append(q.rest[:0], q.rest[n:]...)
	return nil
}

func (q *gops) packet(p []byte) {
	pid, begins := pidOf(p)
	q.tables.take(p)
	lead, isVideo := q.tables.lead()
	if lead == 0 {
		return
	}
	if pid == lead && begins {
		q.complete()
		q.current = &unit{frame: true, key: !isVideo || isRandomAccess(p)}
	} else if q.current == nil && !q.needKey {
		q.current = &unit{} // after a flush
	}
	if q.current != nil {
		q.current.data = append(q.current.data, p...)
		if len(q.current.data) > q.limit {
			q.current, q.needKey = nil, true
			q.dropped++
		}
	}
}

// flush says that what was written ends with whole frames, which need not wait for what follows them.
func (q *gops) flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.complete()
}

// complete queues the current unit, if there is room for it.
func (q *gops) complete() {
	u := q.current
	q.current = nil
	if u == nil {
		return
	}
	if q.size+len(u.data) > q.limit {
		n := q.newestKey()
		if u.key || n <= 0 {
			n = len(q.units)
			q.needKey = true
		}
		q.drop(n)
	}
	if (q.needKey && !u.key) || q.size+len(u.data) > q.limit {
		q.needKey = true
		if u.frame {
			q.dropped++
		}
		return
	}
	q.needKey = false
	q.units = append(q.units, *u)
	q.size += len(u.data)
	signal(q.more)
}

func (q *gops) newestKey() int {
	n := len(q.units) - 1
	for n >= 0 && !q.units[n].key {
		n--
	}
	return n
}

// drop drops the n oldest units.
func (q *gops) drop(n int) {
	for _, u := range q.units[:n] {
		q.size -= len(u.data)
		if u.frame {
			q.dropped++
		}
	}
	q.units = slices.Clone(q.units[n:])
	q.fresh = true
}

// restart makes the newest key frame what is read next: for a new connection.
func (q *gops) restart() {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.newestKey()
	if n < 0 {
		n = len(q.units)
		q.needKey = true
	}
	q.drop(n)
}

// next waits for a unit. The first one after a gap begins with the tables that a receiver needs and says that there was a gap.
func (q *gops) next(ctx context.Context) ([]byte, error) {
	for {
		q.mu.Lock()
		if len(q.units) > 0 {
			u := q.units[0]
			q.units = q.units[1:]
			q.size -= len(u.data)
			if q.fresh {
				q.fresh = false
				if len(u.data) > 5 && u.data[3]&0x20 != 0 && u.data[4] > 0 {
					u.data[5] |= 0x80 // discontinuity_indicator
				}
				u.data = append(q.tables.packets(), u.data...)
			}
			q.mu.Unlock()
			return u.data, nil
		}
		err := q.err
		q.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-q.more:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// end lets what was written be read, and then fails reading; writing fails at once.
func (q *gops) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.complete()
		q.err = err
	}
	signal(q.more)
}

func (q *gops) state() (dropped int64, queued int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped, q.size
}

// A pesFlusher ends the PES packets of video at once. They do not tell their length: what reads an MPEG-TS takes one to end where the
// next begins, which is a whole frame later. So each gets another after it, which holds nothing but padding, and the packets
// are counted anew.
type pesFlusher struct{ added map[uint16]byte }

// flush takes whole frames, counts their packets in place, and returns them with the padding.
func (f *pesFlusher) flush(ts []byte) []byte {
	if f.added == nil {
		f.added = map[uint16]byte{}
	}
	open := map[uint16]byte{} // by PID, the counter of the last packet
	for i := 0; i+packetSize <= len(ts); i += packetSize {
		p := ts[i : i+packetSize]
		pid, begins := pidOf(p)
		p[3] = p[3]&0xf0 | (p[3]+f.added[pid])&0x0f
		if pes := payload(p); begins && len(pes) > 3 && pes[0] == 0 && pes[1] == 0 && pes[2] == 1 && pes[3]&0xf0 == 0xe0 {
			open[pid] = 0
		}
		if _, is := open[pid]; is {
			open[pid] = p[3] & 0x0f
		}
	}
	for pid, counter := range open {
		f.added[pid]++
		const padding, length = 0xbe, packetSize - 4 - 6
		p := []byte{0x47, 0x40 | byte(pid>>8), byte(pid), 0x10 | (counter+1)&0x0f, 0, 0, 1, padding, 0, length}
		ts = append(append(ts, p...), bytes.Repeat([]byte{0xff}, length)...)
	}
	return ts
}

// sendDatagrams gives everything that is read to write, in pieces that fit a datagram.
func (q *gops) sendDatagrams(ctx context.Context, write func([]byte) error) error {
	for {
		data, err := q.next(ctx)
		if err != nil {
			return err
		}
		sent := 0
		for piece := range slices.Chunk(data, datagram) {
			if err := write(piece); err != nil {
				return err
			}
			if sent += len(piece); sent >= burst {
				sent = 0
				if !wait(ctx, burstPause) {
					return context.Cause(ctx)
				}
			}
		}
	}
}

func pidOf(p []byte) (pid uint16, begins bool) {
	return uint16(p[1]&0x1f)<<8 | uint16(p[2]), p[1]&0x40 != 0
}

func isRandomAccess(p []byte) bool { return p[3]&0x20 != 0 && p[4] > 0 && p[5]&0x40 != 0 }

// payload returns what a packet holds after its header.
func payload(p []byte) []byte {
	at := 4
	if p[3]&0x20 != 0 {
		at += 1 + int(p[4])
	}
	if p[3]&0x10 == 0 || at > packetSize {
		return nil
	}
	return p[at:packetSize]
}

// tables are the two tables of an MPEG-TS that say what is in it: the PAT, which names the PMT, which names the tracks.
type tables struct {
	pat, pmt []byte // packets
	section  []byte // of the PMT that is coming
	coming   []byte // its packets
	pmtPID   uint16
	tracks   []tsTrack
}

type tsTrack struct {
	pid uint16
	typ byte
	at  int // where in the section its type is
}

func (t *tables) packets() []byte { return append(bytes.Clone(t.pat), t.pmt...) }

func (t *tables) take(p []byte) {
	pid, begins := pidOf(p)
	switch {
	case pid == 0 && begins:
		s := sectionOf(payload(p))
		if len(s) < 12 || s[0] != 0 || len(s) < sectionLen(s) {
			return
		}
		for i := 8; i+4 <= sectionLen(s)-4; i += 4 {
			if s[i] != 0 || s[i+1] != 0 { // program 0 is about the network
				t.pat, t.pmtPID = bytes.Clone(p), uint16(s[i+2]&0x1f)<<8|uint16(s[i+3])
				return
			}
		}
	case pid == t.pmtPID && pid != 0:
		if begins {
			t.section, t.coming = bytes.Clone(sectionOf(payload(p))), bytes.Clone(p)
		} else if len(t.section) > 0 {
			t.section, t.coming = append(t.section, payload(p)...), append(t.coming, p...)
		}
		if len(t.section) >= 12 && len(t.section) >= sectionLen(t.section) {
			t.tracks, t.pmt = tracksOf(t.section[:sectionLen(t.section)]), t.coming
			t.section, t.coming = nil, nil
		} else if len(t.coming) > 8*packetSize { // no section is longer than 1 kB
			t.section, t.coming = nil, nil
		}
	}
}

func sectionOf(payload []byte) []byte {
	if len(payload) == 0 || 1+int(payload[0]) > len(payload) {
		return nil
	}
	return payload[1+int(payload[0]):]
}

func sectionLen(s []byte) int { return 3 + int(s[1]&0x0f)<<8 + int(s[2]) }

func tracksOf(s []byte) []tsTrack {
	var tracks []tsTrack
	for i := 12 + int(s[10]&0x0f)<<8 + int(s[11]); i+5 <= len(s)-4; {
		tracks = append(tracks, tsTrack{uint16(s[i+1]&0x1f)<<8 | uint16(s[i+2]), s[i], i})
		i += 5 + int(s[i+3]&0x0f)<<8 + int(s[i+4])
	}
	return tracks
}

// lead is the track whose frames the units follow: the first with video, else the first.
func (t *tables) lead() (pid uint16, isVideo bool) {
	for _, track := range t.tracks {
		switch track.typ {
		case 0x01, 0x02, 0x10, 0x1b, 0x24, 0x33: // MPEG-1, MPEG-2, MPEG-4, H.264, HEVC, VVC
			return track.pid, true
		}
	}
	if len(t.tracks) > 0 {
		return t.tracks[0].pid, false
	}
	return 0, false
}
