// Package fidelity tests that nothing but the resolution of the picture changes: it sends media of many kinds through whole jobs
// (decode, network, encode), compares what ffprobe says of input and output field by field, and holds the differences against
// the tables of what each container keeps. docs/fidelity.md is made from the same tables.
package fidelity

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"upscaler/decode"
	"upscaler/encode"
	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"
	"upscaler/internal/notice"
	"upscaler/models"
	"upscaler/server/pipeline"
	"upscaler/sr"
	"upscaler/sr/onnx"
)

const scale = 2

var engines *sr.Scheduler // shared by all jobs, as in the server

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		for _, p := range []string{"ffmpeg", "ffprobe"} {
			if _, err := exec.LookPath(p); err != nil {
				fmt.Fprintf(os.Stderr, "fidelity: %s is missing; run scripts/packages.sh test\n", p)
				return 1
			}
		}
		files, err := onnx.Catalog(models.FS)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cpu, err := onnx.OpenCPU(onnx.CPUOptions{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if engines, err = sr.New(sr.Config{Models: files, Engines: []sr.Engine{cpu}}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		if err := engines.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if n := av.LiveContexts(); n != 0 {
			fmt.Fprintf(os.Stderr, "fidelity: %d FFmpeg contexts are still open\n", n)
			code = 1
		}
		return code
	}())
}

var update = flag.Bool("update", false, "write docs/fidelity.md")

func TestPageIsFresh(t *testing.T) {
	const path = "../../docs/fidelity.md"
	if *update {
		if err := os.WriteFile(path, []byte(page()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != page() {
		t.Errorf("docs/fidelity.md is not what the tables say (%v); run make generate", err)
	}
}

// result is what a job left.
type result struct {
	path     string
	plan     *encode.Layout
	notices  []notice.Notice
	upscaled int  // index of the upscaled stream in the input
	refused  bool // by a strict plan
	reduced  bool // a difference was seen that a notice of reduced metadata must tell
}

func (r *result) told(code notice.Code) bool {
	return slices.ContainsFunc(r.notices, func(n notice.Notice) bool { return n.Code == code })
}

// upscale runs a whole job.
func upscale(t *testing.T, in, dir, name string, o encode.Options) *result {
	t.Helper()
	ctx := t.Context()
	b, err := os.ReadFile(in)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	r := &result{path: filepath.Join(dir, name)}
	o.Scale, o.Threads = scale, 2
	o.Notify = func(n notice.Notice) {
		mu.Lock()
		defer mu.Unlock()
		r.notices = append(r.notices, n)
	}
	if err := run(ctx, b, filepath.Base(in), r, o); err != nil {
		t.Fatal(err)
	}
	return r
}

func run(ctx context.Context, in []byte, name string, r *result, o encode.Options) error {
	src, err := decode.Open(ctx, bytes.NewReader(in), decode.Options{Name: name, Pool: frame.NewPool(32 << 20), Notify: o.Notify,
		Spool: func() (decode.Spool, error) { return decode.NewSpool("", 64<<20) }})
	if err != nil {
		return err
	}
	m := src.Media()
	defer m.Free()
	defer src.Close()
	r.upscaled = m.VideoIndex
	if r.plan, err = encode.Plan(m, o); err != nil {
		return err
	}
	for _, n := range r.plan.Notices {
		o.Notify(n)
	}
	strict := o
	strict.Strict = true
	_, refusal := encode.Plan(m, strict)
	r.refused = refusal != nil
	out, err := os.Create(r.path)
	if err != nil {
		return err
	}
	defer out.Close()
	sink, err := encode.Open(ctx, out, m, r.plan, o)
	if err != nil {
		return err
	}
	defer sink.Close()
	engine, err := engines.Open(ctx, sr.Spec{Scale: scale})
	if err != nil {
		return err
	}
	defer engine.Close()
	return (&pipeline.Job{Source: src, Engine: engine, Sink: sink, Luma: frame.NewPool(32 << 20)}).Run(ctx)
}

const (
	picture = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=0.8 "
	sound   = "-f lavfi -i sine=frequency=440:duration=0.8 "
	x264    = " -c:v libx264 -preset veryfast -pix_fmt yuv420p -bf 2 -threads 1 "
	x265    = " -c:v libx265 -preset ultrafast -x265-params log-level=none:pools=none "
	srt     = "1\n00:00:00,100 --> 00:00:00,300\nHello\n\n2\n00:00:00,500 --> 00:00:00,700\nthere\n"
	roles   = " -disposition:a:0 default+original -disposition:a:1 comment -disposition:a:2 dub -metadata:s:a:1 producer=Someone"
	notes   = ";FFMETADATA1\ntitle=A film\nartist=Somebody\ndate=1999\ncomment=rather good\ncustom=kept\n" +
		"[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=One\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=400\nEND=800\ntitle=Two\n"
)

// input is one row of the matrix: a file and the outputs it is sent to.
type input struct {
	name string
	make func(t *testing.T, dir string) string
	to   []output
}

// plain is an input that one ffmpeg command makes.
func plain(name, args string, to ...output) input {
	return input{name, func(t *testing.T, dir string) string { return ffmpeg(t, dir, name, args) }, to}
}

func inputs() []input {
	return []input{
		{"full.mkv", fullMKV, outputs},
		{"bitmaps.mkv", bitmapsMKV, outputs},
		{"full.mp4", fullMP4, outputs},
		{"mirror.mp4", mirrored, outputs},
		plain("film.mov", "-f lavfi -i testsrc2=size=96x64:rate=24000/1001:duration=0.6 "+sound+"-c:v prores_ks -pix_fmt yuv422p10le -c:a pcm_s16le"+
			" -timecode 01:00:00:00 -color_primaries bt709 -color_trc bt709 -colorspace bt709", outputs...),
		{"vp9.webm", func(t *testing.T, dir string) string {
			return ffmpeg(t, dir, "vp9.webm", picture+sound+sound+"-i "+write(t, dir, "w.srt", srt)+" -i "+write(t, dir, "w.txt", notes)+
				" -map 0 -map 1 -map 2 -map 3 -map_metadata 4 -map_chapters 4 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a:0 libopus"+
				" -c:a:1 libvorbis -c:s webvtt -metadata:s:a:0 language=swe -metadata:s:a:1 title=Second")
		}, outputs},
		plain("broadcast.ts", picture+sound+sound+"-map 0 -map 1 -map 2 -c:v mpeg2video -pix_fmt yuv420p -bf 2 -c:a:0 mp2 -c:a:1 ac3"+
			" -metadata:s:a:0 language=eng -metadata:s:a:1 language=ger -muxdelay 0.7", outputs...),
		{"dvb.ts", func(t *testing.T, dir string) string {
			return ffmpeg(t, dir, "dvb.ts", picture+"-fix_sub_duration -i "+write(t, dir, "d.sup", pgs(100, 500))+" -map 0 -map 1"+x264+
				"-c:s dvbsub -metadata:s:s:0 language=swe -disposition:s:0 hearing_impaired")
		}, outputs},
		{"programs.ts", programs, outputs},
		{"klv.ts", klv, outputs},
		{"telemetry.mp4", telemetry, outputs},
		plain("roles.mkv", picture+sound+sound+sound+"-map 0 -map 1 -map 2 -map 3"+x264+"-c:a aac"+roles, mp4, mov, mkv, mpegts),
		plain("roles-webm.mkv", picture+sound+sound+sound+"-map 0 -map 1 -map 2 -map 3 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus"+roles, webm),
		plain("aac.ts", picture+sound+x264+"-c:a aac", mp4, mkv, mpegts),
		plain("old.avi", picture+sound+"-c:v mpeg4 -bf 0 -c:a libmp3lame", mp4, mkv),
		plain("web.flv", picture+"-f lavfi -i sine=sample_rate=44100:duration=0.8 "+x264+"-c:a aac", mp4, mkv, mpegts),
		plain("two.mkv", picture+"-f lavfi -i testsrc=size=64x48:rate=25:duration=0.8 -map 0 -map 1"+x264+"-disposition:v:1 0 -metadata:s:v:1 title=Small", outputs...),
		plain("wrap.ts", picture+sound+x264+"-g 10 -c:a mp2 -output_ts_offset 95441.7", mp4, mkv, mpegts), // 33 bits end at 95443.7 s
		plain("late.mp4", "-itsoffset 1.36 "+picture+"-itsoffset 0.5 "+sound+x264+"-c:a aac", mp4, mov, mkv, mpegts),
		plain("latesound.mkv", picture+"-itsoffset 0.3 "+sound+x264+"-c:a flac", mp4, mkv),
		{"edited.mp4", func(t *testing.T, dir string) string { // its edit list begins in the middle of a group of pictures
			return ffmpeg(t, dir, "edited.mp4", "-ss 0.4 -i "+ffmpeg(t, dir, "whole.mp4", picture+sound+x264+"-g 100 -c:a aac")+" -c copy")
		}, []output{mp4, mov, mkv, mpegts}},
		plain("cut.mp4", "-ss 0.3 "+picture+"-ss 0.3 "+sound+x264+"-g 100 -c:a aac", mp4, mkv),
		plain("vfr.mkv", picture+"-vf setpts='(N+gte(N,5)*7)/25/TB+random(0)*0.01/TB' -vsync vfr"+x264, mp4, mkv, mpegts),
		plain("hdr10.mkv", picture+x265[:len(x265)-1]+":hdr10=1:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"+
			":max-cll=1000,400 -pix_fmt yuv420p10le -color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc -color_range tv", outputs...),
		plain("hlg.mp4", picture+x265+"-pix_fmt yuv420p10le -color_primaries bt2020 -color_trc arib-std-b67 -colorspace bt2020nc -color_range tv", mp4, mkv, webm),
		{"dolby.mp4", func(t *testing.T, dir string) string { return dolbyVision(t, dir, 8, 1) }, outputs},
		plain("full-range.mp4", picture+"-c:v libx264 -pix_fmt yuvj420p -color_primaries smpte170m -color_trc smpte170m -colorspace smpte170m", outputs...),
		plain("topleft.mkv", picture+"-c:v libx264 -pix_fmt yuv420p -chroma_sample_location topleft -x264-params chromaloc=2", mp4, mkv),
		plain("422.mkv", picture+"-c:v libx264 -pix_fmt yuv422p10le -color_primaries bt709 -color_trc bt709 -colorspace bt709", mp4, mkv),
		plain("444.mkv", picture+"-c:v libx264 -pix_fmt yuv444p -color_range pc -colorspace bt709", mp4, mkv, webm),
		plain("gray.mkv", picture+"-c:v ffv1 -level 3 -pix_fmt gray10le", mkv),
		plain("12bit.mkv", picture+"-c:v ffv1 -level 3 -pix_fmt yuv422p12le -color_range tv", mkv, mp4),
		plain("alpha.mkv", picture+"-vf format=yuva444p -c:v ffv1 -level 3", mkv),
		plain("odd.mkv", "-f lavfi -i testsrc=size=97x65:rate=25:duration=0.4 -c:v ffv1 -level 3 -pix_fmt yuv420p -aspect 3:2", mkv, mp4),
		plain("interlaced.ts", picture+"-vf setfield=tff -c:v mpeg2video -flags +ildct+ilme -pix_fmt yuv420p", mp4, mpegts),
	}
}

// fullMKV has one of everything that Matroska holds, but bitmaps.
func fullMKV(t *testing.T, dir string) string {
	font := write(t, dir, "font.ttf", "not really a font")
	return ffmpeg(t, dir, "full.mkv", picture+sound+sound+sound+"-i "+write(t, dir, "s.srt", srt)+" -i "+write(t, dir, "c.txt", notes)+
		" -map 0:v -map 1:a -map 2:a -map 3:a -map 3:a -map 4:s -map 4:s -map 4:s -map_metadata 5 -map_chapters 5"+x264+
		"-c:a:0 aac -c:a:1 ac3 -c:a:2 flac -c:a:3 pcm_s16le -c:s:0 srt -c:s:1 ass -c:s:2 webvtt -metadata:s:a:0 language=ger"+
		" -metadata:s:a:1 language=eng -metadata:s:a:1 title=Commentary -metadata:s:a:1 producer=Someone -metadata:s:s:0 language=fre"+
		" -metadata:s:s:0 title=Untertitel -metadata:s:v title=Pictures -metadata:s:v language=jpn"+
		" -disposition:a:0 default -disposition:a:1 comment -disposition:s:0 forced -disposition:s:1 hearing_impaired"+
		" -attach "+font+" -metadata:s:t mimetype=application/x-truetype-font")
}

// bitmapsMKV has subtitles that are pictures.
func bitmapsMKV(t *testing.T, dir string) string {
	sup := write(t, dir, "s.sup", pgs(100, 500))
	return ffmpeg(t, dir, "bitmaps.mkv", picture+"-fix_sub_duration -i "+sup+" -map 0 -map 1 -map 1"+x264+
		"-c:s:0 copy -c:s:1 dvdsub -metadata:s:s:0 language=ger -metadata:s:s:1 language=eng")
}

// fullMP4 has one of everything that MP4 holds, the picture turned by 90 degrees.
func fullMP4(t *testing.T, dir string) string {
	cover := ffmpeg(t, dir, "cover.png", "-f lavfi -i testsrc=size=32x32 -frames:v 1")
	return ffmpeg(t, dir, "full.mp4", picture+sound+sound+"-i "+write(t, dir, "m.srt", srt)+" -i "+write(t, dir, "m.txt", notes)+" -i "+cover+
		" -map 0:v -map 1:a -map 2:a -map 3:s -map 5:v -map_metadata 4 -map_chapters 4"+x264+"-filter:v:0 setsar=4/3 -c:v:1 png -c:a:0 aac -c:a:1 eac3"+
		" -c:s mov_text -disposition:v:1 attached_pic -disposition:a:0 default -disposition:a:1 0 -metadata:s:a:0 language=ger -metadata:s:a:1 language=eng"+
		" -metadata:s:s:0 language=fre -metadata:s:v:0 rotate=90 -color_primaries bt709 -color_trc bt709 -colorspace bt709 -color_range tv")
}

// mirrored is a video whose track header mirrors the picture: the matrix' first number is negated.
func mirrored(t *testing.T, dir string) string {
	path := ffmpeg(t, dir, "mirror.mp4", picture+x264)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("tkhd"))
	if at < 0 {
		t.Fatal("no track header")
	}
	at += 4 + 40 // ISO/IEC 14496-12, 8.3.2: the matrix of version 0
	copy(b[at:], []byte{0xff, 0xff, 0, 0})
	copy(b[at+24:], []byte{0, 96, 0, 0}) // moved back into view
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMatrix(t *testing.T) {
	dir := t.TempDir()
	used := &seen{fates: map[string]bool{}}
	t.Run("jobs", func(t *testing.T) {
		for _, in := range inputs() {
			t.Run(in.name, func(t *testing.T) {
				t.Parallel()
				sub := filepath.Join(dir, in.name+".d")
				if err := os.Mkdir(sub, 0o700); err != nil {
					t.Fatal(err)
				}
				path := in.make(t, sub)
				want := probe(t, path)
				for _, o := range in.to {
					t.Run(o.name, func(t *testing.T) {
						r := upscale(t, path, sub, "out"+o.extension, encode.Options{Container: o.container, Seekable: true})
						compare(t, want, probe(t, r.path), o, r, used)
					})
				}
			})
		}
	})
	if f := flag.Lookup("test.run"); !t.Failed() && (f == nil || !strings.Contains(f.Value.String(), "/")) {
		used.checkAll(t)
	}
}

// TestDolbyVisionAlone: a picture that needs Dolby Vision's metadata to have its colours is refused, never shown in false ones.
func TestDolbyVisionAlone(t *testing.T) {
	dir := t.TempDir()
	in, err := os.ReadFile(dolbyVision(t, dir, 5, 0))
	if err != nil {
		t.Fatal(err)
	}
	err = run(t.Context(), in, "in.mp4", &result{path: filepath.Join(dir, "out.mp4")}, encode.Options{Scale: scale, Notify: func(notice.Notice) {}})
	var unsupported *encode.UnsupportedError
	if !errors.As(err, &unsupported) || !strings.Contains(unsupported.Text, "profile 5") {
		t.Errorf("%v, want an UnsupportedError", err)
	}
}

// TestCleanAperture: what MP4's clean aperture hides is cropped away, as if it never had been there.
func TestCleanAperture(t *testing.T) {
	dir := t.TempDir()
	const lossless = "-c:v libx264 -qp 0 -bf 0 -pix_fmt yuv420p"
	whole := ffmpeg(t, dir, "in.mp4", picture+lossless)
	cropped := ffmpeg(t, dir, "cropped.mp4", "-i "+whole+" -vf crop=90:60:4:2 "+lossless)
	var clap []byte
	for _, fraction := range [][2]uint32{{90, 1}, {60, 1}, {1, 1}, {0, 1}} { // width, height, how far its middle lies to the right and below
		clap = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(clap, fraction[0]), fraction[1])
	}
	o := encode.Options{Container: encode.ContainerMatroska, Codec: encode.CodecFFV1, Seekable: true}
	a := upscale(t, addBox(t, whole, "clap", clap), dir, "a.mkv", o)
	b := upscale(t, cropped, dir, "b.mkv", o)
	if x, y := pictures(t, a.path), pictures(t, b.path); !slices.Equal(x, y) || len(x) != 20 {
		t.Errorf("%d pictures, the first %s; want %d, the first %s", len(x), x[0], len(y), y[0])
	}
}

// TestJoinedBroadcasts: where a recording goes on with another clock, its time goes on evenly, sound beside the picture, nothing dropped or
// doubled, and one notice says so.
func TestJoinedBroadcasts(t *testing.T) {
	dir := t.TempDir()
	var all []byte
	for i, offset := range []string{"0", "5000", "70"} {
		b, err := os.ReadFile(ffmpeg(t, dir, fmt.Sprintf("%d.ts", i), picture+sound+x264+"-c:a mp2 -output_ts_offset "+offset))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	r := upscale(t, write(t, dir, "joined.ts", string(all)), dir, "out.mkv", encode.Options{Container: encode.ContainerMatroska, Seekable: true})
	const frame = 0.04
	got := probe(t, r.path)
	for i, each := range []float64{frame, 1152.0 / 44100} { // an MP2 packet has 1152 samples
		times := got.packets(i)
		for k := 1; k < len(times); k++ {
			// Sound that is longer than its pictures overlaps with what follows.
			if d := times[k].time - times[k-1].time; math.Abs(d-each) > 0.002+float64(i)*frame/2 {
				t.Errorf("stream %d: packet %d comes %.3f s after the one before", i, k, d)
			}
		}
		if least := int(3*0.8/each) - 3; len(times) < least {
			t.Errorf("stream %d: %d packets, want %d or more", i, len(times), least)
		}
	}
	v, a := got.packets(0), got.packets(1)
	if d := (v[len(v)-1].time - v[0].time) - (a[len(a)-1].time - a[0].time); len(v) != 60 || math.Abs(d) > 2*frame {
		t.Errorf("%d pictures; sound and picture end %.3f s apart", len(v), d)
	}
	repairs := 0
	for _, n := range r.notices {
		if n.Code == notice.TimestampsRepaired {
			repairs++
		}
	}
	if repairs != 1 {
		t.Errorf("%d notices: %v", repairs, r.notices)
	}
}

// seen remembers which lines of the tables the jobs have shown to be true.
type seen struct {
	sync.Mutex
	fates map[string]bool
}

func (s *seen) mark(line string, o output) {
	s.Lock()
	defer s.Unlock()
	s.fates[line+" in "+o.name] = true
}

// checkAll fails for each line that no job has shown, as the page would promise, or regret, what nobody knows; and for each that is
// said to be untested but was shown.
func (s *seen) checkAll(t *testing.T) {
	check := func(line string) {
		switch shown := s.fates[line]; {
		case !shown && !notTested[line]:
			t.Errorf("no job shows what becomes of %q", line)
		case shown && notTested[line]:
			t.Errorf("a job shows what becomes of %q: take it from the list of what is not tested", line)
		}
	}
	for _, o := range outputs {
		for _, st := range streams {
			check(st.name + " in " + o.name)
		}
		for _, p := range properties {
			check(p.name + " in " + o.name)
		}
	}
}

// compare holds an output against its input.
func compare(t *testing.T, want, got probed, o output, r *result, used *seen) {
	t.Helper()
	move := 0.0
	if at, bt := want.packets(r.upscaled), got.packets(r.plan.Input.Streams[r.upscaled].Peer); len(at) > 0 && len(bt) > 0 &&
		(o.name == mpegts.name || r.told(notice.TimestampsRepaired)) {
		move = bt[0].time - at[0].time // its times cannot be negative, so all of them may move
		if least := -at[0].time; move < -o.tick || move > max(least, 0)+0.2 {
			t.Errorf("all times move by %f s", move)
		}
	}
	for i, s := range r.plan.Input.Streams {
		kind := want.kind(i, r.upscaled)
		name := fmt.Sprintf("stream %d, %s %v", i, kind, want.Streams[i]["codec_name"])
		if i != r.upscaled {
			what := kind + " " + fmt.Sprint(want.Streams[i]["codec_name"])
			if kind == "data" {
				what += " " + fmt.Sprint(want.Streams[i]["codec_tag_string"])
			}
			checkCarried(t, name, what, s.Action != media.ActionDrop, o, r, i, used)
		}
		if s.Action == media.ActionDrop {
			continue
		}
		if s.Peer >= len(got.Streams) {
			t.Errorf("%s: the output has %d streams, it should be number %d", name, len(got.Streams), s.Peer)
			continue
		}
		outKind := r.upscaled
		if i == r.upscaled {
			outKind = s.Peer
		} else if s.Peer == r.upscaled {
			outKind = -1
		}
		peer := s.Peer
		if kind == "cover" { // MP4 has it beside the tracks, so the chapters' track comes before it
			for k := range got.Streams {
				if got.kind(k, outKind) == kind {
					peer = k
				}
			}
		}
		if k := got.kind(peer, outKind); k != kind {
			t.Errorf("%s becomes %s", name, k)
			continue
		}
		converted := s.Action == media.ActionConvert
		comparePackets(t, name, kind, want, got, i, peer, move, o, converted)
		a, b := want.fields(i, r.upscaled), got.fields(peer, outKind)
		if converted {
			for _, field := range []string{"codec_name", "width", "height"} {
				delete(a, kind+" "+field)
			}
		}
		if i == r.upscaled {
			ofChroma(want.Streams[i]["pix_fmt"], a)
			for _, side := range []string{"width", "height"} {
				if x, y := want.Streams[i][side].(float64), got.Streams[s.Peer][side].(float64); y != x*scale && y != x*scale+math.Mod(x*scale, 2) {
					t.Errorf("%s: %s is %v, was %v", name, side, y, x)
				}
			}
		}
		if !want.even(i) { // frames a second of pictures that do not come evenly is each container's guess
			delete(a, kind+" avg_frame_rate")
		}
		if handler := b[kind+" tags.handler_name"]; b[kind+" tags.title"] == "" && (o.name == mp4.name || o.name == mov.name) {
			b[kind+" tags.title"] = handler // where players look for it
		}
		r.reduced = r.reduced || a[kind+" tags.timecode"] != b[kind+" tags.timecode"] // compared by the row of its track
		compareFields(t, name, a, b, o, r, used)
	}
	a, b := map[string]string{}, map[string]string{}
	flatten(a, "format ", want.Format)
	flatten(b, "format ", got.Format)
	compareFields(t, "the file", a, b, o, r, used)
	for i, c := range want.Chapters {
		a := map[string]string{"chapter start": c.Start, "chapter end": c.End, "chapter title": c.Tags["title"]}
		b := map[string]string{}
		if i < len(got.Chapters) {
			g := got.Chapters[i]
			b = map[string]string{"chapter start": g.Start, "chapter end": g.End, "chapter title": g.Tags["title"]}
		}
		compareFields(t, fmt.Sprintf("chapter %d", i), a, b, o, r, used)
	}
	lossy := slices.ContainsFunc(r.plan.Notices, func(n notice.Notice) bool {
		return n.Code == notice.StreamDropped || n.Code == notice.MetadataReduced || strings.Contains(n.Text, "is reduced to") ||
			strings.Contains(n.Text, "transparency") || strings.Contains(n.Text, "plain styles")
	})
	if r.refused != lossy {
		t.Errorf("strict refuses: %v; the notices are %v", r.refused, r.plan.Notices)
	}
	if len(want.Programs) > 1 { // a single one says nothing that is missed
		compareFields(t, "the programs", want.programs(nil), got.programs(r.plan.Output.Streams), o, r, used)
	}
	if r.told(notice.MetadataReduced) && !r.reduced {
		t.Errorf("a notice tells of a loss that nothing shows: %v", r.notices)
	}
}

// ofChroma takes out of what a stream says what means nothing in its pixel format, or is only how decoders call it.
func ofChroma(format any, fields map[string]string) {
	if !strings.Contains(fmt.Sprint(format), "420") { // codecs say it of 4:2:0 alone
		delete(fields, "upscaled chroma_location")
	}
	if strings.HasPrefix(fmt.Sprint(format), "gray") { // its decoder calls gray H.264 4:2:0, and no matrix makes gray
		delete(fields, "upscaled color_space")
		delete(fields, "upscaled pix_fmt")
		delete(fields, "upscaled color_range") // QuickTime cannot say it; of gray players know it
	}
}

// checkCarried holds whether a stream is there against the table.
func checkCarried(t *testing.T, name, what string, kept bool, o output, r *result, i int, used *seen) {
	t.Helper()
	for _, s := range streams {
		if !regexp.MustCompile("^(?:" + s.match + ")$").MatchString(what) {
			continue
		}
		used.mark(s.name, o)
		told := slices.ContainsFunc(r.notices, func(n notice.Notice) bool { return n.Code == notice.StreamDropped && n.Stream == i })
		for _, n := range r.notices {
			told = told || n.Code == notice.Fallback && n.Stream == i && has(s.text, o)
		}
		switch {
		case kept && has(s.text, o):
			if !told {
				t.Errorf("%s: no notice says that its text is kept in another codec", name)
			}
		case kept != has(s.in, o):
			t.Errorf("%s: kept is %v, the table says otherwise", name, kept)
		case told != (!kept && !has(s.silent, o)):
			t.Errorf("%s: kept is %v, a notice that it is left out is %v", name, kept, told)
		}
		return
	}
	t.Errorf("%s is in no line of the table of streams", name)
}

func comparePackets(t *testing.T, name, kind string, want, got probed, i, peer int, move float64, o output, converted bool) {
	t.Helper()
	a, b := want.packets(i), got.packets(peer)
	if len(a) != len(b) {
		t.Errorf("%s: %d packets, were %d", name, len(b), len(a))
		return
	}
	// Transport streams have headers in front of AAC and H.264 packets that other containers do not.
	format, _ := want.Format["format_name"].(string)
	reframed := slices.Contains([]any{"aac", "h264"}, want.Streams[i]["codec_name"]) && (format == "mpegts") != (o.name == mpegts.name)
	limit := o.tick/2 + 1e-6
	if kind != "upscaled" && (o.name == mp4.name || o.name == mov.name) {
		limit = gapTick
		if strings.Contains(format, "matroska") {
			limit += mkv.tick / 2 // MP4 counts the samples of PCM, which tells their times more exactly than the input did
		}
	}
	if kind != "upscaled" && (format == "mpegts" || o.name == mpegts.name) {
		limit = 0.001 // sound packets without a time of their own
	} else if kind != "upscaled" && (o.name == mkv.name || o.name == webm.name) {
		limit = o.tick // a codec's delay is told in nanoseconds, and subtracted before it is rounded
	}
	for k := range a {
		if kind != "cover" && kind != "attachment" && math.Abs(a[k].time+move-b[k].time) > limit {
			t.Errorf("%s: packet %d is at %f, was at %f", name, k, b[k].time, a[k].time)
			return
		}
		if kind != "upscaled" && !reframed && !converted && a[k].hash != b[k].hash {
			t.Errorf("%s: packet %d of %s bytes differs, had %s", name, k, b[k].size, a[k].size)
			return
		}
	}
}

// compareFields holds what is said of a stream against the tables.
func compareFields(t *testing.T, name string, want, got map[string]string, o output, r *result, used *seen) {
	t.Helper()
	for _, field := range slices.Sorted(maps.Keys(want)) {
		if derived.MatchString(field) {
			continue
		}
		a, b := normal(field, want[field]), normal(field, got[field])
		p := propertyOf(field)
		if p == nil {
			if a != b {
				t.Errorf("%s: %s is %q, was %q", name, field, b, a)
			}
			continue
		}
		f, listed := p.fate(o)
		switch {
		case a == b && !listed:
			if a != "" && a != "0" && a != "unknown" {
				used.mark(p.name, o)
			}
		case a == b:
		case r.told(notice.PixelFormatConverted) && strings.HasPrefix(field, "upscaled ") && strings.Contains(p.name, "Pixel format"):
		case !listed:
			t.Errorf("%s: %s is %q, was %q", name, field, b, a)
		case f.same != nil && !f.same(a, b):
			t.Errorf("%s: %s is %q, was %q, which is not what the table says (%s)", name, field, b, a, f.text)
		case f.told != 0 && !r.told(f.told):
			t.Errorf("%s: %s is %q, was %q, and no notice tells", name, field, b, a)
		default:
			used.mark(p.name, o)
			r.reduced = r.reduced || f.told == notice.MetadataReduced
		}
	}
}

func propertyOf(field string) *property {
	for i := range properties {
		if regexp.MustCompile("^(?:" + properties[i].match + ")$").MatchString(field) {
			return &properties[i]
		}
	}
	return nil
}

// normal returns a value as it is compared: what is not said is the same as what is said to be unknown.
func normal(field, value string) string {
	switch {
	case strings.HasSuffix(field, "tags.language"):
		return strings.NewReplacer("und", "", "fra", "fre", "deu", "ger").Replace(value)
	case strings.HasSuffix(field, "pix_fmt"): // the range is said beside it
		return strings.Replace(value, "yuvj", "yuv", 1)
	case strings.HasSuffix(field, "aspect_ratio") && (value == "1:1" || value == "0:1"):
		return ""
	case value == "unknown", value == "unspecified":
		return ""
	case strings.HasSuffix(field, "color_range") && value == "tv": // what codecs mean when they say nothing
		return ""
	case strings.HasSuffix(field, "displaymatrix"): // its third row moves the picture, by as much more as the picture is larger
		rows := strings.Split(strings.TrimSpace(value), "\n")
		return strings.Join(rows[:min(len(rows), 2)], "\n")
	}
	return value
}
