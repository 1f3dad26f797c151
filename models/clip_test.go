package models_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"testing"

	"upscaler/internal/frame"
	"upscaler/sr"
)

// The clip's pictures are shrunk from width x height, which every scale divides.
const (
	clip          = "../testdata/big-buck-bunny-3s.mp4"
	width, height = 840, 480
	every         = 24 // frames, of which one is looked at
)

// margins are by how many dB of luma PSNR a model beats bicubic at least on three pictures of a film that no model has seen, by
// scale; models trained on compressed video are not made for these clean ones, and gain less.
var margins = map[string]map[int]float64{
	"clean": {2: 3.0, 3: 2.1, 4: 1.6},
	"video": {2: 2.4, 3: 1.9, 4: 1.4},
}

func TestModelsBeatBicubic(t *testing.T) {
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		t.Skip("needs the ffmpeg program (scripts/packages.sh test)")
	}
	files, scheduler := open(t)
	want := luma(t, fmt.Sprintf("scale=%d:%d:flags=bicubic", width, height))
	for _, f := range files {
		t.Run(f.Name, func(t *testing.T) {
			w, h := width/f.Scale, height/f.Scale
			shrink := fmt.Sprintf("scale=%d:%d:flags=bicubic,scale=%d:%d:flags=bicubic", width, height, w, h)
			small := luma(t, shrink)
			bicubic := luma(t, shrink+fmt.Sprintf(",scale=%d:%d:flags=bicubic", width, height))
			job, err := scheduler.Open(context.Background(), sr.Spec{Scale: f.Scale, Model: f.Name})
			if err != nil {
				t.Fatal(err)
			}
			defer job.Close()
			ours, theirs := 0.0, 0.0
			pictures := len(small) / (w * h)
			for i := range pictures {
				truth := picture(want, i, width, height)
				ours += psnr(upscale(t, job, picture(small, i, w, h)), truth, f.Scale) / float64(pictures)
				theirs += psnr(picture(bicubic, i, width, height), truth, f.Scale) / float64(pictures)
			}
			margin := margins[f.Flavour][f.Scale]
			t.Logf("%.2f dB, bicubic %.2f", ours, theirs)
			if margin == 0 || ours < theirs+margin {
				t.Errorf("%.2f dB, bicubic %.2f: want %.2f dB more", ours, theirs, margin)
			}
		})
	}
}

// picture returns number i of pictures of 8 bits that lie one after the other.
func picture(all []byte, i, width, height int) frame.Plane {
	n := width * height
	return frame.Plane{Data: all[i*n : (i+1)*n], Stride: width, Width: width, Height: height, Depth: 8}
}

// luma returns the luma of every so many frames of the clip after a filter.
func luma(t *testing.T, filter string) []byte {
	t.Helper()
	cmd := exec.Command("ffmpeg", "-v", "error", "-i", clip, "-vf", fmt.Sprintf("select=not(mod(n\\,%d)),extractplanes=y,%s", every, filter),
		"-fps_mode", "passthrough", "-pix_fmt", "gray", "-f", "rawvideo", "-")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ffmpeg: %v: %s", err, stderr.String())
	}
	return out
}
