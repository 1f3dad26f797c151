package models_test

import (
	"context"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"upscaler/internal/frame"
	"upscaler/models"
	"upscaler/sr"
	"upscaler/sr/onnx"
)

// open returns the shipped files and a scheduler that runs them through ONNX Runtime.
func open(t *testing.T) ([]sr.File, *sr.Scheduler) {
	t.Helper()
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		t.Fatal(err)
	}
	portable, err := onnx.OpenCPU(onnx.CPUOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scheduler, err := sr.New(sr.Config{Models: files, Engines: []sr.Engine{portable}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := scheduler.Close(); err != nil {
			t.Error(err)
		}
	})
	return files, scheduler
}

// upscale returns what a job makes of a plane.
func upscale(t *testing.T, job *sr.Job, in frame.Plane) frame.Plane {
	t.Helper()
	s := job.Model().Scale
	out := plane(in.Width*s, in.Height*s, in.Depth)
	ticket, err := job.Submit(context.Background(), in, out)
	if err != nil {
		t.Fatal(err)
	}
	if err := ticket.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	return out
}

func plane(width, height, depth int) frame.Plane {
	stride := width * ((depth + 7) / 8)
	return frame.Plane{Data: make([]byte, stride*height), Stride: stride, Width: width, Height: height, Depth: depth}
}

func readPNG(t *testing.T, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	picture, err := png.Decode(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return picture
}

// TestGoldenOutput holds each model's result against the one kept when it was made (train/golden.py), so that neither a changed file
// nor another runtime goes unseen. Sums that fall between two codes of int8 may round either way, and later layers spread that.
func TestGoldenOutput(t *testing.T) {
	gray := func(t *testing.T, name string) frame.Plane {
		picture, ok := readPNG(t, filepath.Join("golden", name)).(*image.Gray)
		if !ok {
			t.Fatalf("golden/%s is not gray", name)
		}
		return frame.Plane{Data: picture.Pix, Stride: picture.Stride, Width: picture.Rect.Dx(), Height: picture.Rect.Dy(), Depth: 8}
	}
	files, scheduler := open(t)
	input := gray(t, "input.png")
	for _, f := range files {
		t.Run(f.Name, func(t *testing.T) {
			job, err := scheduler.Open(context.Background(), sr.Spec{Scale: f.Scale, Model: f.Name})
			if err != nil {
				t.Fatal(err)
			}
			defer job.Close()
			got, want := upscale(t, job, input), gray(t, f.Name+".png")
			if len(got.Data) != len(want.Data) {
				t.Fatalf("%d samples, want %d", len(got.Data), len(want.Data))
			}
			most, sum := 0, 0
			for i, v := range got.Data {
				d := max(int(v)-int(want.Data[i]), int(want.Data[i])-int(v))
				most, sum = max(most, d), sum+d
			}
			mean := float64(sum) / float64(len(got.Data))
			mostAllowed, meanAllowed := 1, 0.001
			if f.Precision == "int8" {
				mostAllowed, meanAllowed = 6, 0.25
			}
			if most > mostAllowed || mean > meanAllowed {
				t.Errorf("samples differ by up to %d, %.4f in the mean; at most %d and %.4f are allowed", most, mean, mostAllowed, meanAllowed)
			}
		})
	}
}

// bicubicSet5 is the luma PSNR of Pillow's bicubic interpolation on Set5 by scale, in dB (train/evaluate.py).
var bicubicSet5 = map[int]float64{2: 33.68, 3: 30.41, 4: 28.43}

// gains are by how many dB each model beats that at least: what train/README.md reports, less a hundredth for rounding.
var gains = map[string]float64{
	"lmswn-s-x2-clean": 3.56, "lmswn-s-x2-clean-int8": 3.50,
	"lmswn-s-x3-clean": 2.78, "lmswn-s-x3-clean-int8": 2.75,
	"lmswn-s-x4-clean": 2.47, "lmswn-s-x4-clean-int8": 2.44,
	"lmswn-s-x2-video": 2.98, "lmswn-s-x2-video-int8": 3.01,
	"lmswn-s-x3-video": 2.44, "lmswn-s-x3-video-int8": 2.43,
	"lmswn-s-x4-video": 2.18, "lmswn-s-x4-video-int8": 2.16,
	"lmswn-m-x2-clean": 3.73, "lmswn-m-x2-clean-int8": 3.67,
	"lmswn-m-x2-video": 2.99, "lmswn-m-x2-video-int8": 3.00,
	"lmswn-m-x3-video": 2.55, "lmswn-m-x3-video-int8": 2.53,
	"lmswn-m-x4-video": 2.20, "lmswn-m-x4-video-int8": 2.19,
}

// int8Loss is the most that an int8 model may lose on Set5 against its float32 twin, in dB.
const int8Loss = 0.065

// TestSet5 scores the shipped files on Set5 by the protocol of the papers. The pictures are not ours to pass on: the test looks for
// them in $LMSWN_TEST_SETS/Set5.
func TestSet5(t *testing.T) {
	sets := os.Getenv("LMSWN_TEST_SETS")
	if sets == "" {
		t.Skip("needs Set5: name the folder that Set5 lies in by LMSWN_TEST_SETS")
	}
	files, scheduler := open(t)
	scores := map[string]float64{}
	for _, f := range files {
		scores[f.Name] = score(t, scheduler, f, filepath.Join(sets, "Set5"))
		t.Logf("%-24s %.2f dB", f.Name, scores[f.Name])
		if gain, known := gains[f.Name]; !known || scores[f.Name] < bicubicSet5[f.Scale]+gain {
			t.Errorf("%s: %.2f dB; want %.2f dB more than bicubic's %.2f", f.Name, scores[f.Name], gain, bicubicSet5[f.Scale])
		}
	}
	for name, db := range scores {
		if float, ok := scores[strings.TrimSuffix(name, "-int8")]; !ok || db < float-int8Loss {
			t.Errorf("%s loses %.2f dB against float32", name, float-db)
		}
	}
}

// score returns a model's mean luma PSNR in dB over a folder of pairs 2_img_001_SRF_2_LR.png and _HR.png, named so by their scale.
func score(t *testing.T, scheduler *sr.Scheduler, f sr.File, folder string) float64 {
	t.Helper()
	job, err := scheduler.Open(context.Background(), sr.Spec{Scale: f.Scale, Model: f.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	small, err := filepath.Glob(filepath.Join(folder, string(rune('0'+f.Scale))+"_*_LR.png"))
	if err != nil || len(small) == 0 {
		t.Fatalf("no pictures of scale %d in %s (%v)", f.Scale, folder, err)
	}
	sum := 0.0
	for _, path := range small {
		got := upscale(t, job, lumaOf(readPNG(t, path)))
		want := lumaOf(readPNG(t, strings.Replace(path, "_LR", "_HR", 1)))
		sum += psnr(got, want, f.Scale)
	}
	return sum / float64(len(small))
}

// lumaOf returns a picture's BT.601 limited-range luma with 16 bits, so that it is not rounded to 8 as the papers' is not.
func lumaOf(picture image.Image) frame.Plane {
	p := plane(picture.Bounds().Dx(), picture.Bounds().Dy(), 16)
	for y := range p.Height {
		for x := range p.Width {
			c := color.NRGBAModel.Convert(picture.At(x, y)).(color.NRGBA)
			luma := 16 + (65.481*float64(c.R)+128.553*float64(c.G)+24.966*float64(c.B))/255
			v := uint16(math.Round(luma / 255 * math.MaxUint16))
			p.Data[y*p.Stride+2*x], p.Data[y*p.Stride+2*x+1] = byte(v), byte(v>>8)
		}
	}
	return p
}

// psnr returns the PSNR of two planes of one depth in dB, without a border of so many samples, as the papers measure it.
func psnr(a, b frame.Plane, border int) float64 {
	square, n := 0.0, 0
	for y := border; y < a.Height-border; y++ {
		for x := border; x < a.Width-border; x++ {
			d := float64(sample(a, x, y) - sample(b, x, y))
			square += d * d
			n++
		}
	}
	peak := float64(int(1)<<a.Depth - 1)
	return 10 * math.Log10(peak*peak*float64(n)/square)
}

func sample(p frame.Plane, x, y int) int {
	if p.Depth == 8 {
		return int(p.Data[y*p.Stride+x])
	}
	return int(p.Data[y*p.Stride+2*x]) | int(p.Data[y*p.Stride+2*x+1])<<8
}
