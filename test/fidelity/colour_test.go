package fidelity

import (
	"encoding/binary"
	"fmt"
	"math"
	"os/exec"
	"strings"
	"testing"

	"upscaler/encode"
)

// patches are flat pictures, one after the other: black, white, saturated colours, the ends of the range. Each has the code values of 8 bits
// of its planes, alpha last.
var patches = map[string][][4]int{
	"tv": {{16, 128, 128, 255}, {235, 128, 128, 128}, {180, 90, 200, 0}, {81, 90, 240, 200}, {126, 240, 16, 30}},
	"pc": {{0, 128, 128, 255}, {255, 128, 128, 128}, {250, 5, 252, 0}, {3, 250, 4, 200}, {128, 64, 192, 30}},
}

// planar is how the planes of a pixel format lie in raw video.
type planar struct {
	depth, chromaW, chromaH int // chroma is divided by 1<<chromaW
	planes                  int
}

const patchW, patchH = 64, 48

// flats are pixel formats of inputs: how the patches get into them, and what of the output is to be looked at in what format.
var flats = []struct {
	name, args string // of ffmpeg, after the patches
	made       string // the format in which the patches are drawn
	out        string // the format of the output
	planar
}{
	{"yuv420p", "-c:v libx264 -qp 0", "yuv420p", "yuv420p", planar{8, 1, 1, 3}},
	{"yuv420p of vp9", "-c:v libvpx-vp9 -lossless 1 -cpu-used 8", "yuv420p", "yuv420p", planar{8, 1, 1, 3}},
	{"yuv422p", "-c:v ffv1 -level 3", "yuv422p", "yuv422p", planar{8, 1, 0, 3}},
	{"yuv444p", "-c:v ffv1 -level 3", "yuv444p", "yuv444p", planar{8, 0, 0, 3}},
	{"yuv411p", "-c:v ffv1 -level 3", "yuv411p", "yuv422p", planar{8, 1, 0, 3}},
	{"yuv410p", "-c:v ffv1 -level 3", "yuv410p", "yuv420p", planar{8, 1, 1, 3}},
	{"yuv440p", "-c:v ffv1 -level 3", "yuv440p", "yuv444p", planar{8, 0, 0, 3}},
	{"gray", "-c:v ffv1 -level 3", "gray", "gray", planar{8, 0, 0, 1}},
	{"nv12", "-vf format=nv12 -c:v rawvideo", "yuv420p", "yuv420p", planar{8, 1, 1, 3}},
	{"yuyv422", "-vf format=yuyv422 -c:v rawvideo", "yuv422p", "yuv422p", planar{8, 1, 0, 3}},
	{"yuva420p", "-c:v ffv1 -level 3", "yuva420p", "yuva420p", planar{8, 1, 1, 4}},
	{"yuva444p10le", "-c:v ffv1 -level 3", "yuva444p10le", "yuva444p10le", planar{10, 0, 0, 4}},
	{"yuv420p10le", "-c:v libx265 -x265-params log-level=none:lossless=1:pools=none", "yuv420p10le", "yuv420p10le", planar{10, 1, 1, 3}},
	{"yuv422p10le", "-c:v ffv1 -level 3", "yuv422p10le", "yuv422p10le", planar{10, 1, 0, 3}},
	{"yuv444p10le", "-c:v ffv1 -level 3", "yuv444p10le", "yuv444p10le", planar{10, 0, 0, 3}},
	{"gray10le", "-c:v ffv1 -level 3", "gray10le", "gray10le", planar{10, 0, 0, 1}},
	{"yuv420p12le", "-c:v ffv1 -level 3", "yuv420p12le", "yuv420p12le", planar{12, 1, 1, 3}},
	{"yuv422p12le", "-c:v ffv1 -level 3", "yuv422p12le", "yuv422p12le", planar{12, 1, 0, 3}},
	{"yuv444p12le", "-c:v ffv1 -level 3", "yuv444p12le", "yuv444p12le", planar{12, 0, 0, 3}},
	{"gray12le", "-c:v ffv1 -level 3", "gray12le", "gray12le", planar{12, 0, 0, 1}},
}

// drawn returns a source of the patches, scaled to a depth, one picture each.
func drawn(format string, depth int, all [][4]int, names ...string) string {
	var planes []string
	for i, name := range names {
		value := "0"
		for n := len(all) - 1; n >= 0; n-- {
			value = fmt.Sprintf(`if(eq(N\,%d)\,%d\,%s)`, n, all[n][i]<<(depth-8), value)
		}
		planes = append(planes, name+"='"+value+"'")
	}
	return fmt.Sprintf("-f lavfi -i color=black:size=%dx%d:rate=25:duration=%.2f,format=%s,geq=%s ", patchW, patchH, float64(len(all))/25, format, strings.Join(planes, ":"))
}

// raw returns a video's pictures in a pixel format.
func raw(t *testing.T, path, format string) []byte {
	t.Helper()
	out, err := exec.Command("ffmpeg", "-v", "error", "-nostdin", "-i", path, "-f", "rawvideo", "-pix_fmt", format, "-").Output()
	if err != nil {
		t.Fatalf("ffmpeg %s: %v", path, err)
	}
	return out
}

// checkPatches holds each sample of the pictures in b against its patch; it returns the largest difference, in code values.
func checkPatches(t *testing.T, b []byte, p planar, want func(patch, plane int) float64, patches int) (worst float64) {
	t.Helper()
	bytes := (p.depth + 7) / 8
	for n := range patches {
		for i := range p.planes {
			w, h := patchW*scale, patchH*scale
			if i == 1 || i == 2 {
				w, h = w>>p.chromaW, h>>p.chromaH
			}
			if len(b) < w*h*bytes {
				t.Fatalf("the output ends in picture %d, plane %d", n, i)
			}
			for k := range w * h {
				v := int(b[k])
				if bytes == 2 {
					v = int(binary.LittleEndian.Uint16(b[2*k:]))
				}
				worst = max(worst, math.Abs(float64(v)-want(n, i)))
			}
			b = b[w*h*bytes:]
		}
	}
	if len(b) > 0 {
		t.Errorf("%d bytes more than %d pictures", len(b), patches)
	}
	return worst
}

// TestFlatPatches: known colours come out of the whole line, the network included, within one code value of 8 or 10 bits, in every
// pixel format and range, up to the edge of the picture.
func TestFlatPatches(t *testing.T) {
	for _, f := range flats {
		for colorRange, all := range patches {
			if colorRange == "pc" && (strings.HasPrefix(f.name, "yuva") || testing.Short()) {
				continue // the same planes
			}
			t.Run(f.name+" "+colorRange, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				in := ffmpeg(t, dir, "in.mkv", drawn(f.made, f.depth, all, "lum", "cb", "cr", "a")+f.args+" -color_range "+colorRange+" -colorspace bt709")
				r := upscale(t, in, dir, "out.mkv", encode.Options{Container: encode.ContainerMatroska, Codec: encode.CodecFFV1, Seekable: true})
				worst := checkPatches(t, raw(t, r.path, f.out), f.planar, func(n, i int) float64 { return float64(all[n][i] << (f.depth - 8)) }, len(all))
				most := float64(int(1) << max(0, f.depth-10)) // of 12 bits the networks themselves are not that sure
				if r.plan.PixelFormat != f.out || worst > most {
					t.Errorf("%s, off by up to %.0f code values; want %s, at most %.0f", r.plan.PixelFormat, worst, f.out, most)
				}
				if s := probe(t, r.path).Streams[0]; s["color_range"] != colorRange || !strings.HasPrefix(f.name, "gray") && s["color_space"] != "bt709" {
					t.Errorf("it says %v, %v; want %s, bt709", s["color_range"], s["color_space"], colorRange)
				}
			})
		}
	}
}

// TestFlatRGB: RGB of all kinds becomes what BT.709 says in the full range (Rec. ITU-R BT.709-6, item 3.2), within one code value.
func TestFlatRGB(t *testing.T) {
	colours := [][4]int{{0, 0, 0, 255}, {255, 255, 255, 255}, {0, 0, 255, 0}, {200, 100, 50, 128}, {10, 250, 130, 30}}
	for _, f := range []struct {
		name, args, out string
		depth, planes   int
	}{
		{"gbrp.mkv", "-c:v ffv1 -level 3", "yuv444p", 8, 3},
		{"gbrp10.mkv", "-vf format=gbrp10le -c:v ffv1 -level 3", "yuv444p10le", 10, 3},
		{"gbrap.mkv", "-vf format=gbrap -c:v ffv1 -level 3", "yuva444p", 8, 4},
		{"h264.mkv", "-c:v libx264rgb -qp 0 -pix_fmt rgb24", "yuv444p", 8, 3},
		{"png.mov", "-c:v png -pix_fmt rgb24", "yuv444p", 8, 3},
		{"palette.gif", "-filter_complex [0]split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither=none", "yuv444p", 8, 3},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			made, planes := "gbrp", []string{"r", "g", "b"}
			if f.planes == 4 {
				made, planes = "gbrap", append(planes, "a")
			}
			in := ffmpeg(t, dir, f.name, drawn(made, 8, colours, planes...)+f.args)
			r := upscale(t, in, dir, "out.mkv", encode.Options{Container: encode.ContainerMatroska, Codec: encode.CodecFFV1, Seekable: true})
			top := float64(int(1)<<f.depth - 1)
			worst := checkPatches(t, raw(t, r.path, f.out), planar{f.depth, 0, 0, f.planes}, func(n, i int) float64 {
				c := colours[n]
				// ffmpeg makes deeper samples of 8 bits by shifting them.
				red, green, blue := float64(c[0]<<(f.depth-8)), float64(c[1]<<(f.depth-8)), float64(c[2]<<(f.depth-8))
				y := 0.2126*red + 0.7152*green + 0.0722*blue
				return math.Min(top, [4]float64{y, (blue-y)/1.8556 + (top+1)/2, (red-y)/1.5748 + (top+1)/2, float64(c[3])}[i])
			}, len(colours))
			const rounding = 0.5
			if r.plan.PixelFormat != f.out || worst > 1+rounding {
				t.Errorf("%s, off by up to %.2f code values; want %s, at most 1", r.plan.PixelFormat, worst, f.out)
			}
			if s := probe(t, r.path).Streams[0]; s["color_range"] != "pc" || s["color_space"] != "bt709" {
				t.Errorf("it says %v, %v; want pc, bt709", s["color_range"], s["color_space"])
			}
		})
	}
}
