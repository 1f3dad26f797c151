package e2e

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestPictures sends a picture of every kind through the line: one in, one PNG out, close to the bicubically enlarged original.
func TestPictures(t *testing.T) {
	const minPSNR = 27 // dB; the dithered palette is the furthest off, a shift by one pixel costs more
	s := startServer(t)
	table := []struct {
		ext    string
		args   []string
		pixFmt string
	}{
		{"png", []string{"-pix_fmt", "rgb24"}, "rgb24"},
		{"png", []string{"-pix_fmt", "rgb48be"}, "rgb48be"},
		{"png", []string{"-pix_fmt", "gray"}, "gray"},
		{"png", []string{"-pix_fmt", "pal8"}, "rgb24"},
		{"jpg", []string{"-pix_fmt", "yuvj420p", "-q:v", "2"}, "rgb24"},
		{"jpeg", []string{"-pix_fmt", "yuvj444p", "-q:v", "2"}, "rgb24"},
		{"bmp", nil, "rgb24"},
		{"tiff", []string{"-pix_fmt", "rgb24"}, "rgb24"},
		{"webp", []string{"-quality", "95"}, "rgb24"},
	}
	for _, c := range table {
		t.Run(c.ext+" "+strings.Join(c.args, " "), func(t *testing.T) {
			dir := t.TempDir()
			in := filepath.Join(dir, "photo."+c.ext)
			ffmpeg(t, append(append([]string{"-v", "error", "-ss", "1", "-i", clip, "-frames:v", "1", "-vf", "scale=193:107:flags=bicubic"}, c.args...), in)...)
			upscale(t, in, "--server", s.addr)
			out := filepath.Join(dir, "photo.x2.png")
			if v := probe(t, out).Streams[0]; v.Codec != "png" || v.Width != 386 || v.Height != 214 || v.PixFmt != c.pixFmt || v.Frames != "1" {
				t.Errorf("the result is %+v, want one picture of %s at 386x214", v, c.pixFmt)
			}
			if v := psnr(t, in, out, "format=gbrp,scale=386:214:flags=bicubic,format=yuv444p"); v < minPSNR {
				t.Errorf("luma PSNR against bicubic is %.1f dB", v)
			}
		})
	}
}

// patches returns a picture of flat squares of 16x16 pixels, with colours from all over the cube.
func patches(alpha bool) *image.NRGBA {
	const side, n = 16, 10
	m := image.NewNRGBA(image.Rect(0, 0, side*n, side*n))
	for y := range side * n {
		for x := range side * n {
			i := y/side*n + x/side
			c := color.NRGBA{R: uint8(i % 5 * 255 / 4), G: uint8(i / 5 % 5 * 255 / 4), B: uint8(i / 25 * 255 / 3), A: 255}
			if alpha {
				c.A = uint8(55 + 2*i)
			}
			m.SetNRGBA(x, y, c)
		}
	}
	return m
}

// upscalePicture sends a picture that encode makes through the client and returns what comes back.
func upscalePicture(t *testing.T, s *server, name string, data []byte) image.Image {
	t.Helper()
	in, out := filepath.Join(t.TempDir(), name), filepath.Join(t.TempDir(), "out.png")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	upscale(t, in, "-o", out, "--server", s.addr)
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestPictureKeepsColours: RGB is YUV in between, and must be the same RGB afterwards.
func TestPictureKeepsColours(t *testing.T) {
	const tolerance = 1 // code value of 8 bits
	s := startServer(t)
	for _, alpha := range []bool{false, true} {
		original := patches(alpha)
		var data bytes.Buffer
		if err := png.Encode(&data, original); err != nil {
			t.Fatal(err)
		}
		got := upscalePicture(t, s, "in.png", data.Bytes())
		if got.Bounds().Dx() != 2*original.Bounds().Dx() {
			t.Fatalf("the result is %v", got.Bounds())
		}
		worst := 0
		for y := 8; y < original.Bounds().Dy(); y += 16 {
			for x := 8; x < original.Bounds().Dx(); x += 16 {
				want, c := original.NRGBAAt(x, y), color.NRGBAModel.Convert(got.At(2*x, 2*y)).(color.NRGBA)
				for _, d := range []int{int(c.R) - int(want.R), int(c.G) - int(want.G), int(c.B) - int(want.B), int(c.A) - int(want.A)} {
					worst = max(worst, d, -d)
				}
			}
		}
		t.Logf("alpha %v: the largest difference is %d", alpha, worst)
		if worst > tolerance {
			t.Errorf("alpha %v: a colour is off by %d, want at most %d", alpha, worst, tolerance)
		}
	}
}

// TestPictureKeepsColourProfile: the samples are those of before, so what they mean must be, too.
func TestPictureKeepsColourProfile(t *testing.T) {
	s := startServer(t)
	var plain, packed bytes.Buffer
	if err := png.Encode(&plain, patches(false)); err != nil {
		t.Fatal(err)
	}
	profile := bytes.Repeat([]byte("any profile "), 20)
	z := zlib.NewWriter(&packed)
	if _, err := z.Write(profile); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	const afterIHDR = 8 + 25
	chunk := append([]byte("iCCPname\x00\x00"), packed.Bytes()...)
	data := slices.Clone(plain.Bytes()[:afterIHDR])
	data = binary.BigEndian.AppendUint32(data, uint32(len(chunk)-4))
	data = append(data, chunk...)
	data = binary.BigEndian.AppendUint32(data, crc32.ChecksumIEEE(chunk))
	data = append(data, plain.Bytes()[afterIHDR:]...)

	in, out := filepath.Join(t.TempDir(), "in.png"), filepath.Join(t.TempDir(), "out.png")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	upscale(t, in, "-o", out, "--server", s.addr)
	result, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := bytes.Cut(result, []byte("iCCP"))
	_, rest, named := bytes.Cut(rest, []byte{0, 0}) // the name's end and the method
	if !found || !named {
		t.Fatal("the result has no colour profile")
	}
	r, err := zlib.NewReader(bytes.NewReader(rest))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, profile) {
		t.Errorf("the colour profile is %q, %v", got, err)
	}
}

// TestPictureIsTheRightWayUp: cameras store how they were held; PNG cannot say that, so the picture itself has to be turned.
func TestPictureIsTheRightWayUp(t *testing.T) {
	s := startServer(t)
	red, green, blue, white := color.NRGBA{200, 20, 20, 255}, color.NRGBA{20, 200, 20, 255}, color.NRGBA{20, 20, 200, 255}, color.NRGBA{230, 230, 230, 255}
	m := image.NewNRGBA(image.Rect(0, 0, 96, 64))
	for y := range 64 {
		for x := range 96 {
			m.SetNRGBA(x, y, [2][2]color.NRGBA{{red, green}, {blue, white}}[y/32][x/48])
		}
	}
	var plain bytes.Buffer
	if err := jpeg.Encode(&plain, m, &jpeg.Options{Quality: 98}); err != nil {
		t.Fatal(err)
	}
	// Exif 2.3, 4.6.4: what the stored picture's first row and column are to the one who looks; corners clockwise from top left.
	table := []struct {
		orientation byte
		corners     [4]color.NRGBA
	}{
		{1, [4]color.NRGBA{red, green, white, blue}},
		{2, [4]color.NRGBA{green, red, blue, white}},
		{3, [4]color.NRGBA{white, blue, red, green}},
		{4, [4]color.NRGBA{blue, white, green, red}},
		{5, [4]color.NRGBA{red, blue, white, green}},
		{6, [4]color.NRGBA{blue, red, green, white}},
		{7, [4]color.NRGBA{white, green, red, blue}},
		{8, [4]color.NRGBA{green, white, blue, red}},
	}
	for _, c := range table {
		t.Run(strconv.Itoa(int(c.orientation)), func(t *testing.T) {
			exif := []byte("Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00" + string(c.orientation) + "\x00\x00\x00\x00\x00\x00")
			data := append([]byte{0xff, 0xd8, 0xff, 0xe1, 0, byte(len(exif) + 2)}, exif...)
			got := upscalePicture(t, s, "in.jpg", append(data, plain.Bytes()[2:]...))
			w, h := 192, 128
			if c.orientation >= 5 {
				w, h = h, w
			}
			if got.Bounds().Dx() != w || got.Bounds().Dy() != h {
				t.Fatalf("the result is %v, want %dx%d", got.Bounds(), w, h)
			}
			for i, at := range [4]image.Point{{20, 20}, {w - 20, 20}, {w - 20, h - 20}, {20, h - 20}} {
				p, want := color.NRGBAModel.Convert(got.At(at.X, at.Y)).(color.NRGBA), c.corners[i]
				if d := abs(int(p.R)-int(want.R)) + abs(int(p.G)-int(want.G)) + abs(int(p.B)-int(want.B)); d > 24 {
					t.Errorf("corner %d is %v, want %v", i, p, want)
				}
			}
		})
	}
}

func abs(n int) int { return max(n, -n) }

// TestStillOfAVideo takes one picture out of a video, in its colours and the right way up.
func TestStillOfAVideo(t *testing.T) {
	s := startServer(t)
	in := shortClip(t, "in.mp4", 48, 96, 64, "-c:v", "libx264", "-crf", "10", "-c:a", "aac",
		"-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv")
	out := filepath.Join(t.TempDir(), "out.png")
	upscale(t, in, "-o", out, "--start", "1", "--server", s.addr)
	if v := probe(t, out).Streams[0]; v.Width != 192 || v.Height != 128 || v.PixFmt != "rgb24" || v.Frames != "1" {
		t.Errorf("the result is %+v, want one picture at 192x128", v)
	}
	filter := "trim=start_frame=24:end_frame=25,scale=192:128:flags=bicubic+accurate_rnd:in_color_matrix=bt709,format=gbrp,format=yuv444p"
	if v := psnr(t, in, out, filter); v < 27 {
		t.Errorf("luma PSNR against the original's picture is %.1f dB", v)
	}

	turned := filepath.Join(t.TempDir(), "turned.mp4")
	if _, _, code := run(t, nil, "ffmpeg", "-v", "error", "-display_rotation", "90", "-i", in, "-c", "copy", turned); code != 0 {
		ffmpeg(t, "-v", "error", "-i", in, "-c", "copy", "-metadata:s:v", "rotate=90", turned) // before ffmpeg 6
	}
	upscale(t, turned, "-o", out, "--overwrite", "--server", s.addr)
	if v := probe(t, out).Streams[0]; v.Width != 128 || v.Height != 192 {
		t.Errorf("the picture of the turned video is %dx%d, want 128x192", v.Width, v.Height)
	}
}

func TestAnimations(t *testing.T) {
	s := startServer(t)
	for _, c := range []struct {
		name string
		args []string
	}{
		{"in.gif", []string{"-vf", "fps=10,scale=96:64,split[a][b];[a]palettegen[p];[b][p]paletteuse"}},
		{"in.apng", []string{"-vf", "fps=10,scale=96:64", "-f", "apng"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := filepath.Join(t.TempDir(), c.name)
			ffmpeg(t, append(append([]string{"-v", "error", "-i", clip, "-t", "0.8"}, c.args...), in)...)
			upscale(t, in, "--server", s.addr)
			out := strings.TrimSuffix(in, filepath.Ext(in)) + ".x2.mkv"
			if v := probe(t, out).Streams[0]; v.Width != 192 || v.Height != 128 || v.Frames != "8" {
				t.Errorf("the result is %+v, want 8 frames at 192x128", v)
			}
			samePTS(t, framePTS(t, out), framePTS(t, in), 1e-3, false)
		})
	}
}

// TestSequence writes every picture of a part of a video that was filmed upright.
func TestSequence(t *testing.T) {
	s := startServer(t)
	dir := t.TempDir()
	plain, in := filepath.Join(dir, "plain.mp4"), filepath.Join(dir, "in.mp4")
	ffmpeg(t, "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=96x64:r=10", "-f", "lavfi", "-i", "sine", "-t", "3", "-c:v", "libx264", "-bf", "2", plain)
	if _, _, code := run(t, nil, "ffmpeg", "-v", "error", "-y", "-display_rotation", "90", "-i", plain, "-c", "copy", in); code != 0 {
		ffmpeg(t, "-v", "error", "-i", plain, "-c", "copy", "-metadata:s:v", "rotate=90", in) // before ffmpeg 6
	}

	pattern := filepath.Join(dir, "frames", "picture-%03d.png")
	upscale(t, in, "-o", pattern, "--start", "1", "--duration", "1.2", "--server", s.addr)
	names, _ := filepath.Glob(filepath.Join(dir, "frames", "*"))
	if len(names) != 12 || filepath.Base(names[0]) != "picture-001.png" || filepath.Base(names[11]) != "picture-012.png" {
		t.Fatalf("the files are %v, want picture-001.png to picture-012.png", names)
	}
	if v := probe(t, names[0]).Streams[0]; v.Width != 128 || v.Height != 192 {
		t.Errorf("the pictures have %dx%d pixels, want 128x192", v.Width, v.Height)
	}
	// The same as single pictures at those times.
	for i, at := range map[int]string{0: "1", 7: "1.7", 11: "2.1"} {
		single := filepath.Join(dir, "single"+at+".png")
		upscale(t, in, "-o", single, "--start", at, "--server", s.addr)
		if !bytes.Equal(read(t, single), read(t, names[i])) {
			t.Errorf("picture %d is not the one at %s s", i+1, at)
		}
	}
	if _, stderr, code := client(t, "upscale", in, "-o", pattern, "--server", s.addr); code != 1 || !strings.Contains(stderr, "picture-001.png exists") {
		t.Errorf("a second time: exit code %d, stderr %q", code, stderr)
	}
}

// TestPreview makes two samples of a video.
func TestPreview(t *testing.T) {
	s := startServer(t)
	dir := t.TempDir()
	in := filepath.Join(dir, "video.mp4")
	ffmpeg(t, "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=96x64:r=10", "-f", "lavfi", "-i", "sine", "-t", "8", "-c:v", "libx264", "-bf", "2", in)
	upscale(t, in, "--preview", "2", "--server", s.addr)
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	if want := []string{"video.mp4", "video.preview-1.mp4", "video.preview-1.png", "video.preview-2.mp4", "video.preview-2.png"}; !slices.Equal(names, want) {
		t.Fatalf("the files are %v, want %v", names, want)
	}
	for _, name := range names[1:] {
		frames := map[string]string{".mp4": "20", ".png": "1"}[filepath.Ext(name)]
		if v := probe(t, filepath.Join(dir, name)).Streams[0]; v.Width != 384 || v.Height != 128 || v.Frames != frames {
			t.Errorf("%s has %s frames of %dx%d, want %s of 384x128", name, v.Frames, v.Width, v.Height, frames)
		}
	}
	// The first sample lies around 2 s.
	single := filepath.Join(dir, "single.png")
	upscale(t, in, "-o", single, "--start", "2", "--server", s.addr)
	ours := filepath.Join(dir, "video.preview-1.png")
	ffmpeg(t, "-v", "error", "-i", ours, "-vf", "crop=190:128:194:0", filepath.Join(dir, "right.png"))
	ffmpeg(t, "-v", "error", "-i", single, "-vf", "crop=190:128:2:0", filepath.Join(dir, "whole.png"))
	if a, b := decoded(t, filepath.Join(dir, "right.png")), decoded(t, filepath.Join(dir, "whole.png")); !slices.Equal(a, b) {
		t.Error("the right half of the first sample's picture is not the upscaled picture at 2 s")
	}
	if _, stderr, code := client(t, "upscale", in, "--preview", "2", "--server", s.addr); code != 1 || !strings.Contains(stderr, "exists") {
		t.Errorf("a second time: exit code %d, stderr %q", code, stderr)
	}
}
