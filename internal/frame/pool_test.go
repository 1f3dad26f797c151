package frame

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

var formats = map[string]Format{
	"yuv420p":     {Depth: 8, ChromaW: 1, ChromaH: 1},
	"yuv422p10":   {Depth: 10, ChromaW: 1},
	"yuv444p12":   {Depth: 12},
	"gray":        {Depth: 8, Gray: true},
	"yuva420p":    {Depth: 8, ChromaW: 1, ChromaH: 1, Alpha: true},
	"gray alpha?": {Depth: 16, Gray: true, Alpha: true},
}

func TestGetLaysOutPlanes(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			p := NewPool(1 << 20)
			fr, err := p.Get(context.Background(), f, 33, 17)
			if err != nil {
				t.Fatal(err)
			}
			for i := range f.Planes() {
				pl := fr.Planes[i]
				w, h := f.PlaneSize(i, 33, 17)
				if pl.Width != w || pl.Height != h || pl.Depth != f.Depth {
					t.Errorf("plane %d is %dx%d of %d bits, want %dx%d of %d", i, pl.Width, pl.Height, pl.Depth, w, h, f.Depth)
				}
				if pl.Stride < w*f.SampleBytes() || len(pl.Data) < pl.Stride*(h-1)+w*f.SampleBytes() {
					t.Errorf("plane %d does not hold its rows: stride %d, %d bytes", i, pl.Stride, len(pl.Data))
				}
			}
			fr.Release()
			fr.Release()
			if n := p.InUse(); n != 0 {
				t.Errorf("%d bytes in use after release", n)
			}
		})
	}
}

func TestGetWaitsForTheBudget(t *testing.T) {
	f := formats["gray"]
	p := NewPool(64 * 64)
	a, err := p.Get(context.Background(), f, 64, 64)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Get(ctx, f, 64, 64); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("second frame beyond the budget: %v, want to wait until the deadline", err)
	}
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		b, err := p.Get(context.Background(), f, 64, 64)
		if err != nil {
			t.Error(err)
			return
		}
		b.Release()
	}()
	a.Release()
	wg.Wait()
	if n := p.InUse(); n != 0 {
		t.Errorf("%d bytes in use at the end", n)
	}
}

func TestGetRefusesWhatNeverFits(t *testing.T) {
	p := NewPool(1000)
	var tooLarge *TooLargeError
	if _, err := p.Get(context.Background(), formats["gray"], 64, 64); !errors.As(err, &tooLarge) {
		t.Fatalf("got %v, want a TooLargeError", err)
	}
}

func TestSteadyFramesAllocateOnlyTheHeader(t *testing.T) {
	p := NewPool(1 << 20)
	f := formats["yuv420p"]
	n := testing.AllocsPerRun(100, func() {
		fr, err := p.Get(context.Background(), f, 320, 180)
		if err != nil {
			t.Fatal(err)
		}
		fr.Release()
	})
	if n > 1 {
		t.Errorf("%v allocations a frame, want at most the Frame itself", n)
	}
}
