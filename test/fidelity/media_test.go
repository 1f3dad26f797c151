package fidelity

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"upscaler/internal/media"

	ts "github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts"
)

// ffmpeg makes a file; args are split at blanks. Equal names overwrite each other.
func ffmpeg(t *testing.T, dir, name, args string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	all := append([]string{"-v", "error", "-nostdin", "-y"}, strings.Fields(args)...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // an endless source must not eat the machine
	defer cancel()
	if out, err := exec.CommandContext(ctx, "ffmpeg", append(all, path)...).CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg %s: %v\n%s", args, err, out)
	}
	return path
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pgs returns Blu-ray subtitles: one bitmap of 8x2 pixels shown at each of the times, in milliseconds, for 300 ms.
func pgs(times ...int) string {
	var b bytes.Buffer
	segment := func(ms int, kind byte, content ...byte) {
		b.WriteString("PG")
		_ = binary.Write(&b, binary.BigEndian, []uint32{uint32(ms * 90), 0})
		b.WriteByte(kind)
		_ = binary.Write(&b, binary.BigEndian, uint16(len(content)))
		b.Write(content)
	}
	const end, palette, object, composition, window = 0x80, 0x14, 0x15, 0x16, 0x17
	for i, ms := range times {
		n := byte(2 * i)
		segment(ms, composition, 0, 96, 0, 64, 0x10, 0, n, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0, 8)
		segment(ms, window, 1, 0, 0, 8, 0, 8, 0, 8, 0, 2)
		segment(ms, palette, 0, 0, 1, 235, 128, 128, 255)
		line := []byte{0, 0x88, 1, 0, 0} // eight pixels of colour 1, end of line
		data := slices.Concat(line, line)
		segment(ms, object, slices.Concat([]byte{0, 0, 0, 0xc0, 0, 0, byte(len(data) + 4), 0, 8, 0, 2}, data)...)
		segment(ms, end)
		segment(ms+300, composition, 0, 96, 0, 64, 0x10, 0, n+1, 0, 0, 0, 0)
		segment(ms+300, window, 1, 0, 0, 8, 0, 8, 0, 8, 0, 2)
		segment(ms+300, end)
	}
	return b.String()
}

// probed is what ffprobe says of a file.
type probed struct {
	Streams  []map[string]any
	Chapters []struct {
		Start string            `json:"start_time"`
		End   string            `json:"end_time"`
		Tags  map[string]string `json:"tags"`
	}
	Programs []struct {
		Number  int               `json:"program_num"`
		Tags    map[string]string `json:"tags"`
		Streams []struct {
			Index int `json:"index"`
		} `json:"streams"`
	}
	Format  map[string]any
	Packets []struct {
		Stream int    `json:"stream_index"`
		PTS    string `json:"pts_time"`
		DTS    string `json:"dts_time"`
		Size   string `json:"size"`
		Flags  string `json:"flags"`
		Hash   string `json:"data_hash"`
	}
	Frames []struct {
		SideData []map[string]any `json:"side_data_list"`
	}
}

func probe(t *testing.T, path string) probed {
	t.Helper()
	var p probed
	for _, args := range [][]string{
		{"-show_streams", "-show_packets", "-show_chapters", "-show_programs", "-show_format", "-show_data_hash", "md5"},
		{"-select_streams", "v:0", "-show_frames", "-read_intervals", "%+#1", "-show_entries", "frame=side_data_list"},
	} {
		out, err := exec.Command("ffprobe", slices.Concat([]string{"-v", "error", "-print_format", "json"}, args, []string{path})...).Output()
		if err != nil {
			t.Fatalf("ffprobe %s: %v", path, err)
		}
		var part probed
		if err := json.Unmarshal(out, &part); err != nil {
			t.Fatal(err)
		}
		if part.Streams != nil {
			p = part
		} else {
			p.Frames = part.Frames
		}
	}
	return p
}

// pictures returns size and digest of each picture of the first video.
func pictures(t *testing.T, path string) (all []string) {
	t.Helper()
	out, err := exec.Command("ffmpeg", "-v", "error", "-nostdin", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-").Output()
	if err != nil {
		t.Fatalf("ffmpeg %s: %v", path, err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Split(line, ","); len(f) == 6 && line[0] != '#' {
			all = append(all, strings.TrimSpace(f[4])+" bytes "+strings.TrimSpace(f[5]))
		}
	}
	return all
}

// kind returns what the tables call a stream.
func (p probed) kind(i, upscaled int) string {
	s := p.Streams[i]
	kind, _ := s["codec_type"].(string)
	if d, _ := s["disposition"].(map[string]any); d != nil && d["attached_pic"] == 1.0 {
		return "cover"
	}
	switch {
	case i == upscaled:
		return "upscaled"
	case kind == "":
		return "data"
	}
	return kind
}

// fields returns all that ffprobe says of a stream, by "kind field", values as text.
func (p probed) fields(i, upscaled int) map[string]string {
	all := map[string]string{}
	kind := p.kind(i, upscaled)
	s := p.Streams[i]
	flatten(all, kind+" ", s)
	lists := [][]map[string]any{}
	if list, ok := s["side_data_list"].([]any); ok {
		for _, sd := range list {
			lists = append(lists, []map[string]any{sd.(map[string]any)})
		}
	}
	if kind == "upscaled" && len(p.Frames) > 0 { // codecs say in each picture what containers say once
		lists = append(lists, p.Frames[0].SideData)
	}
	for _, list := range lists {
		for _, sd := range list {
			name := fmt.Sprint(sd["side_data_type"])
			if strings.HasPrefix(name, "Mastering") || strings.HasPrefix(name, "Content") || strings.HasPrefix(name, "DOVI") || name == "Display Matrix" {
				flatten(all, kind+" side_data."+name+".", sd)
			}
		}
	}
	return all
}

func flatten(all map[string]string, prefix string, m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case map[string]any:
			lower := map[string]any{} // Matroska writes its names in capitals
			for k, v := range v {
				lower[strings.ToLower(k)] = v
			}
			flatten(all, prefix+k+".", lower)
		case []any:
		case string:
			if n, d, ok := strings.Cut(v, "/"); ok && d != "0" {
				x, errX := strconv.ParseFloat(n, 64)
				y, errY := strconv.ParseFloat(d, 64)
				if errX == nil && errY == nil { // fractions of different denominators are the same
					v = strconv.FormatFloat(x/y, 'g', 4, 64)
				}
			}
			all[prefix+k] = v
		default:
			all[prefix+k] = fmt.Sprint(v)
		}
	}
}

// programs returns which streams belong to which program, in the numbers of the input that streams were made of.
func (p probed) programs(streams []media.Stream) map[string]string {
	all := map[string]string{}
	for _, g := range p.Programs {
		var members []int
		for _, s := range g.Streams {
			i := s.Index
			if streams != nil {
				i = streams[i].Peer
			}
			members = append(members, i)
		}
		all[fmt.Sprintf("program %d", g.Number)] = fmt.Sprint(g.Tags["service_name"], members)
	}
	return all
}

// even tells whether a stream's packets come at equal distances.
func (p probed) even(i int) bool {
	all := p.packets(i)
	for k := 2; k < len(all); k++ {
		if a, b := all[k].time-all[k-1].time, all[1].time-all[0].time; a < b-0.002 || a > b+0.002 {
			return false
		}
	}
	return true
}

type timed struct {
	time float64
	hash string
	size string
}

// priming is what sound may begin before zero, in seconds, because decoders need it.
const priming = 0.1

// packets returns a stream's packets by time. Empty text samples, by which MP4 marks the end of a subtitle, are no packets, nor is what
// an edit list hides.
func (p probed) packets(i int) (all []timed) {
	for _, k := range p.Packets {
		if k.Stream != i || k.Size == "2" && p.Streams[i]["codec_name"] == "mov_text" {
			continue
		}
		at, err := strconv.ParseFloat(k.PTS, 64)
		if err != nil {
			at, _ = strconv.ParseFloat(k.DTS, 64)
		}
		if hidden := strings.Contains(k.Flags, "D"); hidden && (at < -priming || p.Streams[i]["codec_type"] == "video") {
			continue
		}
		all = append(all, timed{at, k.Hash, k.Size})
	}
	slices.SortStableFunc(all, func(a, b timed) int {
		switch {
		case a.time < b.time:
			return -1
		case a.time > b.time:
			return 1
		}
		return 0
	})
	return all
}

// addBox adds a box to the description of the first track's samples (ISO/IEC 14496-12, 8.5.2) of an MP4 whose index comes last.
func addBox(t *testing.T, path, kind string, content []byte) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	added := len(content) + 8
	at, end := 0, len(b)
	for _, into := range []string{"moov", "trak", "mdia", "minf", "stbl", "stsd", ""} {
		for ; into != "" && at+8 <= end && string(b[at+4:at+8]) != into; at += int(binary.BigEndian.Uint32(b[at:])) {
		}
		if at+8 > end {
			t.Fatalf("%s: no %s", path, into)
		}
		size := binary.BigEndian.Uint32(b[at:])
		binary.BigEndian.PutUint32(b[at:], size+uint32(added))
		at, end = at+8, at+int(size)
		if into == "stsd" {
			at += 8 // version, flags, number of entries
		}
	}
	box := binary.BigEndian.AppendUint32(nil, uint32(added))
	box = append(append(box, kind...), content...)
	if err := os.WriteFile(path, slices.Insert(b, end, box...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// dolbyVision returns a video with the configuration of a profile of Dolby Vision whose base layer is like that of an id
// (Dolby Vision Streams Within the ISO Base Media File Format, 3.2).
func dolbyVision(t *testing.T, dir string, profile, compatibility int) string {
	t.Helper()
	path := ffmpeg(t, dir, fmt.Sprintf("dolby%d.mp4", profile), picture+x265+"-tag:v hvc1 -pix_fmt yuv420p10le -color_primaries bt2020"+
		" -color_trc smpte2084 -colorspace bt2020nc")
	var w bits
	w.put(16, 0x100) // version
	w.put(7, profile)
	w.put(6, 1)     // level
	w.put(3, 0b101) // metadata and a base layer
	w.put(4, compatibility)
	return addBox(t, path, "dvcC", append(w.b, make([]byte, 24-len(w.b))...))
}

// programs returns a broadcast of two programs, each with picture and sound.
func programs(t *testing.T, dir string) string {
	return ffmpeg(t, dir, "programs.ts", picture+sound+"-f lavfi -i testsrc=size=64x48:rate=25:duration=0.8 "+sound+"-map 0 -map 1 -map 2 -map 3"+x264+
		"-c:a aac -program title=One:program_num=1:st=0:st=1 -program title=Two:program_num=7:st=2:st=3")
}

// telemetry returns an MP4 as cameras make it that write down where they were: its text track becomes one of data.
func telemetry(t *testing.T, dir string) string {
	path := ffmpeg(t, dir, "telemetry.mp4", picture+"-i "+write(t, dir, "t.srt", srt)+" -map 0 -map 1"+x264+"-c:s mov_text")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(bytes.Replace(b, []byte("sbtl"), []byte("meta"), 1), []byte("tx3g"), []byte("gpmd"), 1)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// klv returns a broadcast with a data stream of key, length, value (MISB ST 1402), as drones send it.
func klv(t *testing.T, dir string) string {
	t.Helper()
	in, err := os.Open(ffmpeg(t, dir, "plain.ts", picture+x264))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(dir, "klv.ts"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r := &ts.Reader{R: in}
	if err := r.Initialize(); err != nil {
		t.Fatal(err)
	}
	video, data := &ts.Track{Codec: &ts.CodecH264{}}, &ts.Track{Codec: &ts.CodecKLV{Synchronous: true}}
	w := &ts.Writer{W: out, Tracks: []*ts.Track{video, data}}
	if err := w.Initialize(); err != nil {
		t.Fatal(err)
	}
	r.OnDataH264(r.Tracks()[0], func(pts, dts int64, au [][]byte) error {
		if err := w.WriteH264(video, pts, dts, au); err != nil {
			return err
		}
		return w.WriteKLV(data, dts, fmt.Appendf(nil, "\x06\x0e\x2b\x34 at %d", dts))
	})
	for err == nil {
		err = r.Read()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return out.Name()
}
