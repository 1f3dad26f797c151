package encode

import (
	"slices"

	"upscaler/internal/av"
	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// container is what we know of one of FFmpeg's muxers beyond what it tells itself.
type container struct {
	container Container
	name      string // FFmpeg's short name
	label     string // for people
	// codecs are those of the upscaled video that it takes, the preferred one first.
	codecs []Codec
	// takes decides about a stream that passes through, by FFmpeg's name of its codec; FFmpeg's own table is asked first where
	// there is one.
	takes func(s *av.Stream, codec string) bool
	// attachments, covers: files such as fonts, and cover art, can be kept.
	attachments, covers bool
	// chapters can be kept.
	chapters bool
	// text is the codec that text subtitles of others become; none when it holds no text.
	text astiav.CodecID
	// says is what of the input's metadata it holds.
	says says
}

// says is what a container can say, as far as FFmpeg's muxer writes it.
type says struct {
	all     bool     // any key, of the file and of streams
	file    []string // keys of the file
	streams []string // keys of streams
	video   []string // of those, keys of the video; nil for the same
	roles   astiav.DispositionFlags
	rotated bool // how a picture is to be turned
}

// What QuickTime and MP4 have names for. A phone's own keys make the muxer write all of them, see writeHeader.
var (
	movKeys = []string{"title", "artist", "author", "album", "date", "comment", "genre", "copyright", "make", "model", "location", "keywords",
		"creation_time"}
	mp4Keys = []string{"title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping", "lyrics",
		"description", "synopsis", "show", "episode_id", "network", "keywords", "episode_sort", "season_number", "media_type", "hd_video",
		"gapless_playback", "compilation", "track", "disc", "tmpo", "location", "creation_time"}
	movStreamKeys = []string{"language", "title", "timecode"}
)

func roles(all ...astiav.DispositionFlag) astiav.DispositionFlags {
	return astiav.NewDispositionFlags(all...)
}

// textCodecs are the text subtitles that can be converted.
var textCodecs = []astiav.CodecID{astiav.CodecIDSubrip, astiav.CodecIDText, astiav.CodecIDAss, astiav.CodecIDSsa, astiav.CodecIDMovText, astiav.CodecIDWebvtt}

// converts tells whether a stream that the container does not hold as it is can be kept in another codec.
func (c *container) converts(s *av.Stream) bool {
	return c.text != astiav.CodecIDNone && s.Kind == media.KindSubtitle && slices.Contains(textCodecs, s.Params.CodecID()) &&
		s.TimeBase.Num > 0 && s.TimeBase.Den > 0 && astiav.FindDecoder(s.Params.CodecID()) != nil && astiav.FindEncoder(c.text) != nil
}

// containers are in the order in which a notice names one that could hold what another cannot.
var containers = []*container{
	{
		container: ContainerMatroska, name: "matroska", label: "Matroska",
		codecs:      []Codec{CodecH264, CodecHEVC, CodecAV1, CodecVP9, CodecFFV1, CodecProRes},
		takes:       func(s *av.Stream, _ string) bool { return s.Kind != media.KindData },
		attachments: true, covers: true, chapters: true, text: astiav.CodecIDSubrip,
		says: says{all: true, rotated: true, roles: roles(astiav.DispositionFlagDefault, astiav.DispositionFlagForced, astiav.DispositionFlagComment,
			astiav.DispositionFlagHearingImpaired, astiav.DispositionFlagVisualImpaired, astiav.DispositionFlagOriginal, astiav.DispositionFlagDub,
			astiav.DispositionFlagDescriptions)},
	},
	{
		container: ContainerMP4, name: "mp4", label: "MP4",
		codecs: []Codec{CodecH264, CodecHEVC, CodecAV1, CodecVP9},
		takes: func(s *av.Stream, codec string) bool {
			switch codec {
			case "vp8", "truehd", "ttml":
				return false // FFmpeg's table says yes, its muxer no (ttml: not in fragments)
			case "bin_data":
				return s.Params.CodecTag() == av.CodecTag("gpmd") // camera telemetry; other tags are chapters and hints
			}
			return true
		},
		covers: true, chapters: true, text: astiav.CodecIDMovText,
		says: says{file: mp4Keys, streams: movStreamKeys, rotated: true, roles: roles(astiav.DispositionFlagDefault, astiav.DispositionFlagForced,
			astiav.DispositionFlagComment, astiav.DispositionFlagHearingImpaired, astiav.DispositionFlagVisualImpaired,
			astiav.DispositionFlagDub, astiav.DispositionFlagCaptions, astiav.DispositionFlagDescriptions)},
	},
	{
		container: ContainerMOV, name: "mov", label: "QuickTime",
		codecs: []Codec{CodecProRes, CodecH264, CodecHEVC, CodecFFV1},
		takes: func(s *av.Stream, codec string) bool {
			switch codec {
			case "vp8", "vp9", "av1", "flac", "opus", "truehd", "ttml":
				return false // its muxer wants MP4 for these
			case "bin_data":
				return s.Params.CodecTag() == av.CodecTag("gpmd")
			}
			return true
		},
		chapters: true, text: astiav.CodecIDMovText,
		says: says{file: movKeys, streams: movStreamKeys, rotated: true, roles: roles(astiav.DispositionFlagDefault)},
	},
	{
		container: ContainerWebM, name: "webm", label: "WebM",
		codecs:   []Codec{CodecVP9, CodecAV1},
		takes:    func(s *av.Stream, _ string) bool { return s.Kind != media.KindData },
		chapters: true, text: astiav.CodecIDWebvtt,
		says: says{all: true, rotated: true, roles: roles(astiav.DispositionFlagDefault, astiav.DispositionFlagForced)},
	},
	{
		container: ContainerMPEGTS, name: "mpegts", label: "MPEG-TS",
		codecs: []Codec{CodecH264, CodecHEVC},
		takes: func(_ *av.Stream, codec string) bool {
			return slices.Contains([]string{"mpeg1video", "mpeg2video", "mpeg4", "h264", "hevc", "vc1", "mp2", "mp3", "aac", "aac_latm",
				"ac3", "eac3", "dts", "truehd", "opus", "dvb_subtitle", "dvb_teletext", "timed_id3", "klv"}, codec)
		},
		says: says{streams: []string{"language"}, video: []string{},
			roles: roles(astiav.DispositionFlagHearingImpaired, astiav.DispositionFlagVisualImpaired, astiav.DispositionFlagCleanEffects)},
	},
	{
		container: ContainerPNG, name: "image2pipe", label: "PNG",
		codecs: []Codec{CodecPNG},
		takes:  func(*av.Stream, string) bool { return false },
	},
	{
		container: ContainerPNGSequence, name: "image2pipe", label: "a sequence of PNG",
		codecs: []Codec{CodecPNG},
		takes:  func(*av.Stream, string) bool { return false },
	},
}

func containerOf(c Container) *container {
	for _, f := range containers {
		if f.container == c {
			return f
		}
	}
	return nil
}

// holds tells whether a stream can pass through to this container, in a file that is seekable or not.
func (c *container) holds(s *av.Stream, seekable bool) bool {
	p := s.Params
	codec := av.CodecName(p.CodecID())
	switch {
	case s.Kind == media.KindAttachment:
		return c.attachments
	case s.AttachedPicture:
		return c.covers && slices.Contains([]string{"mjpeg", "png", "bmp"}, codec)
	case s.Kind == media.KindUnknown || p.CodecID() == astiav.CodecIDNone:
		return false
	case s.Kind == media.KindAudio && (p.SampleRate() <= 0 || p.ChannelLayout().Channels() <= 0):
		return false // announced in the header, but no packet of it was found
	case s.Kind == media.KindVideo && (p.Width() <= 0 || p.Height() <= 0):
		return false
	case s.TimeBase.Num <= 0 || s.TimeBase.Den <= 0:
		return false
	}
	if of := astiav.FindOutputFormat(c.name); of != nil {
		if takes, known := av.MuxerTakes(of, p.CodecID()); known && !takes {
			return false
		}
	}
	return c.takes(s, codec) && accepts(c, s, seekable)
}

// alternative returns the name of a container that could hold a stream which this one cannot, empty for none.
func (c *container) alternative(s *av.Stream, seekable bool) string {
	for _, other := range containers {
		if other != c && other.holds(s, seekable) {
			return other.label
		}
	}
	return ""
}

// silent tells whether a data stream that is not passed through loses nothing: what it says is written anew from metadata.
func (c *container) silent(m *av.Media, s *av.Stream) bool {
	if s.Kind != media.KindData {
		return false
	}
	switch s.Params.CodecTag() {
	case av.CodecTag("text"): // QuickTime's chapter track
		return c.chapters && len(m.Chapters) > 0
	case av.CodecTag("tmcd"): // QuickTime's time code track
		return c.container != ContainerMPEGTS && entry(m.Video().Metadata, "timecode") != ""
	}
	return false
}

func entry(all []av.KeyValue, key string) string {
	for _, kv := range all {
		if kv.Key == key {
			return kv.Value
		}
	}
	return ""
}
