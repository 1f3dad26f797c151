package av

import (
	"testing"

	"upscaler/internal/frame"
)

// A lent plane is read where it lies, its picture's other planes are those of the picture it was made from, and it is not given back
// while anything in FFmpeg can still read it.
func TestLoan(t *testing.T) {
	before := LiveContexts()
	format := frame.Format{Depth: 8, ChromaW: 1, ChromaH: 1}
	of, err := AllocPicture(format, 64, 32)
	if err != nil {
		t.Fatal(err)
	}
	loan, err := NewLoan()
	if err != nil {
		t.Fatal(err)
	}
	luma := frame.Plane{Data: make([]byte, 128*32), Stride: 128, Width: 64, Height: 32, Depth: 8}
	for range 3 {
		picture, err := loan.Lend(of, luma)
		if err != nil {
			t.Fatal(err)
		}
		theirs, ours := FramePlanes(picture, format), FramePlanes(of, format)
		if &theirs[0].Data[0] != &luma.Data[0] || theirs[0].Stride != luma.Stride || &theirs[1].Data[0] != &ours[1].Data[0] {
			t.Error("the picture has other planes")
		}
		reader := AllocFrame()
		if err := reader.Ref(picture); err != nil {
			t.Fatal(err)
		}
		if err := loan.TakeBack(); err == nil {
			t.Error("taken back from a reader")
		}
		FreeFrame(reader)
		if err := loan.TakeBack(); err != nil {
			t.Error(err)
		}
		if !of.IsWritable() {
			t.Error("the picture that it was made from is still in use")
		}
	}
	if _, err := loan.Lend(of, luma); err != nil { // as when an encoder fails
		t.Fatal(err)
	}
	loan.Close()
	FreeFrame(of)
	if n := LiveContexts(); n != before {
		t.Errorf("%d contexts are open, %d before", n, before)
	}
}
