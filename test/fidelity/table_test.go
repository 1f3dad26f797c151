package fidelity

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"upscaler/encode"
	"upscaler/internal/notice"
)

// The tables in this file are the single statement of what an output keeps. TestMatrix holds real jobs against them: what they do not
// list as lost or changed must come out as it went in, and what they list must have been seen. docs/fidelity.md is made of them.

// output is a container that can be asked for.
type output struct {
	name      string // its column
	container encode.Container
	extension string
	tick      float64 // seconds: times are kept to within half of it
}

var (
	mp4    = output{"MP4", encode.ContainerMP4, ".mp4", 1e-6}
	mov    = output{"QuickTime", encode.ContainerMOV, ".mov", 1e-6}
	mkv    = output{"Matroska", encode.ContainerMatroska, ".mkv", 1e-3}
	webm   = output{"WebM", encode.ContainerWebM, ".webm", 1e-3}
	mpegts = output{"MPEG-TS", encode.ContainerMPEGTS, ".ts", 1.0 / 90_000}

	outputs = []output{mp4, mov, mkv, webm, mpegts}
)

// gapTick is the unit of the silence before a stream that starts late in MP4 and QuickTime, in seconds: the video's time scale, which
// makes it exact for the picture.
const gapTick = 1.0 / 10_000

// stream is a kind of stream that passes through, and the outputs that take it.
type stream struct {
	name   string
	match  string // regexp for "kind codec" of ffprobe; cover art has the kind "cover"
	in     []output
	text   []output // outputs that take its text in another codec, with a notice
	silent []output // outputs where its absence needs no notice: what it says is written anew from metadata
}

var streams = []stream{
	{"Sound: AAC, AC-3, E-AC-3, MP3", `audio (aac|ac3|eac3|mp3)`, []output{mp4, mov, mkv, mpegts}, nil, nil},
	{"Sound: MP2", `audio mp2`, []output{mp4, mov, mkv, mpegts}, nil, nil},
	{"Sound: Opus", `audio opus`, []output{mp4, mkv, webm, mpegts}, nil, nil},
	{"Sound: Vorbis", `audio vorbis`, []output{mp4, mkv, webm}, nil, nil},
	{"Sound: FLAC", `audio flac`, []output{mp4, mkv}, nil, nil},
	{"Sound: PCM", `audio pcm_.*`, []output{mp4, mov, mkv}, nil, nil},
	{"Subtitles: SubRip, ASS", `subtitle (subrip|ass)`, []output{mkv}, []output{mp4, mov, webm}, nil},
	{"Subtitles: WebVTT", `subtitle webvtt`, []output{mkv, webm}, []output{mp4, mov}, nil},
	{"Subtitles: MP4's timed text", `subtitle mov_text`, []output{mp4, mov}, []output{mkv, webm}, nil},
	{"Subtitles: DVD (bitmaps)", `subtitle dvd_subtitle`, []output{mp4, mkv}, nil, nil},
	{"Subtitles: DVB (bitmaps)", `subtitle dvb_subtitle`, []output{mkv, mpegts}, nil, nil},
	{"Subtitles: Blu-ray (bitmaps)", `subtitle hdmv_pgs_subtitle`, []output{mkv}, nil, nil},
	{"Attached files (fonts)", `attachment .*`, []output{mkv}, nil, nil},
	{"Cover art", `cover .*`, []output{mp4, mkv}, nil, nil},
	{"A second video stream, untouched", `video h264`, []output{mp4, mov, mkv, mpegts}, nil, nil},
	{"Data: KLV", `data klv .*`, []output{mpegts}, nil, nil},
	{"Data: GoPro's telemetry", `data bin_data gpmd`, []output{mp4}, nil, nil},
	{"Time code track (QuickTime)", `data (<nil>|unknown|none) .*`, nil, nil, []output{mp4, mov, mkv, webm}},
	{"Chapter track (QuickTime)", `data bin_data text`, nil, nil, []output{mp4, mov, mkv, webm}},
}

// fate is what becomes of a property where it is not kept as it is.
type fate struct {
	text string // for the page
	told notice.Code
	// same tells whether an output's value is what the text says; nil accepts anything.
	same func(in, out string) bool
}

// property is something a file says beside the streams' contents.
type property struct {
	name  string
	match string // regexp of "kind field"; the kind is one of format, chapter, upscaled, audio, subtitle, attachment, cover, video, data
	all   *fate  // of every output
	in    map[string]fate
}

// notTested is what no job shows yet: the page says so instead of promising. A line that a job does show must leave this list.
var notTested = map[string]bool{}

func unset(_, out string) bool { return out == "0" }

func lost(_, out string) bool { return out == "" }

func first(in, out string) bool { return in == "0" && out == "1" }

// properties: the first that matches a field decides. A field that none matches must be the same in the output.
var properties = []property{
	{name: "Title, artist and other usual metadata of the file", match: `format tags\.(title|artist|comment|date|album|genre)`,
		in: map[string]fate{mpegts.name: {text: "no", told: notice.MetadataReduced}}},
	{name: "Other metadata of the file", match: `format tags\..*`, in: map[string]fate{
		mp4.name:    {text: "no; but phones' are kept", told: notice.MetadataReduced, same: lost},
		mov.name:    {text: "no; but phones' are kept", told: notice.MetadataReduced, same: lost},
		mpegts.name: {text: "no", told: notice.MetadataReduced, same: lost},
	}},
	{name: "Programs, where there are several", match: `program .*`, in: map[string]fate{
		mp4.name: {text: "no", told: notice.MetadataReduced, same: lost}, mov.name: {text: "no", told: notice.MetadataReduced, same: lost},
		mkv.name: {text: "no", told: notice.MetadataReduced, same: lost}, webm.name: {text: "no", told: notice.MetadataReduced, same: lost},
	}},
	{name: "Chapters: times", match: `chapter (start|end)`, in: map[string]fate{mpegts.name: {text: "no", told: notice.MetadataReduced}}},
	{name: "Chapters: titles", match: `chapter title`, in: map[string]fate{mpegts.name: {text: "no", told: notice.MetadataReduced}}},

	{name: "Language of the video", match: `upscaled tags\.language`, in: map[string]fate{mpegts.name: {text: "no", told: notice.MetadataReduced, same: lost}}},
	{name: "Languages of other streams", match: `\w+ tags\.language`},
	{name: "Streams' titles", match: `\w+ tags\.title`, in: map[string]fate{mpegts.name: {text: "no", told: notice.MetadataReduced, same: lost}}},
	{name: "Streams' other metadata", match: `\w+ tags\..*`, in: map[string]fate{
		mp4.name: {text: "no", told: notice.MetadataReduced, same: lost}, mov.name: {text: "no", told: notice.MetadataReduced, same: lost},
		mpegts.name: {text: "no", told: notice.MetadataReduced, same: lost},
	}},
	{name: "The default track of its kind", match: `\w+ disposition\.default`, in: map[string]fate{
		mp4.name: {text: "yes; where none is, the first becomes it", same: first}, mov.name: {text: "yes; where none is, the first becomes it", same: first},
		mpegts.name: {text: "no", same: func(_, o string) bool { return o == "0" }},
	}},
	{name: "Hearing and visually impaired", match: `\w+ disposition\.((hearing|visual)_impaired|captions)`, in: map[string]fate{
		mp4.name: {text: "yes; subtitles for the hearing impaired are called captions, too", same: func(i, o string) bool { return i == "0" && o == "1" }},
		mov.name: {text: "no", told: notice.MetadataReduced, same: unset}, webm.name: {text: "no", told: notice.MetadataReduced, same: unset},
	}},
	{name: "Commentary", match: `\w+ disposition\.comment`, in: map[string]fate{
		mov.name: {text: "no", told: notice.MetadataReduced, same: unset}, webm.name: {text: "no", told: notice.MetadataReduced, same: unset},
		mpegts.name: {text: "no", told: notice.MetadataReduced, same: unset},
	}},
	{name: "Other dispositions: forced, original, dub and others", match: `\w+ disposition\..*`, in: map[string]fate{
		mp4.name: {text: "yes, but for original", told: notice.MetadataReduced, same: unset}, mov.name: {text: "no", told: notice.MetadataReduced, same: unset},
		webm.name: {text: "no, but for forced", told: notice.MetadataReduced, same: unset}, mpegts.name: {text: "no", told: notice.MetadataReduced, same: unset},
	}},

	{name: "Sound: codec", match: `audio codec_name`, in: map[string]fate{
		mp4.name: {text: "yes; MP2 is called MP3, as MP4 has one name for both", same: func(i, o string) bool { return i == "mp2" && o == "mp3" }}}},
	{name: "Sound: channel layout", match: `audio channel_layout`, in: map[string]fate{
		mp4.name: {text: "yes; FFmpeg before 6 does not see PCM's", same: lost},
		mkv.name: {text: "as the codec says; PCM's is the usual one for its number of channels", same: lost}}},
	{name: "Sound: sample rate and channels", match: `audio (sample_rate|channels)`},

	{name: "Sample aspect ratio", match: `upscaled (sample|display)_aspect_ratio`},
	{name: "Rotation and mirroring", match: `upscaled side_data\.Display Matrix\..*`, in: map[string]fate{
		mpegts.name: {text: "no", told: notice.MetadataReduced, same: lost},
	}},
	{name: "Pixel format: depth and chroma", match: `upscaled (pix_fmt|bits_per_raw_sample)`},
	{name: "Colour: range, matrix, primaries, transfer", match: `upscaled color_.*`},
	{name: "Chroma location", match: `upscaled chroma_location`},
	{name: "HDR10: mastering display, content light level", match: `upscaled side_data\.(Mastering display|Content light).*`},
	{name: "Dolby Vision", match: `upscaled side_data\.DOVI.*`, all: &fate{text: "the base layer; refused where it is for no other player (profile 5)",
		told: notice.MetadataReduced, same: lost}},
	{name: "Average frame rate", match: `upscaled avg_frame_rate`},
}

// derived are fields that follow from the container's or the codec's way of writing things down, not from what they say; they are not
// compared.
var derived = regexp.MustCompile(`^(format [^.]*|\w+ (index|bits_per_raw_sample|id|profile|level|codec_long_name|codec_tag|codec_tag_string|time_base|start_pts|start_time|` +
	`duration_ts|duration|bit_rate|max_bit_rate|nb_frames|nb_read_packets|extradata_size|extradata_hash|r_frame_rate|has_b_frames|refs|` +
	`is_avc|sample_fmt|nal_length_size|film_grain|closed_captions|ts_id|ts_packetsize|initial_padding)|` +
	// The coded size is the encoder's; the size itself is checked to be the input's times the scale.
	`upscaled (codec_name|width|height|coded_width|coded_height|field_order|divx_packed|quarter_sample)|` +
	// Bookkeeping of containers and muxers.
	`(?i:\w+ tags\.(duration|encoder|bps.*|number_of_.*|_statistics_.*|major_brand|minor_version|compatible_brands|handler_name|vendor_id|creation_time|timecode|software))|` +
	`\w+ side_data\.CPB properties\..*)$`)

const preamble = `# What is kept

For each output container: which streams pass through untouched, and what else of the input the output says as the input did.
**yes** means that every packet, or every value, is the same. What the input has and the output would not is named in a notice before
work starts, with a container that could hold it, and ` + "`--strict`" + ` makes it an error. With ` + "`--container auto`" + ` the output is MP4 when that holds every stream,
else Matroska.

This page is written by the test that holds real jobs against it (test/fidelity; ` + "`make generate`" + ` after changing its tables).
`

const remarks = `
## The picture

- **Colours**: flat areas come out within one code value at 8 and 10 bits, four at 12, in every pixel format and range, up to the edge of
  the picture, through the network.
- **Cropping** (H.264 and HEVC headers, Matroska's PixelCrop, MP4's clean aperture): what is hidden is cut off before upscaling; the output has none.
- **Odd sizes** grow by one repeated row or column where the codec has even sizes only, with a notice.
- **A size that changes within the stream**: all pictures are scaled to the first size before upscaling, with a notice. A live stream goes on
  in its first size, too.
- **Interlaced** pictures are deinterlaced, with a notice; ` + "`--deinterlace`" + ` and ` + "`--field-rate`" + ` say how.
- **HDR10+**: each picture's metadata is kept in HEVC, and in VP9 in Matroska and WebM; else it is left out, with a notice.
- **RGB** becomes YUV 4:4:4 of BT.709 in the full range, with a notice; **transparency** stays where the codec has it (VP9, ProRes 4444, FFV1).
- **Missing and falling timestamps** are repaired in one place, with one notice; no picture is dropped or doubled for it.
`

// textOf is what text subtitles of other kinds become.
var textOf = map[string]string{mp4.name: "timed text", mov.name: "timed text", mkv.name: "SubRip", webm.name: "WebVTT"}

// page returns docs/fidelity.md.
func page() string {
	var b strings.Builder
	b.WriteString(preamble)
	head := func(title string) {
		fmt.Fprintf(&b, "\n| %s |", title)
		for _, o := range outputs {
			fmt.Fprintf(&b, " %s |", o.name)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(outputs)) + "\n")
	}
	b.WriteString("\n## Streams\n")
	head("")
	row := func(name string, cell func(output) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, o := range outputs {
			text := cell(o)
			if notTested[name+" in "+o.name] {
				text = "not tested"
			}
			fmt.Fprintf(&b, " %s |", text)
		}
		b.WriteString("\n")
	}
	for _, s := range streams {
		row(s.name, func(o output) string {
			switch {
			case has(s.in, o):
				return "yes"
			case has(s.text, o):
				return "text and plain styles, as " + textOf[o.name]
			case has(s.silent, o):
				return "written anew"
			}
			return "no"
		})
	}
	b.WriteString("\n## Times\n")
	head("")
	row("Number of pictures", func(output) string { return "yes" })
	row("Time of each picture and packet", func(o output) string {
		switch o.name {
		case mkv.name, webm.name:
			return "to the millisecond"
		case mpegts.name:
			return "to 1/90000 s; all may move by the same amount"
		}
		return "yes"
	})
	row("Streams that start late", func(o output) string {
		if o.name == mp4.name || o.name == mov.name {
			return "yes; sound to 0.1 ms"
		}
		return "yes"
	})
	row("A clock that begins before zero, as MPEG-TS has whose 33 bits overflow", func(o output) string {
		if o.name == mpegts.name {
			return "all moves to zero"
		}
		return "all moves to zero, with a notice"
	})
	row("What an edit list hides", func(o output) string {
		if o.name == mp4.name || o.name == mov.name {
			return "pictures left out, sound still hidden"
		}
		return "left out, but for 0.1 s of sound before the first"
	})
	b.WriteString("\n## What the file says\n")
	head("")
	for _, p := range properties {
		row(p.name, func(o output) string {
			if f, ok := p.fate(o); ok {
				return f.text
			}
			return "yes"
		})
	}
	b.WriteString(remarks)
	return b.String()
}

func (p property) fate(o output) (fate, bool) {
	if f, ok := p.in[o.name]; ok {
		return f, true
	}
	if p.all != nil {
		return *p.all, true
	}
	return fate{}, false
}

func has(all []output, o output) bool {
	return slices.ContainsFunc(all, func(x output) bool { return x.name == o.name })
}
