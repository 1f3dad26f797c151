package fidelity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"upscaler/decode"
	"upscaler/encode"
	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/notice"
)

// bits writes numbers of any width, the highest bit first.
type bits struct {
	b []byte
	n int
}

func (w *bits) put(width, v int) {
	for i := width - 1; i >= 0; i-- {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[len(w.b)-1] |= byte(v>>i&1) << (7 - w.n%8)
		w.n++
	}
}

// hdr10plus returns an SEI NAL unit with HDR10+ metadata that differs from picture to picture (SMPTE ST 2094-40, annex B).
func hdr10plus(picture int) []byte {
	var w bits
	for _, b := range []int{0xb5, 0, 0x3c, 0, 1, 4, 1} { // T.35: country, provider, its code, application and its version
		w.put(8, b)
	}
	w.put(2, 1)    // one window
	w.put(27, 400) // the display's luminance
	w.put(1, 0)
	for i := range 3 {
		w.put(17, 1000*picture+i)
	}
	w.put(17, 77+picture)
	percentages := []int{1, 5, 10, 25, 50, 75, 90, 95, 99}
	w.put(4, len(percentages))
	for i, p := range percentages {
		w.put(7, p)
		w.put(17, 10*picture+i)
	}
	w.put(10, 3+picture)
	w.put(3, 0)
	body := append([]byte{4, byte(len(w.b))}, w.b...)
	nal := []byte{0, 0, 1, 39 << 1, 1}
	for _, b := range append(body, 0x80) {
		if n := len(nal); b <= 3 && nal[n-1] == 0 && nal[n-2] == 0 {
			nal = append(nal, 3)
		}
		nal = append(nal, b)
	}
	return nal
}

// dynamicHDR returns a video of HDR10+ with n pictures.
func dynamicHDR(t *testing.T, dir string) string {
	t.Helper()
	plain, err := os.ReadFile(ffmpeg(t, dir, "plain.hevc", "-f lavfi -i testsrc2=size=96x64:rate=25 -frames:v 20"+x265[:len(x265)-1]+
		":hdr10=1:bframes=0:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"+
		" -pix_fmt yuv420p10le -color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc"))
	if err != nil {
		t.Fatal(err)
	}
	var with bytes.Buffer
	n := 0
	for i, unit := range bytes.Split(plain, []byte{0, 0, 1}) {
		if i > 0 && unit[0]>>1&0x3f < 32 { // a slice
			with.Write(hdr10plus(n))
			n++
		}
		if i > 0 {
			with.Write([]byte{0, 0, 1})
		}
		with.Write(unit)
	}
	if n != 20 {
		t.Fatalf("%d slices in 20 pictures", n)
	}
	return ffmpeg(t, dir, "dynamic.mkv", "-r 25 -i "+write(t, dir, "with.hevc", with.String())+" -c copy")
}

// dynamicOf returns what each picture says in HDR10+.
func dynamicOf(t *testing.T, path string) (all []string) {
	t.Helper()
	out, err := exec.Command("ffprobe", "-v", "error", "-select_streams", "v:0", "-show_frames", "-show_entries", "frame=side_data_list", "-print_format", "json", path).Output()
	if err != nil {
		t.Fatalf("ffprobe %s: %v", path, err)
	}
	var p probed
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatal(err)
	}
	for _, f := range p.Frames {
		said := ""
		for _, sd := range f.SideData {
			if strings.Contains(fmt.Sprint(sd["side_data_type"]), "2094-40") {
				b, _ := json.Marshal(sd)
				said += string(b)
			}
		}
		all = append(all, said)
	}
	return all
}

// decodedDynamic is dynamicOf by our own decoder: ffprobe knows HDR10+ in VP9 only since version 6.
func decodedDynamic(t *testing.T, path string) (all []string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	src, err := decode.Open(t.Context(), bytes.NewReader(b), decode.Options{Pool: frame.NewPool(32 << 20),
		Spool: func() (decode.Spool, error) { return decode.NewSpool("", 64<<20) }})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Media().Free()
	defer src.Close()
	for {
		u, err := src.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		said := ""
		for _, sd := range u.Frame.SideData {
			if message, ok := av.HDR10PlusMessage(sd); ok {
				said += fmt.Sprintf("%x", message)
			}
		}
		u.Frame.Release()
		all = append(all, said)
	}
}

// TestDynamicHDR: each picture keeps its own HDR10+ metadata, or a notice says that it is lost.
func TestDynamicHDR(t *testing.T) {
	dir := t.TempDir()
	in := dynamicHDR(t, dir)
	want := dynamicOf(t, in)
	if len(want) != 20 || want[0] == "" || want[0] == want[19] {
		t.Fatalf("the input says %q", want)
	}
	for _, c := range []struct {
		to    output
		codec encode.Codec
		lost  bool
	}{
		{mp4, encode.CodecHEVC, false}, {mkv, encode.CodecHEVC, false}, {mpegts, encode.CodecHEVC, false},
		{mp4, encode.CodecAV1, true}, {webm, encode.CodecVP9, false}, {mp4, encode.CodecVP9, true}, {mkv, encode.CodecFFV1, true},
	} {
		name := fmt.Sprintf("%s %d", c.to.name, c.codec)
		t.Run(name, func(t *testing.T) {
			r := upscale(t, in, dir, "out"+c.to.extension, encode.Options{Container: c.to.container, Codec: c.codec, Seekable: true})
			if told := r.told(notice.MetadataReduced); told != c.lost {
				t.Errorf("a notice that it is lost: %v, %v", told, r.notices)
			}
			got, want := dynamicOf(t, r.path), want
			if c.codec != encode.CodecHEVC {
				got, want = decodedDynamic(t, r.path), decodedDynamic(t, in)
			}
			if !c.lost && !slices.Equal(got, want) {
				t.Errorf("the pictures say\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
	// The pictures are still pictures to a strict decoder.
	if out, err := exec.Command("ffmpeg", "-v", "warning", "-xerror", "-i", filepath.Join(dir, "out.mp4"), "-f", "null", "-").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
