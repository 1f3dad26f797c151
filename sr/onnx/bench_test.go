package onnx

import (
	"fmt"
	"testing"

	ort "github.com/yalue/onnxruntime_go"

	"upscaler/sr"
)

// BenchmarkFrame infers whole frames on one core, from plane to plane: what a lane does.
func BenchmarkFrame(b *testing.B) {
	e := testEngine(b, CPUOptions{}, sr.Lanes{Count: 1, Batch: 1})
	for _, f := range catalog(b) {
		for _, depth := range []int{8, 10} {
			b.Run(fmt.Sprintf("%s/320x180/%d", f.Name, depth), func(b *testing.B) {
				n, err := e.Open(f)
				if err != nil {
					b.Fatal(err)
				}
				defer n.Close()
				src := picture(320, 180, depth, 1)
				dst := emptyPlane(320*f.Scale, 180*f.Scale, depth)
				batch, err := n.NewBatch(320, 180, (depth+7)/8, 1)
				if err != nil {
					b.Fatal(err)
				}
				defer batch.Close()
				b.ReportAllocs()
				for b.Loop() {
					batch.Load(0, sr.Window{Src: src, Dst: dst})
					if err := batch.Infer(1); err != nil {
						b.Fatal(err)
					}
					batch.Store(0)
				}
			})
		}
	}
}

// BenchmarkNetworkAlone infers the network as it is in its file, from float32 to float32, with the same settings: what BenchmarkFrame
// takes more than this is the price of the conversions.
func BenchmarkNetworkAlone(b *testing.B) {
	testEngine(b, CPUOptions{}, sr.Lanes{Count: 1, Batch: 1})
	for _, f := range catalog(b) {
		b.Run(f.Name+"/320x180", func(b *testing.B) {
			o, err := cpuOptions()
			if err != nil {
				b.Fatal(err)
			}
			destroyAfter(b, o)
			s, err := ort.NewDynamicAdvancedSessionWithONNXData(f.Data, []string{"x"}, []string{"y"}, o)
			if err != nil {
				b.Fatal(err)
			}
			destroyAfter(b, s)
			in, err := ort.NewEmptyTensor[float32](ort.NewShape(1, 1, 180, 320))
			if err != nil {
				b.Fatal(err)
			}
			destroyAfter(b, in)
			out, err := ort.NewEmptyTensor[float32](ort.NewShape(1, 1, int64(180*f.Scale), int64(320*f.Scale)))
			if err != nil {
				b.Fatal(err)
			}
			destroyAfter(b, out)
			for b.Loop() {
				if err := s.Run([]ort.Value{in}, []ort.Value{out}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
