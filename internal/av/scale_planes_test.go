package av

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"testing"

	"upscaler/internal/frame"

	"github.com/asticode/go-astiav"
)

func TestMoreWrappersBeginWithTheirPointer(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[astiav.Dictionary](), reflect.TypeFor[astiav.OutputFormat]()} {
		f := typ.Field(0)
		if f.Name != "c" || f.Offset != 0 || f.Type.Kind() != reflect.Pointer {
			t.Errorf("%v begins with %s %v at %d, want a pointer c at 0", typ, f.Name, f.Type, f.Offset)
		}
	}
}

// allFormats returns every layout that FFmpeg has a planar pixel format for.
func allFormats() map[string]frame.Format {
	all := map[string]frame.Format{}
	for _, depth := range depths {
		for _, sub := range [][2]int{{1, 1}, {1, 0}, {0, 0}, {0, 1}} {
			for _, alpha := range []bool{false, true} {
				f := frame.Format{Depth: depth, ChromaW: sub[0], ChromaH: sub[1], Alpha: alpha}
				if p, ok := PixelFormatOf(f); ok {
					all[PixelFormatName(p)] = f
				}
			}
		}
		f := frame.Format{Depth: depth, Gray: true}
		if p, ok := PixelFormatOf(f); ok {
			all[PixelFormatName(p)] = f
		}
	}
	return all
}

func set(p frame.Plane, x, y, v int) {
	if p.Depth <= 8 {
		p.Data[y*p.Stride+x] = byte(v)
	} else {
		binary.LittleEndian.PutUint16(p.Data[y*p.Stride+2*x:], uint16(v))
	}
}

func get(p frame.Plane, x, y int) int {
	if p.Depth <= 8 {
		return int(p.Data[y*p.Stride+x])
	}
	return int(binary.LittleEndian.Uint16(p.Data[y*p.Stride+2*x:]))
}

// scale runs a PlaneScaler over a frame whose samples come from value.
func scale(t *testing.T, f frame.Format, w, h, factor, location int, value func(plane, x, y int) int) ([4]frame.Plane, func()) {
	t.Helper()
	src, err := frame.NewPool(1<<22).Get(context.Background(), f, w, h)
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.Planes() {
		for y := range src.Planes[i].Height {
			for x := range src.Planes[i].Width {
				set(src.Planes[i], x, y, value(i, x, y))
			}
		}
	}
	s, err := NewPlaneScaler(f, w, h, factor, location)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dst, err := AllocPicture(f, w*factor, h*factor)
	if err != nil {
		t.Fatal(err)
	}
	planes := FramePlanes(dst, f)
	if err := s.Scale(planes, src); err != nil {
		t.Fatal(err)
	}
	return planes, func() { FreeFrame(dst) }
}

func TestPlaneScalerKeepsFlatColours(t *testing.T) {
	before := LiveContexts()
	for name, f := range allFormats() {
		top := 1<<f.Depth - 1
		for _, size := range [][3]int{{32, 18, 2}, {33, 17, 2}, {33, 17, 3}, {5, 3, 4}, {64, 34, 1}} {
			for _, v := range []int{0, top / 16, top / 2, top - top/16, top} {
				t.Run(fmt.Sprintf("%s %v %d", name, size, v), func(t *testing.T) {
					planes, free := scale(t, f, size[0], size[1], size[2], 0, func(int, int, int) int { return v })
					defer free()
					for i := 1; i < f.Planes(); i++ { // the luma plane is not the scaler's
						for y := range planes[i].Height {
							for x := range planes[i].Width {
								if got := get(planes[i], x, y); got < v-1 || got > v+1 {
									t.Fatalf("plane %d at %d,%d is %d, want %d", i, x, y, got, v)
								}
							}
						}
					}
				})
			}
		}
	}
	if n := LiveContexts(); n != before {
		t.Errorf("%d contexts left open", n-before)
	}
}

// A ramp stays a ramp under bicubic filtering, so that its values tell where the filter took its samples from.
func TestPlaneScalerHonoursChromaLocation(t *testing.T) {
	const w, h, step = 129, 65, 256 // odd sizes: the ramp must not be stretched
	f420 := frame.Format{Depth: 16, ChromaW: 1, ChromaH: 1}
	f422 := frame.Format{Depth: 16, ChromaW: 1}
	f444 := frame.Format{Depth: 16}
	for _, c := range []struct {
		name     string
		format   frame.Format
		location int
		x, y     float64 // of chroma sample 0, in luma samples
	}{
		{"420 unsaid is left", f420, 0, 0, 0.5},
		{"420 left", f420, 1, 0, 0.5},
		{"420 center", f420, 2, 0.5, 0.5},
		{"420 top left", f420, 3, 0, 0},
		{"420 top", f420, 4, 0.5, 0},
		{"420 bottom left", f420, 5, 0, 1},
		{"422 left", f422, 1, 0, 0},
		{"444", f444, 1, 0, 0},
	} {
		for _, factor := range []int{2, 3, 4} {
			t.Run(fmt.Sprintf("%s x%d", c.name, factor), func(t *testing.T) {
				horizontal := func(_, x, _ int) int { return 1000 + step*x }
				vertical := func(_, _, y int) int { return 1000 + step*y }
				for axis, value := range []func(int, int, int) int{horizontal, vertical} {
					planes, free := scale(t, c.format, w, h, factor, c.location, value)
					offset, shift, n := c.x, c.format.ChromaW, planes[1].Width
					if axis == 1 {
						offset, shift, n = c.y, c.format.ChromaH, planes[1].Height
					}
					sub := float64(int(1) << shift)
					for i := 4 * factor; i < n-4*factor; i++ { // away from the borders
						// The output's chroma sample i lies at this luma position of the output, and there in the input.
						out := sub*float64(i) + offset
						in := (out+0.5)/float64(factor) - 0.5
						want := 1000 + step*(in-offset)/sub
						x, y := i, planes[1].Height/2
						if axis == 1 {
							x, y = planes[1].Width/2, i
						}
						for p := 1; p <= 2; p++ {
							if got := float64(get(planes[p], x, y)); math.Abs(got-want) > step/64 {
								t.Fatalf("axis %d, plane %d, sample %d is %.0f, want %.1f: %.3f samples off", axis, p, i, got, want, (got-want)/step)
							}
						}
					}
					free()
				}
			})
		}
	}
}

func TestBestFormat(t *testing.T) {
	f := func(depth, w, h int) frame.Format { return frame.Format{Depth: depth, ChromaW: w, ChromaH: h} }
	alpha := func(f frame.Format) frame.Format { f.Alpha = true; return f }
	gray := func(depth int) frame.Format { return frame.Format{Depth: depth, Gray: true} }
	for _, c := range []struct {
		encoder    string
		want, best frame.Format
		exact      bool
	}{
		{"libx264", f(8, 1, 1), f(8, 1, 1), true},
		{"libx264", f(10, 1, 0), f(10, 1, 0), true},
		{"libx264", f(9, 1, 1), f(10, 1, 1), false},
		{"libx264", gray(8), gray(8), true},
		{"libx265", f(12, 0, 0), f(12, 0, 0), true},
		{"libx265", f(14, 1, 1), f(12, 1, 1), false},
		{"libx265", alpha(f(8, 1, 1)), f(8, 1, 1), false},
		{"libsvtav1", f(8, 0, 0), f(8, 1, 1), false},
		{"libsvtav1", gray(10), f(10, 1, 1), false},
		{"libvpx-vp9", alpha(f(8, 1, 1)), alpha(f(8, 1, 1)), true},
		{"libvpx-vp9", gray(8), f(8, 1, 1), false},
		{"prores_ks", f(8, 1, 1), f(10, 1, 0), false},
		{"prores_ks", alpha(f(8, 0, 0)), alpha(f(10, 0, 0)), false},
		{"ffv1", alpha(f(16, 0, 0)), alpha(f(16, 0, 0)), true},
		{"ffv1", gray(14), gray(14), true},
	} {
		codec := astiav.FindEncoderByName(c.encoder)
		if codec == nil {
			t.Errorf("no encoder %s", c.encoder)
			continue
		}
		best, exact, err := BestFormat(codec, c.want)
		if err != nil || best != c.best || exact != c.exact {
			t.Errorf("%s for %+v: %+v, exact %v, %v; want %+v, %v", c.encoder, c.want, best, exact, err, c.best, c.exact)
		}
	}
}
