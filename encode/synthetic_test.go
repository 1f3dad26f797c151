package encode

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// fileOutput writes to a file on disk.
type fileOutput struct {
	*os.File
	jumps int // writes that did not continue where the last one ended
	end   int64
	log   []piece
}

// piece is one call of WriteAt.
type piece struct {
	off  int64
	data []byte
}

func (f *fileOutput) WriteAt(p []byte, off int64) (int, error) {
	if off != f.end {
		f.jumps++
	}
	f.end = off + int64(len(p))
	f.log = append(f.log, piece{off, slices.Clone(p)})
	return f.File.WriteAt(p, off)
}

func newFileOutput(t *testing.T, name string) *fileOutput {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &fileOutput{File: f}
}

// syntheticMedia describes an input of one video stream.
func syntheticMedia(t testing.TB, format frame.Format, w, h int, codec astiav.CodecID, tb media.Rational, color av.Color) *av.Media {
	t.Helper()
	p := astiav.AllocCodecParameters()
	av.TrackOpen()
	p.SetMediaType(astiav.MediaTypeVideo)
	p.SetCodecID(codec)
	p.SetWidth(w)
	p.SetHeight(h)
	m := &av.Media{
		Streams: []*av.Stream{{
			Kind: media.KindVideo, Params: p, TimeBase: tb, AvgFrameRate: media.Rational{Num: 25, Den: 1},
			SampleAspectRatio: media.Rational{Num: 1, Den: 1}, StartTime: 0, Duration: av.NoTimestamp,
		}},
		VideoTimeBase: tb, Width: w, Height: h, Working: format, Color: color,
	}
	m.UpdateInfo()
	t.Cleanup(m.Free)
	return m
}

// flatFrame returns a frame whose planes hold one value each.
func flatFrame(t testing.TB, pool *frame.Pool, format frame.Format, w, h int, values [4]int) *frame.Frame {
	t.Helper()
	f, err := pool.Get(context.Background(), format, w, h)
	if err != nil {
		t.Fatal(err)
	}
	for i := range format.Planes() {
		fill(f.Planes[i], values[i])
	}
	return f
}

func fill(p frame.Plane, value int) {
	for y := range p.Height {
		row := p.Data[y*p.Stride:]
		for x := range p.Width {
			if p.Depth <= 8 {
				row[x] = byte(value)
			} else {
				binary.LittleEndian.PutUint16(row[2*x:], uint16(value))
			}
		}
	}
}

// probed is what ffprobe says.
type probed struct {
	Streams []struct {
		Index      int               `json:"index"`
		CodecName  string            `json:"codec_name"`
		CodecType  string            `json:"codec_type"`
		CodecTag   string            `json:"codec_tag_string"`
		Profile    string            `json:"profile"`
		Width      int               `json:"width"`
		Height     int               `json:"height"`
		PixFmt     string            `json:"pix_fmt"`
		SAR        string            `json:"sample_aspect_ratio"`
		Range      string            `json:"color_range"`
		Space      string            `json:"color_space"`
		Transfer   string            `json:"color_transfer"`
		Primaries  string            `json:"color_primaries"`
		Location   string            `json:"chroma_location"`
		TimeBase   string            `json:"time_base"`
		Tags       map[string]string `json:"tags"`
		Disp       map[string]int    `json:"disposition"`
		SideData   []map[string]any  `json:"side_data_list"`
		AvgRate    string            `json:"avg_frame_rate"`
		StartTime  string            `json:"start_time"`
		SampleRate string            `json:"sample_rate"`
	} `json:"streams"`
	Packets []struct {
		Stream   int    `json:"stream_index"`
		PTS      *int64 `json:"pts"`
		DTS      *int64 `json:"dts"`
		PTSTime  string `json:"pts_time"`
		Duration int64  `json:"duration"`
		Size     string `json:"size"`
		Hash     string `json:"data_hash"`
	} `json:"packets"`
	Chapters []struct {
		Start string            `json:"start_time"`
		End   string            `json:"end_time"`
		Tags  map[string]string `json:"tags"`
	} `json:"chapters"`
	Format struct {
		Name string            `json:"format_name"`
		Tags map[string]string `json:"tags"`
	} `json:"format"`
}

func probe(t *testing.T, path string) probed {
	t.Helper()
	out, err := exec.Command("ffprobe", "-v", "error", "-print_format", "json", "-show_streams", "-show_packets", "-show_chapters",
		"-show_format", "-show_data_hash", "md5", path).Output()
	if err != nil {
		t.Fatalf("ffprobe %s: %v", path, err)
	}
	var p probed
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// firstFrame returns the side data of a file's first picture.
func firstFrame(t *testing.T, path string) []map[string]any {
	t.Helper()
	out, err := exec.Command("ffprobe", "-v", "error", "-print_format", "json", "-select_streams", "v:0", "-show_frames",
		"-read_intervals", "%+#1", path).Output()
	if err != nil {
		t.Fatalf("ffprobe %s: %v", path, err)
	}
	var p struct {
		Frames []struct {
			SideData []map[string]any `json:"side_data_list"`
		} `json:"frames"`
	}
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatal(err)
	}
	if len(p.Frames) == 0 {
		t.Fatalf("%s holds no picture", path)
	}
	return p.Frames[0].SideData
}
