package decode

import (
	"bytes"
	"math"
	"slices"
	"testing"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

var (
	ms  = media.Rational{Num: 1, Den: 1000}
	k90 = media.Rational{Num: 1, Den: 90000}
)

// settled returns a cut of 10 s to 20 s after an origin of 100 s, in a video with a time base of 1/90000 s.
func settled(begun bool) *cut {
	c := newCut(Part{Start: 10 * time.Second, Duration: 10 * time.Second})
	c.timeBase, c.known = av.AVRational(k90), true
	c.from, c.to = 110*90000, 120*90000
	if begun {
		c.begun, c.zero = true, c.from+900 // the first picture begins 10 ms into the part
	}
	return c
}

func TestWantedPackets(t *testing.T) {
	audio := &av.Stream{Kind: media.KindAudio, TimeBase: ms}
	subtitle := &av.Stream{Kind: media.KindSubtitle, TimeBase: ms}
	cover := &av.Stream{Kind: media.KindVideo, TimeBase: ms, AttachedPicture: true}
	const none = av.NoTimestamp
	table := []struct {
		name                    string
		stream                  *av.Stream
		pts, dts, duration      int64
		held, want              bool // before and after the first picture
		wantPTS, wantDTS, wantD int64
	}{
		{"sound before", audio, 109_990, 109_990, 20, false, false, 0, 0, 0},
		{"sound before the first picture", audio, 110_005, 110_005, 20, true, false, 0, 0, 0},
		{"sound with the first picture", audio, 110_010, 110_010, 20, true, true, 0, 0, 20},
		{"sound within", audio, 115_010, 115_010, 20, true, true, 5000, 5000, 20},
		{"sound without decoding time", audio, 115_010, none, 20, true, true, 5000, none, 20},
		{"last sound", audio, 119_999, 119_999, 20, true, true, 9989, 9989, 20},
		{"sound after", audio, 120_000, 120_000, 20, false, false, 0, 0, 0},
		{"subtitle before", subtitle, 100_000, 100_000, 5000, false, false, 0, 0, 0},
		{"subtitle on screen at the start", subtitle, 109_000, 109_000, 5000, true, true, 0, 0, 3990},
		{"subtitle on screen at the end", subtitle, 119_010, 119_010, 5000, true, true, 9000, 9000, 990},
		{"subtitle of no known end", subtitle, 112_010, 112_010, 0, true, true, 2000, 2000, 0},
		{"cover art", cover, none, none, 0, true, true, none, none, 0},
		{"cover art at zero", cover, 0, 0, 0, true, true, 0, 0, 0},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			p := astiav.AllocPacket()
			defer p.Free()
			p.SetPts(c.pts)
			p.SetDts(c.dts)
			p.SetDuration(c.duration)
			if got := settled(false).wants(p, c.stream); got != c.held || p.Pts() != c.pts || p.Dts() != c.dts {
				t.Errorf("before the first picture: wanted %v (pts %d, dts %d), want %v and the times unchanged", got, p.Pts(), p.Dts(), c.held)
			}
			if got := settled(true).wants(p, c.stream); got != c.want {
				t.Fatalf("wanted %v, want %v", got, c.want)
			}
			if c.want && (p.Pts() != c.wantPTS || p.Dts() != c.wantDTS || p.Duration() != c.wantD) {
				t.Errorf("pts %d, dts %d, duration %d; want %d, %d, %d", p.Pts(), p.Dts(), p.Duration(), c.wantPTS, c.wantDTS, c.wantD)
			}
		})
	}
}

// TestOtherVideoBeginsWithAKeyFrame: packets that build upon what is left out would show rubbish.
func TestOtherVideoBeginsWithAKeyFrame(t *testing.T) {
	c, st := settled(true), &av.Stream{Index: 3, Kind: media.KindVideo, TimeBase: ms}
	var got []bool
	for i, key := range []bool{false, false, true, false} {
		p := astiav.AllocPacket()
		defer p.Free()
		p.SetPts(111_000 + int64(i)*40)
		if key {
			p.SetFlags(p.Flags().Add(astiav.PacketFlagKey))
		}
		got = append(got, c.wants(p, st))
	}
	if want := []bool{false, false, true, true}; !slices.Equal(got, want) {
		t.Errorf("wanted %v, want %v", got, want)
	}
}

func TestCutChapters(t *testing.T) {
	c := settled(false)
	chapter := func(id, start, end int64) av.Chapter { return av.Chapter{ID: id, TimeBase: ms, Start: start, End: end} }
	table := []struct {
		name    string
		in, out []av.Chapter
	}{
		{"before and after", []av.Chapter{chapter(1, 0, 110_000), chapter(2, 120_000, 130_000)}, nil},
		{"around", []av.Chapter{chapter(1, 0, 200_000)}, []av.Chapter{chapter(1, 0, 10_000)}},
		{"across", []av.Chapter{chapter(1, 100_000, 112_000), chapter(2, 112_000, 118_000), chapter(3, 118_000, 140_000)},
			[]av.Chapter{chapter(1, 0, 2000), chapter(2, 2000, 8000), chapter(3, 8000, 10_000)}},
		{"no ends", []av.Chapter{chapter(1, 0, av.NoTimestamp), chapter(2, 105_000, av.NoTimestamp), chapter(3, 112_000, av.NoTimestamp)},
			[]av.Chapter{chapter(2, 0, 2000), chapter(3, 2000, av.NoTimestamp)}},
		{"no time base", []av.Chapter{{ID: 1, Start: 0, End: 1}}, nil},
	}
	for _, tc := range table {
		t.Run(tc.name, func(t *testing.T) {
			got := c.chapters(tc.in)
			if !slices.EqualFunc(got, tc.out, func(a, b av.Chapter) bool {
				return a.ID == b.ID && a.Start == b.Start && a.End == b.End
			}) {
				t.Errorf("got %+v, want %+v", got, tc.out)
			}
		})
	}
}

func TestNewCutBounds(t *testing.T) {
	if newCut(Part{}) != nil {
		t.Error("the zero Part cuts")
	}
	c := newCut(Part{Start: math.MaxInt64, Duration: math.MaxInt64})
	if c.part.Start != maxPartTime || c.part.Duration != maxPartTime {
		t.Errorf("the part is %+v, want both capped to %v", c.part, maxPartTime)
	}
}

// TestPartHasTheSamePictures: what lies far before a part is not decoded, and its pictures are the same all the same.
func TestPartHasTheSamePictures(t *testing.T) {
	const clip = "-f lavfi -i testsrc2=size=96x64:rate=25 -t 6 -pix_fmt yuv420p "
	for _, c := range []struct{ name, file, args string }{
		{"h264", "a.mp4", "-c:v libx264 -preset veryfast -g 20 -bf 3"},
		{"h264, open groups", "a.mkv", "-c:v libx264 -preset veryfast -g 20 -bf 3 -x264-params open-gop=1"},
		{"h264, intra refresh", "a.mkv", "-c:v libx264 -preset veryfast -g 20 -bf 0 -x264-params intra-refresh=1"},
		{"h264, one group", "a.mkv", "-c:v libx264 -preset veryfast -g 1000 -sc_threshold 0"},
		{"hevc, open groups", "a.mkv", "-c:v libx265 -preset ultrafast -x265-params keyint=20:open-gop=1:log-level=none"},
		{"mpeg2 in ts", "a.ts", "-c:v mpeg2video -g 12 -bf 2 -q:v 3"},
		{"mpeg4 in avi", "a.avi", "-c:v mpeg4 -g 12 -bf 2 -q:v 3"},
		{"vp9", "a.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 20"},
		{"interlaced", "a.mkv", "-vf interlace=scan=tff -c:v libx264 -g 10 -flags +ildct+ilme -x264opts tff=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := generate(t, c.file, clip+c.args)
			whole, err := decodeAll(t, stream(readFile(t, path)), Options{})
			if err != nil {
				t.Fatal(err)
			}
			frame := len(whole.raw) / len(whole.pts)
			for _, start := range []time.Duration{40 * time.Millisecond, 1600 * time.Millisecond, 2 * time.Second, 3310 * time.Millisecond, 5900 * time.Millisecond} {
				part, err := decodeAll(t, stream(readFile(t, path)), Options{Part: Part{Start: start}})
				if err != nil {
					t.Fatal(err)
				}
				n := len(part.pts)
				from := len(whole.pts) - n
				tb := whole.media.VideoTimeBase
				if from < 1 || tb.Seconds(whole.pts[from]-whole.pts[0])+1e-6 < start.Seconds() || tb.Seconds(whole.pts[from-1]-whole.pts[0]) > start.Seconds()-1e-6 {
					t.Errorf("from %v on there are %d of %d pictures", start, n, len(whole.pts))
					continue
				}
				for i, pts := range part.pts {
					if pts != whole.pts[from+i]-whole.pts[from] {
						t.Errorf("from %v on picture %d is at %d, want %d", start, i, pts, whole.pts[from+i]-whole.pts[from])
						break
					}
				}
				if !bytes.Equal(part.raw, whole.raw[from*frame:]) {
					t.Errorf("from %v on the pictures differ from those of the whole: %.3f %%", start, 100*differing(part.raw, whole.raw[from*frame:]))
				}
			}
		})
	}
}

// TestSkimHoldsTwoGroups: what a part cannot need is let go of at once, and what is held is bounded.
func TestSkimHoldsTwoGroups(t *testing.T) {
	before := av.LiveContexts()
	path := generate(t, "long.mkv", "-f lavfi -i testsrc2=size=96x64:rate=25 -t 20 -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 25")
	s, err := Open(t.Context(), stream(readFile(t, path)), Options{Pool: frame.NewPool(1 << 20), Part: Part{Start: 15 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	begin, waited := s.enter(t.Context())
	most := 0
	for s.cut.waiting() && !s.drained {
		if err := s.step(); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(s.cut.skim.held))
	}
	if skipped := s.Stats().Skipped; skipped > 60 || most > 80 {
		t.Errorf("%d pictures were decoded before the part, %d packets held; want about two groups of 25", skipped, most)
	}
	s.leave(begin, waited)
	m := s.Media()
	s.Close()
	m.Free()
	if n := av.LiveContexts(); n != before {
		t.Errorf("%d contexts are open, %d before", n, before)
	}
}
