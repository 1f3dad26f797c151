package encode

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// cropped returns the digest of each picture of a video after a filter; nothing is turned.
func cropped(t *testing.T, path, filter string) []string {
	t.Helper()
	sums, err := os.ReadFile(ffmpeg(t, "sums.md5", "-noautorotate -i "+path+" -map 0:v:0 -vf "+filter+" -fps_mode passthrough -f framemd5"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(sums)) {
		if f := strings.Split(line, ","); len(f) == 6 {
			all = append(all, strings.TrimSpace(f[5]))
		}
	}
	return all
}

// TestCompare: one half is the picture as it would be alone, the other has its chroma and another luma.
func TestCompare(t *testing.T) {
	for _, c := range []struct {
		name, in, size, model, bicubic string
	}{
		{"8 bits", "-f lavfi -i testsrc2=s=96x64:r=5 -t 1 -c:v ffv1", "384x128", "190:128:194:0", "190:128:0:0"},
		{"10 bits, odd, three times", "-f lavfi -i testsrc2=s=96x64:r=5,scale=95:63 -t 1 -c:v ffv1 -pix_fmt yuv420p10", "572x189", "282:188:288:0", "282:188:0:0"},
		{"gray", "-f lavfi -i testsrc2=s=96x64:r=5 -t 1 -c:v ffv1 -pix_fmt gray", "384x128", "190:128:194:0", "190:128:0:0"},
		{"alpha", "-f lavfi -i testsrc2=s=96x64:r=5 -t 1 -c:v ffv1 -pix_fmt yuva444p", "384x128", "190:128:194:0", "190:128:0:0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := ffmpeg(t, "in.mkv", c.in)
			o := Options{Codec: CodecFFV1, Seekable: true, Scale: 2}
			if strings.Contains(c.name, "three") {
				o.Scale = 3
			}
			alone := mustUpscale(t, in, "alone.mkv", o)
			o.Compare = true
			both := mustUpscale(t, in, "both.mkv", o)
			w, h, _ := strings.Cut(c.size, "x")
			if s := probe(t, both.path).Streams[0]; strconv.Itoa(s.Width) != w || strconv.Itoa(s.Height) != h {
				t.Fatalf("the comparison has %dx%d pixels, want %s", s.Width, s.Height, c.size)
			}
			size := strings.Join(strings.Split(c.model, ":")[:2], ":")
			mine := cropped(t, alone.path, "crop="+size+":2:0")
			if g := cropped(t, both.path, "crop="+c.model); !slices.Equal(g, mine) {
				t.Error("the right half is not the picture alone")
			}
			if g := cropped(t, both.path, "crop="+c.bicubic); slices.Equal(g, cropped(t, alone.path, "crop="+c.bicubic)) {
				t.Error("the left half is the same as the right one")
			}
			for _, plane := range []string{"u", "v"} {
				if strings.Contains(c.in, "gray") {
					break
				}
				a, b := cropped(t, both.path, "crop="+c.bicubic+",extractplanes="+plane), cropped(t, alone.path, "crop="+c.bicubic+",extractplanes="+plane)
				if !slices.Equal(a, b) {
					t.Errorf("the left half has another %s", plane)
				}
			}
		})
	}
	t.Run("turned by a quarter", func(t *testing.T) {
		in := fullMP4(t)
		r := mustUpscale(t, in, "out.mp4", Options{Seekable: true, Compare: true})
		if s := probe(t, r.path).Streams[0]; s.Width != 192 || s.Height != 256 {
			t.Errorf("the comparison has %dx%d pixels, want 192x256 to be turned", s.Width, s.Height)
		}
		still := mustUpscale(t, in, "out.png", Options{Container: ContainerPNG, Compare: true})
		if s := probe(t, still.path).Streams[0]; s.Width != 256 || s.Height != 192 {
			t.Errorf("the picture has %dx%d pixels, want 256x192", s.Width, s.Height)
		}
	})
}
