package sr

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"upscaler/internal/frame"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestResultIsTheNetworks(t *testing.T) {
	engines := map[string]*blurEngine{
		"whole frames":  cpuEngine(),
		"tiles":         {device: CPU, lanes: Lanes{Count: 2, Batch: 1}, maxPixels: 900},
		"batched":       {device: CPU, lanes: Lanes{Count: 1, Batch: 3}, maxPixels: 1 << 30},
		"overlapped":    {device: CPU, lanes: Lanes{Count: 1, Batch: 3, Overlap: true}, maxPixels: 5000},
		"two pipelines": {device: CPU, lanes: Lanes{Count: 2, Batch: 4, Overlap: true}, maxPixels: 3000},
		"bands":         {device: CPU, lanes: Lanes{Count: 3, Batch: 1}, maxPixels: 1 << 30, rows: true},
		"banded tiles":  {device: CPU, lanes: Lanes{Count: 2, Batch: 3}, maxPixels: 900, rows: true},
	}
	sizes := [][2]int{{1, 1}, {7, 1}, {1, 9}, {31, 33}, {64, 64}, {97, 53}, {200, 40}}
	for name, e := range engines {
		t.Run(name, func(t *testing.T) {
			s := newScheduler(t, e)
			var wg sync.WaitGroup
			for i := range 8 {
				j := openJob(t, s, Spec{Scale: 2 + i%2*2, Live: i%3 == 0})
				wg.Go(func() {
					for n, size := range sizes {
						src := noise(size[0], size[1], 8+2*(i%3), uint64(100*i+n))
						ticket, dst := submit(t, j, src)
						wait(t, ticket)
						if !equalPlanes(dst, expected(src, j.Model())) {
							t.Errorf("job %d, %dx%d at %d bits: wrong result", i, size[0], size[1], src.Depth)
						}
					}
				})
			}
			wg.Wait()
			if st := s.Stats().Engines[0]; st.Frames != uint64(8*len(sizes)) || st.Queued != 0 {
				t.Errorf("stats count %d frames and %d waiting, want %d and 0", st.Frames, st.Queued, 8*len(sizes))
			}
		})
	}
}

func TestCutCoversEveryPixelOnce(t *testing.T) {
	for _, size := range [][2]int{{1, 1}, {40, 30}, {35, 500}, {500, 35}, {640, 360}, {1281, 721}} {
		for _, halo := range []int{0, 1, 17, 29} {
			for _, maxPixels := range []int{1, 5000, 40_000, 1 << 30} {
				name := fmt.Sprintf("%dx%d, halo %d, at most %d", size[0], size[1], halo, maxPixels)
				w, h := size[0], size[1]
				g := cut(w, h, halo, maxPixels)
				seen := make([]byte, w*h)
				for _, c := range g.tiles {
					if c.x < 0 || c.y < 0 || c.x+g.width > w || c.y+g.height > h {
						t.Fatalf("%s: window %+v of %dx%d is not in the frame", name, c, g.width, g.height)
					}
					enough := func(keep, length, start, window, size int) bool {
						return (start == 0 || keep-start >= halo) && (start+window == size || start+window-keep-length >= halo)
					}
					if !enough(c.keepX, c.keepWidth, c.x, g.width, w) || !enough(c.keepY, c.keepHeight, c.y, g.height, h) {
						t.Fatalf("%s: %+v of %dx%d lacks halo", name, c, g.width, g.height)
					}
					for y := c.keepY; y < c.keepY+c.keepHeight; y++ {
						for x := c.keepX; x < c.keepX+c.keepWidth; x++ {
							seen[y*w+x]++
						}
					}
				}
				for i, n := range seen {
					if n != 1 {
						t.Fatalf("%s: pixel (%d,%d) is kept %d times", name, i%w, i/w, n)
					}
				}
				if possible := (minCore + 2*halo) * (minCore + 2*halo); g.width*g.height > maxPixels && maxPixels > 4*possible {
					t.Errorf("%s: windows of %dx%d exceed the limit", name, g.width, g.height)
				}
			}
		}
	}
}

func TestChoose(t *testing.T) {
	both := newScheduler(t, cpuEngine(), &blurEngine{device: CUDA, lanes: Lanes{Count: 1, Batch: 2, Overlap: true}, maxPixels: 1 << 20})
	for _, c := range []struct {
		spec   Spec
		model  string
		device Device
	}{
		{Spec{Scale: 2}, "blur-l-x2-video-fp16", CUDA},
		{Spec{Scale: 2, Device: CPU}, "blur-s-x2-video-int8", CPU},
		{Spec{Scale: 2, Device: CPU, Model: "blur-s-x2-video"}, "blur-s-x2-video", CPU},
		{Spec{Scale: 2, Device: CUDA, Model: "s"}, "blur-s-x2-video", CUDA},
		{Spec{Scale: 2, Device: CPU, Model: "m"}, "blur-m-x2-clean", CPU},
		{Spec{Scale: 2, Device: CPU, Model: "blur-s-x2-video-int8"}, "blur-s-x2-video-int8", CPU},
		{Spec{Scale: 4}, "blur-s-x4-clean", CUDA},
	} {
		m, d, err := both.Choose(c.spec)
		if err != nil || m.Name != c.model || d != c.device {
			t.Errorf("%+v: got %s on %s, %v, want %s on %s", c.spec, m.Name, d, err, c.model, c.device)
		}
	}
	for _, m := range both.Models() {
		want, _, err := both.Choose(Spec{Scale: m.Scale})
		if err != nil || m.Default != (m.Name == want.Name) {
			t.Errorf("%s is listed as default=%v, but jobs without a model get %s", m.Name, m.Default, want.Name)
		}
	}
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	s, err := New(Config{
		Models: testModels, Engines: []Engine{cpuEngine()}, Missing: map[Device]error{CUDA: errors.New("there is no GPU")},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, c := range []struct {
		spec Spec
		want []string
	}{
		{Spec{Scale: 3}, []string{"no x3 model yet", "x2, x4, x8"}},
		{Spec{Scale: 4, Model: "m"}, []string{`no x4 model "m"`, "blur-s-x4-clean"}},
		{Spec{Scale: 4, Model: "blur-s-x2-clean"}, []string{`no x4 model "blur-s-x2-clean"`}},
		{Spec{Scale: 2, Device: CUDA}, []string{"cuda", "there is no GPU"}},
		{Spec{Scale: 8}, []string{"broken-x8", "plain Go", "the file is broken"}},
	} {
		_, err := s.Open(context.Background(), c.spec)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: got %v, want it to say %q", c.spec, err, want)
			}
		}
	}
	var none *NoModelError
	if _, _, err := s.Choose(Spec{Scale: 3}); !errors.As(err, &none) || len(none.Available) != len(testModels) {
		t.Errorf("got %v, want a NoModelError that lists all models", err)
	}
	var device *DeviceError
	if _, _, err := s.Choose(Spec{Scale: 2, Device: CUDA}); !errors.As(err, &device) {
		t.Errorf("got %v, want a DeviceError", err)
	}
	if _, err := New(Config{Models: testModels}); err == nil {
		t.Error("a scheduler without an engine was made")
	}
}

// TestTurns floods one lane with a job's frames and checks that another job's frames come every second turn all the same, and
// before all others when that job is live.
func TestTurns(t *testing.T) {
	for _, c := range []struct {
		name string
		live bool
		want string
	}{
		{"file", false, "flood calm flood calm flood calm"},
		{"live", true, "calm calm calm flood flood"}, // what runs is not interrupted: it is not among these
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGate()
			e := &blurEngine{device: CPU, lanes: Lanes{Count: 1, Batch: 8}, maxPixels: 64}
			s := newScheduler(t, e)
			flood, calm := openJob(t, s, Spec{Scale: 2}), openJob(t, s, Spec{Scale: 2, Live: c.live})
			e.infer = g.infer
			t.Cleanup(g.release)

			first, _ := submit(t, flood, noise(8, 8, 8, 0))
			<-g.entered // the lane is busy; what comes now queues up
			var order []string
			var tickets []*Ticket
			for i := range 6 {
				ticket, _ := submit(t, flood, noise(8, 8, 8, uint64(i+1)))
				tickets = append(tickets, ticket)
			}
			for i := range 3 {
				ticket, _ := submit(t, calm, noise(8, 8, 8, uint64(i+50)))
				tickets = append(tickets, ticket)
			}
			for range tickets {
				g.pass <- nil
				<-g.entered // the next one began, so the one before is finished
				done := finished(tickets)
				for i, ticket := range tickets {
					if done[i] && ticket != nil {
						order = append(order, map[bool]string{true: "flood", false: "calm"}[ticket.job == flood])
						tickets[i] = nil
					}
				}
			}
			g.release()
			wait(t, first)
			if got := strings.Join(order, " "); !strings.HasPrefix(got, c.want) {
				t.Errorf("finished in the order %s, want %s", got, c.want)
			}
		})
	}
}

func TestLadder(t *testing.T) {
	s := newScheduler(t, cpuEngine())
	for _, c := range []struct {
		spec Spec
		want string
	}{
		{Spec{Scale: 2}, "blur-l-x2-video-fp16 blur-m-x2-clean blur-s-x2-video-int8"},
		{Spec{Scale: 2, Model: "m"}, "blur-m-x2-clean"},
		{Spec{Scale: 2, Model: "blur-s-x2-clean"}, "blur-s-x2-clean"},
		{Spec{Scale: 4}, "blur-s-x4-clean"},
	} {
		models, err := s.Ladder(c.spec)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range models {
			names = append(names, m.Name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%+v: %s, want %s", c.spec, got, c.want)
		}
	}
	var none *NoModelError
	if _, err := s.Ladder(Spec{Scale: 3}); !errors.As(err, &none) {
		t.Errorf("no model at this scale: %v, want a NoModelError", err)
	}
}

func finished(tickets []*Ticket) []bool {
	done := make([]bool, len(tickets))
	for i, ticket := range tickets {
		done[i] = ticket != nil && len(ticket.done) > 0
	}
	return done
}

func TestSubmitBlocksBeyondTheShare(t *testing.T) {
	g := newGate()
	e := &blurEngine{device: CPU, lanes: Lanes{Count: 1, Batch: 1}, maxPixels: 1 << 20}
	s := newScheduler(t, e)
	j := openJob(t, s, Spec{Scale: 2})
	e.infer = g.infer
	t.Cleanup(g.release)
	const frames = 20
	errs := make(chan error, 1)
	go func() {
		for i := range frames {
			if _, err := j.Submit(context.Background(), noise(8, 8, 8, uint64(i)), newPlane(16, 16, 8)); err != nil {
				errs <- err
				return
			}
		}
		errs <- nil
	}()
	for i := range frames - 1 { // the share is two: one runs, one waits
		<-g.entered
		waitFor(t, func() bool { return s.Stats().Engines[0].Queued >= 1 })
		if n := s.Stats().Engines[0].Queued; n > 1 {
			t.Errorf("%d frames wait", n)
		}
		if i == 0 {
			ctx, cancel := context.WithTimeoutCause(context.Background(), 10*time.Millisecond, errors.New("too long"))
			if _, err := j.Submit(ctx, noise(8, 8, 8, 99), newPlane(16, 16, 8)); err == nil || err.Error() != "too long" {
				t.Errorf("a frame beyond the share: %v, want its context's cause", err)
			}
			cancel()
		}
		g.pass <- nil
	}
	g.release()
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

func TestCancelledTicketsReturnTheCause(t *testing.T) {
	g := newGate()
	e := &blurEngine{device: CPU, lanes: Lanes{Count: 1, Batch: 4, Overlap: true}, maxPixels: 64}
	s := newScheduler(t, e)
	j, other := openJob(t, s, Spec{Scale: 2}), openJob(t, s, Spec{Scale: 2})
	e.infer = g.infer
	t.Cleanup(g.release)
	running, _ := submit(t, j, noise(8, 8, 8, 1))
	<-g.entered
	loaded, _ := submit(t, j, noise(8, 8, 8, 2))

	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("the client went away")
	cancel(why)
	if err := running.Wait(ctx); !errors.Is(err, why) {
		t.Errorf("waiting with an ended context: %v, want its cause", err)
	}

	// Both sets are full now: what comes next stays in the queue.
	waitFor(t, func() bool { return s.Stats().Engines[0].Queued == 0 })
	ctx, cancel = context.WithCancelCause(context.Background())
	src := noise(8, 8, 8, 3)
	cancelled, err := other.Submit(ctx, src, newPlane(16, 16, 8))
	if err != nil {
		t.Fatal(err)
	}
	follower, dst := submit(t, other, src) // the same picture, still wanted
	cancel(why)
	g.release()
	if err := cancelled.Wait(context.Background()); !errors.Is(err, why) {
		t.Errorf("a queued frame of an ended context: %v, want its cause", err)
	}
	wait(t, follower)
	if !equalPlanes(dst, expected(src, other.Model())) {
		t.Error("the frame that waited for the cancelled one is wrong")
	}
	wait(t, running)
	wait(t, loaded)
}

func TestCloseWaitsForWhatRuns(t *testing.T) {
	g := newGate()
	e := &blurEngine{device: CPU, lanes: Lanes{Count: 1, Batch: 1}, maxPixels: 1 << 20}
	s := newScheduler(t, e)
	j := openJob(t, s, Spec{Scale: 2})
	e.infer = g.infer
	t.Cleanup(g.release)
	running, _ := submit(t, j, noise(8, 8, 8, 1))
	<-g.entered
	queued, _ := submit(t, j, noise(8, 8, 8, 2))
	closed := make(chan struct{})
	go func() {
		j.Close()
		close(closed)
	}()
	if err := queued.Wait(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("a queued frame of a closed job: %v, want ErrClosed", err)
	}
	select {
	case <-closed:
		t.Error("Close returned while a frame was running")
	default:
	}
	g.pass <- nil
	<-closed
	wait(t, running)
	if _, err := j.Submit(context.Background(), noise(8, 8, 8, 3), newPlane(16, 16, 8)); !errors.Is(err, ErrClosed) {
		t.Errorf("a frame for a closed job: %v, want ErrClosed", err)
	}
	j.Close() // again
	if n := s.Stats().Jobs; n != 0 {
		t.Errorf("%d jobs after the only one was closed", n)
	}
}

func TestSchedulerCloseEndsJobs(t *testing.T) {
	s, err := New(Config{Models: testModels, Engines: []Engine{cpuEngine()}})
	if err != nil {
		t.Fatal(err)
	}
	j := openJob(t, s, Spec{Scale: 2})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Submit(context.Background(), noise(8, 8, 8, 1), newPlane(16, 16, 8)); !errors.Is(err, ErrClosed) {
		t.Errorf("a frame after Close: %v, want ErrClosed", err)
	}
	if _, err := s.Open(context.Background(), Spec{Scale: 2}); !errors.Is(err, ErrClosed) {
		t.Errorf("a job after Close: %v, want ErrClosed", err)
	}
}

func TestEngineErrorsReachTheTicket(t *testing.T) {
	g := newGate()
	e := &blurEngine{device: CPU, lanes: Lanes{Count: 1, Batch: 1}, maxPixels: 1 << 20}
	s := newScheduler(t, e)
	j := openJob(t, s, Spec{Scale: 2})
	e.infer = g.infer
	t.Cleanup(g.release)
	why := errors.New("out of memory")
	src := noise(8, 8, 8, 1)
	failed, _ := submit(t, j, src)
	g.pass <- why
	if err := failed.Wait(context.Background()); !errors.Is(err, why) {
		t.Errorf("got %v, want the engine's error", err)
	}
	again, dst := submit(t, j, src) // a failed frame must not be taken for a result
	g.pass <- nil
	wait(t, again)
	if !equalPlanes(dst, expected(src, j.Model())) {
		t.Error("the frame after the failed one is wrong")
	}
}

// TestOverlap checks that a batch is collected while another infers, and that a lone frame is not held back for a full batch.
func TestOverlap(t *testing.T) {
	sizes := make(chan int, 100)
	g := newGate()
	e := &blurEngine{device: CPU, lanes: Lanes{Count: 1, Batch: 3, Overlap: true}, maxPixels: 1 << 20}
	s := newScheduler(t, e)
	a, b := openJob(t, s, Spec{Scale: 2}), openJob(t, s, Spec{Scale: 2})
	e.infer = func(n int) error {
		sizes <- n
		return g.infer(n)
	}
	t.Cleanup(g.release)
	first, _ := submit(t, a, noise(8, 8, 8, 1))
	if n := <-sizes; n != 1 {
		t.Fatalf("the first batch has %d frames, want the lone one", n)
	}
	var tickets []*Ticket
	for i := range 3 {
		ta, _ := submit(t, a, noise(8, 8, 8, uint64(10+i)))
		tb, _ := submit(t, b, noise(8, 8, 8, uint64(20+i)))
		tickets = append(tickets, ta, tb)
	}
	// Of the six frames, the second set has taken three while the first infers.
	waitFor(t, func() bool { return s.Stats().Engines[0].Queued == 3 })
	g.release()
	for _, ticket := range append(tickets, first) {
		wait(t, ticket)
	}
	if n, m := <-sizes, <-sizes; n != 3 || m != 3 {
		t.Errorf("then batches of %d and %d frames, want 3 and 3", n, m)
	}
}

func TestUnchangedTilesAreNotComputed(t *testing.T) {
	for _, tiled := range []bool{false, true} {
		e := cpuEngine()
		if tiled {
			e.maxPixels = 50 * 50
		}
		s := newScheduler(t, e)
		j := openJob(t, s, Spec{Scale: 2})
		tiles := uint64(len(cut(160, 120, j.Model().Halo, e.maxPixels).tiles))
		src := noise(160, 120, 10, 1)
		check := func(what string, src frame.Plane, reused uint64) {
			t.Helper()
			before := j.Stats().TilesReused
			ticket, dst := submit(t, j, src)
			wait(t, ticket)
			if !equalPlanes(dst, expected(src, j.Model())) {
				t.Errorf("%s, %d tiles: wrong result", what, tiles)
			}
			if got := j.Stats().TilesReused - before; got != reused {
				t.Errorf("%s: %d of %d tiles reused, want %d", what, got, tiles, reused)
			}
		}
		check("the first frame", src, 0)
		check("the same frame", src, tiles)
		moved := noise(160, 120, 10, 1)
		set1(moved, 2, 1, get(moved, 2, 1)^1)
		check("one sample changed in a corner", moved, tiles-1)
		check("the same again", moved, tiles)
		check("the sample changed back", src, tiles-1)
		check("another size", noise(64, 64, 10, 1), 0)
		check("another depth", noise(64, 64, 8, 1), 0)
		if st := j.Stats(); st.Reused != 2 || st.Frames != 7 {
			t.Errorf("%d of %d frames reused, want 2 of 7", st.Reused, st.Frames)
		}
	}
}

// TestBandsGiveTheWholeResult changes rows of a picture at random, with several frames under way at once: whatever is taken over from
// earlier ones, the result is what the network makes of the whole frame, and what is counted as taken over was not computed.
func TestBandsGiveTheWholeResult(t *testing.T) {
	for _, c := range []struct {
		name          string
		engine        *blurEngine
		width, height int
		live          bool
	}{
		{"whole frames", &blurEngine{lanes: Lanes{Count: 2, Batch: 1}, maxPixels: 1 << 30}, 24, 130, false},
		{"live", &blurEngine{lanes: Lanes{Count: 3, Batch: 1}, maxPixels: 1 << 30}, 24, 131, true},
		{"tiles", &blurEngine{lanes: Lanes{Count: 2, Batch: 1}, maxPixels: 40 * 60}, 70, 131, false},
		{"batches", &blurEngine{lanes: Lanes{Count: 1, Batch: 3, Overlap: true}, maxPixels: 1 << 30}, 24, 130, false},
		{"few rows", &blurEngine{lanes: Lanes{Count: 2, Batch: 1}, maxPixels: 1 << 30}, 50, 5, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.engine.device, c.engine.rows = CPU, true
			s := newScheduler(t, c.engine)
			j := openJob(t, s, Spec{Scale: 2, Model: "m", Live: c.live})
			c.engine.computed.Store(0) // what the network was tried with
			rng := rand.New(rand.NewPCG(1, 1))
			src := noise(c.width, c.height, 8, 1)
			var srcs, dsts []frame.Plane
			var tickets []*Ticket
			const frames = 80
			for range frames {
				next := newPlane(c.width, c.height, 8)
				copy(next.Data, src.Data)
				for range rng.IntN(3) {
					set1(next, rng.IntN(c.width), rng.IntN(c.height), rng.IntN(256))
				}
				src = next
				ticket, dst := submit(t, j, src)
				if rng.IntN(4) == 0 {
					wait(t, ticket)
					ticket = nil
				}
				srcs, dsts, tickets = append(srcs, src), append(dsts, dst), append(tickets, ticket)
			}
			for i, ticket := range tickets {
				if ticket != nil {
					wait(t, ticket)
				}
				if !equalPlanes(dsts[i], expected(srcs[i], j.Model())) {
					t.Fatalf("frame %d is wrong", i)
				}
			}
			st, all := j.Stats(), uint64(frames*c.width*c.height)
			if st.Pixels != all || st.PixelsReused == 0 || st.PixelsReused >= all {
				t.Errorf("%d of %d pixels are counted as taken over, want some of %d", st.PixelsReused, st.Pixels, all)
			}
			if c.name == "tiles" {
				return // rows of several tiles are not rows of the frame
			}
			if n := uint64(c.engine.computed.Load()) / 2 * uint64(c.width); n != st.Pixels-st.PixelsReused {
				t.Errorf("%d pixels were computed, but %d of %d are counted as taken over", n, st.PixelsReused, st.Pixels)
			}
			if e := s.Stats().Engines[0]; e.Pixels != st.Pixels || e.PixelsReused != st.PixelsReused {
				t.Errorf("the device counts %d of %d pixels, its only job %d of %d", e.PixelsReused, e.Pixels, st.PixelsReused, st.Pixels)
			}
		})
	}
}

// TestOnlyChangedBandsAreComputed checks how much is computed where little changes, and that what is between two changes is
// computed too where that is less work.
func TestOnlyChangedBandsAreComputed(t *testing.T) {
	e := &blurEngine{device: CPU, lanes: Lanes{Count: 1, Batch: 1}, maxPixels: 1 << 30, rows: true}
	s := newScheduler(t, e)
	j := openJob(t, s, Spec{Scale: 2, Model: "m"}) // a halo of 3
	src := noise(20, 160, 8, 1)
	for _, c := range []struct {
		changed []int
		rows    uint64 // that are computed
	}{
		{nil, 160},
		{nil, 0},
		{[]int{0}, bandRows},
		{[]int{4 * bandRows}, 2 * bandRows}, // it reaches into the band above
		{[]int{4*bandRows + 4}, bandRows},
		{[]int{4*bandRows + 4, 6*bandRows + 4}, 2 * bandRows},
		{[]int{159}, bandRows},
	} {
		for _, y := range c.changed {
			set1(src, 7, y, get(src, 7, y)^1)
		}
		before := j.Stats().PixelsReused
		ticket, dst := submit(t, j, src)
		wait(t, ticket)
		if !equalPlanes(dst, expected(src, j.Model())) {
			t.Errorf("rows %v changed: wrong result", c.changed)
		}
		if got := 160 - (j.Stats().PixelsReused-before)/20; got != c.rows {
			t.Errorf("rows %v changed: %d rows were computed, want %d", c.changed, got, c.rows)
		}
	}
	g := newGrid(20, 160, bandRows, &blurNetwork{engine: e})
	p := &piece{}
	leaders := []*piece{nil, p, nil, p, p, nil, p}
	g.closeGaps(leaders)
	if want := []*piece{nil, nil, nil, p, p, nil, p}; !slices.Equal(leaders, want) {
		t.Error("the gap of a halo was not closed, or a larger one was, or the end")
	}
}

// TestLanesShareAFrame checks that lanes share the frame of a live job, and one that is alone, unless frames wait.
func TestLanesShareAFrame(t *testing.T) {
	for _, c := range []struct {
		name     string
		live     bool
		frames   int
		together int // inferences at once
		rows     int // of output, of one of them
	}{
		{"a live frame", true, 1, 3, 2 * 96},
		{"a lone frame", false, 1, 3, 2 * 96},
		{"a lone frame, then more", false, 3, 3, 2 * 96},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGate()
			e := &blurEngine{device: CPU, lanes: Lanes{Count: 3, Batch: 1}, maxPixels: 1 << 20, rows: true}
			s := newScheduler(t, e)
			j := openJob(t, s, Spec{Scale: 2, Live: c.live})
			e.computed.Store(0)
			e.infer = g.infer
			t.Cleanup(g.release)
			var srcs, dsts []frame.Plane
			var tickets []*Ticket
			for i := range c.frames {
				src := noise(16, 3*96, 8, uint64(i))
				ticket, dst := submit(t, j, src)
				srcs, dsts, tickets = append(srcs, src), append(dsts, dst), append(tickets, ticket)
			}
			for range c.together {
				<-g.entered
			}
			g.pass <- nil
			waitFor(t, func() bool { return e.computed.Load() == int64(c.rows) })
			g.release()
			for i, ticket := range tickets {
				wait(t, ticket)
				if !equalPlanes(dsts[i], expected(srcs[i], j.Model())) {
					t.Errorf("frame %d is wrong", i)
				}
			}
			if n, want := len(g.entered), c.frames-1; n != want {
				t.Errorf("%d more inferences, want %d: the other frames whole", n, want)
			}
		})
	}
}

// TestCancelledBandsAreTakenOver ends a frame's context while it waits: later frames that wanted parts of its result get them.
func TestCancelledBandsAreTakenOver(t *testing.T) {
	g := newGate()
	e := &blurEngine{device: CPU, lanes: Lanes{Count: 1, Batch: 1}, maxPixels: 1 << 20, rows: true}
	s := newScheduler(t, e)
	j, other := openJob(t, s, Spec{Scale: 2}), openJob(t, s, Spec{Scale: 2})
	e.infer = g.infer
	t.Cleanup(g.release)
	running, _ := submit(t, other, noise(8, 8, 8, 1)) // the lane is busy
	<-g.entered

	ctx, cancel := context.WithCancelCause(context.Background())
	src := noise(16, 120, 8, 2)
	gone, err := j.Submit(ctx, src, newPlane(32, 240, 8))
	if err != nil {
		t.Fatal(err)
	}
	s.devices[0].share = 10 // as many frames as this test wants under way
	var tickets []*Ticket
	var srcs, dsts []frame.Plane
	for _, y := range []int{60, 20, 100, -1} { // each keeps other bands of the cancelled frame
		next := newPlane(16, 120, 8)
		copy(next.Data, src.Data)
		if y >= 0 {
			set1(next, 3, y, get(next, 3, y)^1)
		}
		src = next
		ticket, dst := submit(t, j, src)
		srcs, dsts, tickets = append(srcs, src), append(dsts, dst), append(tickets, ticket)
	}
	why := errors.New("the client went away")
	cancel(why)
	g.release()
	if err := gone.Wait(context.Background()); !errors.Is(err, why) {
		t.Errorf("the cancelled frame: %v, want its context's cause", err)
	}
	wait(t, running)
	for i, ticket := range tickets {
		wait(t, ticket)
		if !equalPlanes(dsts[i], expected(srcs[i], j.Model())) {
			t.Errorf("frame %d after the cancelled one is wrong", i)
		}
	}
	ticket, dst := submit(t, j, src)
	wait(t, ticket)
	if !equalPlanes(dst, expected(src, j.Model())) {
		t.Error("what was remembered is wrong")
	}
}

// TestFollowers submits the same frame many times before its first inference is over: one inference serves all.
func TestFollowers(t *testing.T) {
	g := newGate()
	e := &blurEngine{device: CPU, lanes: Lanes{Count: 1, Batch: 4}, maxPixels: 1 << 20}
	s := newScheduler(t, e)
	j := openJob(t, s, Spec{Scale: 2})
	e.infer = g.infer
	t.Cleanup(g.release)
	src := noise(40, 30, 8, 1)
	want := expected(src, j.Model())
	var tickets []*Ticket
	var dsts []frame.Plane
	for range 5 {
		ticket, dst := submit(t, j, src)
		tickets, dsts = append(tickets, ticket), append(dsts, dst)
	}
	g.pass <- nil
	for i, ticket := range tickets {
		wait(t, ticket)
		if !equalPlanes(dsts[i], want) {
			t.Errorf("frame %d is wrong", i)
		}
	}
	if n := len(g.entered); n != 1 {
		t.Errorf("%d inferences for five equal frames", n)
	}
}

func TestSubmitRefusesPlanesThatDoNotFit(t *testing.T) {
	s := newScheduler(t, cpuEngine())
	j := openJob(t, s, Spec{Scale: 2})
	short := newPlane(8, 8, 8)
	short.Data = short.Data[:63]
	for name, c := range map[string]struct{ src, dst frame.Plane }{
		"no source":        {frame.Plane{}, newPlane(16, 16, 8)},
		"wrong scale":      {newPlane(8, 8, 8), newPlane(24, 24, 8)},
		"another depth":    {newPlane(8, 8, 8), newPlane(16, 16, 10)},
		"17 bits":          {newPlane(8, 8, 17), newPlane(16, 16, 17)},
		"too little data":  {short, newPlane(16, 16, 8)},
		"too short stride": {frame.Plane{Data: make([]byte, 64), Stride: 7, Width: 8, Height: 8, Depth: 8}, newPlane(16, 16, 8)},
	} {
		if _, err := j.Submit(context.Background(), c.src, c.dst); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestEstimateIsMeasured(t *testing.T) {
	s := newScheduler(t, cpuEngine())
	if _, ok := s.Estimate("blur-s-x2-video", CPU, 640, 360); ok {
		t.Error("an estimate for a model that never ran")
	}
	openJob(t, s, Spec{Scale: 2, Model: "blur-s-x2-video"})
	small, ok1 := s.Estimate("blur-s-x2-video", CPU, 640, 360)
	large, ok2 := s.Estimate("blur-s-x2-video", CPU, 1280, 720)
	if !ok1 || !ok2 || small <= 0 || large < small*39/10 || large > small*41/10 {
		t.Errorf("after a job was opened: %v (%v) for 360p and %v (%v) for 720p, want some time and four times it", small, ok1, large, ok2)
	}
	if _, ok := s.Estimate("blur-s-x2-video", CUDA, 640, 360); ok {
		t.Error("an estimate for a device that is not there")
	}
}
