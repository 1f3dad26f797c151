package decode

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/media"
	"upscaler/internal/notice"

	"github.com/asticode/go-astiav"
)

const chapters = `;FFMETADATA1
title=A film
artist=Somebody
[CHAPTER]
TIMEBASE=1/1000
START=0
END=400
title=First
[CHAPTER]
TIMEBASE=1/1000
START=400
END=960
title=Second
`

// everything is a Matroska file with one of each: picture, two sound tracks, subtitles, a font, chapters, metadata.
func everything(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	meta := write("chapters.txt", chapters)
	subs := write("subs.srt", "1\n00:00:00,100 --> 00:00:00,500\nHello\n\n2\n00:00:00,600 --> 00:00:00,900\nBye\n")
	font := write("font.ttf", "not really a font")
	return generate(t, "everything.mkv", "-f lavfi -i testsrc2=size=98x66:rate=25 -f lavfi -i sine=r=48000 -f lavfi -i sine=f=880:r=44100 -i "+subs+
		" -i "+meta+" -t 0.96 -map 1 -map 0 -map 2 -map 3 -map_metadata 4 -map_chapters 4 -c:v libx264 -pix_fmt yuv420p -aspect 16:9 "+
		"-c:a:0 flac -c:a:1 libvorbis -c:s srt -disposition:a:1 default -disposition:a:0 0 "+
		"-metadata:s:a:0 language=fre -metadata:s:a:1 language=ger -metadata:s:a:1 title=Kommentar -disposition:s:0 forced "+
		"-attach "+font+" -metadata:s:t mimetype=application/x-truetype-font")
}

func TestMediaKeepsEverything(t *testing.T) {
	path := everything(t)
	got, err := decodeAll(t, stream(readFile(t, path)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := got.media
	var kinds []media.Kind
	for _, s := range m.Info.Streams {
		kinds = append(kinds, s.Kind)
	}
	want := []media.Kind{media.KindAudio, media.KindVideo, media.KindAudio, media.KindSubtitle, media.KindAttachment}
	if !slices.Equal(kinds, want) || m.VideoIndex != 1 || len(m.Streams) != len(want) {
		t.Fatalf("streams %v, video is %d", kinds, m.VideoIndex)
	}
	for i := range m.Streams {
		if i == m.VideoIndex || m.Streams[i].Kind == media.KindAttachment {
			continue
		}
		content := md5.Sum(program(t, "ffmpeg", "-v", "error", "-nostdin", "-i", path, "-map", "0:"+string(rune('0'+i)), "-c", "copy", "-f", "data", "-"))
		if got.bytes[i] != hex.EncodeToString(content[:]) || got.packets[i] == 0 {
			t.Errorf("stream %d: the %d packets differ from the file's", i, got.packets[i])
		}
	}
	if a := m.Info.Streams[2]; a.Language != "ger" || a.Title != "Kommentar" || !a.Default || a.Audio.SampleRate != 44100 || a.Audio.Channels != 1 {
		t.Errorf("second sound track: %+v %+v", a, a.Audio)
	}
	if m.Info.Streams[0].Default || !m.Streams[3].Disposition.Has(astiav.DispositionFlagForced) {
		t.Error("dispositions are lost")
	}
	if v := m.Info.Streams[1].Video; v.SampleAspectRatio != (media.Rational{Num: 176, Den: 147}) || v.FrameRate != (media.Rational{Num: 25, Den: 1}) {
		t.Errorf("video: %+v", v)
	}
	wantChapters := []string{"First 0s-400ms", "Second 400ms-960ms"}
	var gotChapters []string
	for _, c := range m.Chapters {
		at := func(n int64) string {
			return time.Duration(c.TimeBase.Seconds(n) * float64(time.Second)).Round(time.Millisecond).String()
		}
		gotChapters = append(gotChapters, c.Metadata[0].Value+" "+at(c.Start)+"-"+at(c.End))
	}
	if !slices.Equal(gotChapters, wantChapters) || m.Info.Chapters != 2 {
		t.Errorf("chapters %v, want %v", gotChapters, wantChapters)
	}
	if !slices.Contains(m.Metadata, av.KeyValue{Key: "title", Value: "A film"}) {
		t.Errorf("metadata: %v", m.Metadata)
	}
	if d := m.Info.Duration; d < 900*time.Millisecond || d > 1100*time.Millisecond {
		t.Errorf("duration %v", d)
	}
	if len(got.notices) != 0 {
		t.Errorf("notices: %v", got.notices)
	}
}

// An attachment has no packets; its content is in the codec parameters.
func TestAttachmentContent(t *testing.T) {
	s, err := Open(t.Context(), stream(readFile(t, everything(t))), Options{Pool: newPool()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Media().Free()
	defer s.Close()
	a := s.Media().Streams[4]
	if got := string(a.Params.ExtraData()); got != "not really a font" {
		t.Errorf("content %q", got)
	}
	if !slices.Contains(a.Metadata, av.KeyValue{Key: "filename", Value: "font.ttf"}) {
		t.Errorf("metadata %v", a.Metadata)
	}
}

// Cover art is not the video, and arrives as one packet.
func TestCoverArtPassesThrough(t *testing.T) {
	cover := generate(t, "cover.png", "-f lavfi -i testsrc2=size=640x640 -frames:v 1")
	path := generate(t, "cover.mp4", "-f lavfi -i testsrc2=size=98x66:rate=25 -i "+cover+
		" -map 1 -map 0 -t 0.4 -c:v:0 copy -c:v:1 libx264 -pix_fmt yuv420p -disposition:v:0 attached_pic -movflags +faststart")
	got, err := decodeAll(t, stream(readFile(t, path)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	pic := 1 - got.media.VideoIndex
	if got.size != [2]int{98, 66} || len(got.pts) != 10 || !got.media.Streams[pic].AttachedPicture || got.packets[pic] != 1 {
		t.Errorf("%d frames of %v, packets %v", len(got.pts), got.size, got.packets)
	}
	content := md5.Sum(readFile(t, cover))
	if got.bytes[pic] != hex.EncodeToString(content[:]) {
		t.Error("the cover art's content differs")
	}
}

func TestRotation(t *testing.T) {
	flat := generate(t, "flat.mp4", source("98x66", 25, 2)+" -c:v libx264 -pix_fmt yuv420p")
	turn := "-display_rotation %s -i " + flat + " -c copy -movflags +faststart"
	if exec.Command("ffmpeg", "-v", "error", "-display_rotation", "90", "-i", flat, "-f", "null", "-").Run() != nil {
		turn = "-i " + flat + " -c copy -movflags +faststart -metadata:s:v rotate=%s" // before ffmpeg 6
	}
	for _, tag := range []string{"90", "180", "270"} {
		path := generate(t, "rotated.mp4", fmt.Sprintf(turn, tag))
		got, err := decodeAll(t, stream(readFile(t, path)), Options{})
		if err != nil {
			t.Fatal(err)
		}
		said := strings.TrimSpace(string(program(t, "ffprobe", "-v", "error", "-show_entries", "stream_side_data=rotation", "-of", "csv=p=0", path)))
		counterclockwise, err := strconv.Atoi(said)
		if err != nil || counterclockwise == 0 {
			t.Fatalf("ffprobe says rotation %q", said)
		}
		if v := got.media.Info.Streams[0].Video; v.Rotation != (360-counterclockwise)%360 || v.Width != 98 {
			t.Errorf("rotation %d at width %d, ffprobe says %d the other way round", v.Rotation, v.Width, counterclockwise)
		}
	}
}

// HDR10: tags and static metadata, from the stream's own messages, are known before the first frame is handed out.
func TestHDR(t *testing.T) {
	path := generate(t, "hdr.mkv", source("98x66", 25, 3)+" -vf setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc:range=tv"+
		" -c:v libx265 -pix_fmt yuv420p10le -x265-params log-level=error:"+
		"master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400:hdr10=1:repeat-headers=1")
	got, err := decodeAll(t, stream(readFile(t, path)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	v := got.media.Info.Streams[0].Video
	if v.Range != "tv" || v.Space != "bt2020nc" || v.Primaries != "bt2020" || v.Transfer != "smpte2084" {
		t.Errorf("colour %+v", v)
	}
	const mastering, light = 11, 14 // AV_FRAME_DATA_MASTERING_DISPLAY_METADATA, AV_FRAME_DATA_CONTENT_LIGHT_LEVEL
	first := map[int]bool{}
	for _, sd := range got.media.FirstSideData {
		first[sd.Type] = true
	}
	for i, kinds := range append(got.sideData, first) {
		if !kinds[mastering] || !kinds[light] {
			t.Errorf("frame %d has side data %v", i, kinds)
		}
	}
}

// When the size changes in the stream, every frame comes in the first size, with one notice.
func TestSizeChange(t *testing.T) {
	small := readFile(t, generate(t, "small.ts", source("98x66", 25, 10)+" -c:v libx264 -pix_fmt yuv420p"))
	large := readFile(t, generate(t, "large.ts", source("160x90", 25, 10)+" -c:v libx264 -pix_fmt yuv420p -output_ts_offset 0.4"))
	got, err := decodeAll(t, stream(slices.Concat(small, large)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.pts) != 20 || got.size != [2]int{98, 66} || got.codes()[notice.SizeChanged] != 1 {
		t.Errorf("%d frames, the last of %v, notices %v", len(got.pts), got.size, got.notices)
	}
	// The last frames must still show what they show: compare with ffmpeg's own scaling, which differs a little.
	alone := filtered(t, generate(t, "large.ts", source("160x90", 25, 10)+" -c:v libx264 -pix_fmt yuv420p -output_ts_offset 0.4"), "yuv420p", "scale=98:66:flags=bicubic")
	if diff := meanDifference(got.raw[len(got.raw)-len(alone):], alone); diff > 1 {
		t.Errorf("scaled frames differ by %.2f code values on average", diff)
	}
	_, err = decodeAll(t, stream(slices.Concat(small, large)), Options{Limits: Limits{MaxPixels: 98 * 66}})
	wantKind(t, err, TooLarge)
}

func meanDifference(a, b []byte) float64 {
	sum := 0
	for i := range a {
		sum += max(int(a[i])-int(b[i]), int(b[i])-int(a[i]))
	}
	return float64(sum) / float64(len(a))
}

// What Matroska's header hides is cropped away, as players do.
func TestContainerCropping(t *testing.T) {
	path := generate(t, "crop.mkv", source("98x66", 25, 3)+" -c:v ffv1 -pix_fmt yuv420p -aspect 16:9")
	b := readFile(t, path)
	// The ffmpeg program cannot write cropping; DisplayWidth and DisplayHeight become PixelCropTop and PixelCropLeft.
	width, height := bytes.Index(b, []byte{0x54, 0xB0, 0x81}), bytes.Index(b, []byte{0x54, 0xBA, 0x81})
	if width < 0 || height < 0 {
		t.Fatal("no display size found in the header")
	}
	b[width+1], b[width+3] = 0xBB, 2
	b[height+1], b[height+3] = 0xCC, 4
	got, err := decodeAll(t, stream(b), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got.size != [2]int{94, 64} || got.media.Width != 94 || got.media.Height != 64 {
		t.Errorf("frames of %v, Media says %dx%d", got.size, got.media.Width, got.media.Height)
	}
	if want := filtered(t, path, "yuv420p", "crop=94:64:4:2"); !bytes.Equal(got.raw, want) {
		t.Error("the wrong part is left")
	}
}
