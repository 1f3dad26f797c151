package encode

import (
	"fmt"
	"slices"
	"strings"

	"upscaler/internal/av"
	"upscaler/internal/frame"
	"upscaler/internal/media"
	"upscaler/internal/notice"

	"github.com/asticode/go-astiav"
)

// maxSide is the largest width and height of the output in pixels: what the encoders' libraries and the formats they write agree
// on (H.264 and SVT-AV1 end there).
const maxSide = 16384

// Layout is what a job's output will be. It holds no C memory.
type Layout struct {
	Container Container
	Codec     Codec
	Encoder   string // FFmpeg's name: libx264
	Muxer     string // FFmpeg's name: mp4
	// PixelFormat is FFmpeg's name of the encoder's pixel format.
	PixelFormat string
	// Width and Height are the encoded size in pixels: scale times the input's, rounded up to even where the codec asks for it.
	Width, Height int
	CRF           int // -1 when there is none
	Preset, Tune  string
	Bitrate       int64 // bits a second, 0 with constant quality
	VideosBefore  int   // other video streams that come before the upscaled one, cover art aside

	Input   media.Info // the input's, with Action and Peer of each stream
	Output  media.Info
	Notices []notice.Notice

	encoder   *encoder
	container *container
	settings  settings
	scale     int
	seekable  bool
	live      *Live
	working   frame.Format // of the source frames
	composed  frame.Format // of the complete upscaled picture: working, or close to it without conversion
	target    frame.Format // the encoder's; of a still encoder, before the picture becomes packed
	pixels    astiav.PixelFormat
	compare   *comparison    // nil for a picture alone
	turn      av.Orientation // of a still picture; all else says in its headers how it is to be turned
	convert   map[int]bool   // input streams that become another text codec
	streams   []int          // output index of each input stream, -1 for none
	programs  bool           // the input's are repeated
	loss      string         // the first notice of something that is not kept
}

// Plan decides what becomes of an input: codec, container, pixel format, quality, and every stream's fate. It fails with an
// *OptionError for a wrong option and with an *UnsupportedError when the output could not hold what the options ask for. It has
// no side effects; m is only read, and the Layout does not need it any more.
func Plan(m *av.Media, o Options) (*Layout, error) {
	if o.Scale < 1 || o.Scale > 8 {
		return nil, &OptionError{Field: "scale", Text: fmt.Sprintf("a factor of %d is not supported.", o.Scale)}
	}
	l := &Layout{scale: o.Scale, seekable: o.Seekable && o.Live == nil, live: o.Live, working: m.Working}
	l.Width, l.Height = m.Width*o.Scale, m.Height*o.Scale
	if l.Width < 1 || l.Height < 1 || l.Width > maxSide || l.Height > maxSide {
		return nil, &UnsupportedError{Text: fmt.Sprintf("The output would be %dx%d pixels; the largest that can be encoded is %dx%d.",
			l.Width, l.Height, maxSide, maxSide)}
	}
	if err := refuseDolbyVision(m); err != nil {
		return nil, err
	}
	if err := l.chooseFormats(m, o); err != nil {
		return nil, err
	}
	if err := l.choosePixels(m); err != nil {
		return nil, err
	}
	if o.Compare {
		if err := l.double(m.Orientation()); err != nil {
			return nil, err
		}
	}
	var err error
	if l.settings, err = l.encoder.settle(o); err != nil {
		return nil, err
	}
	l.CRF, l.Preset, l.Tune, l.Bitrate = l.settings.crf, l.settings.preset, l.settings.tune, l.settings.bitrate
	l.assignStreams(m, o)
	l.tellReductions(m)
	if o.Strict && l.loss != "" {
		return nil, &UnsupportedError{Text: l.loss}
	}
	l.describeOutput(m)
	return l, nil
}

// EncoderMemory returns about how much memory the encoder will take, in bytes. It lies outside of Go's heap and of the frame
// pool, and grows with the size of the picture, not with the length of the video.
func (l *Layout) EncoderMemory() int64 {
	pixels := int64(l.Width) * int64(l.Height)
	plain := frame.Format{Depth: 8, ChromaW: 1, ChromaH: 1}
	return int64(l.encoder.memory) * pixels * l.target.Bytes(l.Width, l.Height) / plain.Bytes(l.Width, l.Height)
}

// CodecName returns FFmpeg's name of the video's codec: h264.
func (l *Layout) CodecName() string { return l.encoder.id }

func (l *Layout) tell(code notice.Code, stream int, format string, args ...any) {
	l.Notices = append(l.Notices, notice.Notice{Code: code, Stream: stream, Text: fmt.Sprintf(format, args...)})
}

// lose tells of something that the output does not keep.
func (l *Layout) lose(code notice.Code, stream int, format string, args ...any) {
	l.tell(code, stream, format, args...)
	if l.loss == "" {
		l.loss = l.Notices[len(l.Notices)-1].Text
	}
}

// chooseFormats sets the container, the codec and their tables.
func (l *Layout) chooseFormats(m *av.Media, o Options) error {
	if o.Codec != CodecAuto && encoderOf(o.Codec) == nil {
		return optionError("codec", "%d is not a codec of this service.", o.Codec)
	}
	if o.Live != nil && o.Container == ContainerAuto {
		o.Container = ContainerMPEGTS // can be joined anywhere
	}
	if o.Container != ContainerAuto {
		if l.container = containerOf(o.Container); l.container == nil {
			return optionError("container", "%d is not a container of this service.", o.Container)
		}
	}
	if o.Codec != CodecAuto {
		l.encoder = encoderOf(o.Codec)
		if l.container != nil && !slices.Contains(l.container.codecs, o.Codec) {
			return optionError("codec", "%s cannot hold %s; %s can.", l.container.label, l.encoder.label, containerFor(o.Codec).label)
		}
		if _, err := l.encoder.find(); err != nil {
			return err
		}
		if min(l.Width, l.Height) < l.encoder.minSide {
			return optionError("codec", "%s cannot encode pictures of %dx%d, the smallest side it takes is %d; choose H.264.",
				l.encoder.label, l.Width, l.Height, l.encoder.minSide)
		}
	} else if l.container != nil && slices.Contains(l.container.codecs, CodecPNG) {
		l.encoder = encoderOf(CodecPNG)
	} else if err := l.chooseCodec(m); err != nil {
		return err
	}
	if l.container == nil && l.encoder.still {
		l.container = containerOf(ContainerPNG)
	}
	if l.container == nil {
		l.container = l.chooseContainer(m)
	}
	l.Codec, l.Encoder = l.encoder.codec, l.encoder.name
	l.Container, l.Muxer = l.container.container, l.container.name
	return nil
}

// chooseCodec follows the input's codec where the picture can be encoded as it is, else takes the most widely played codec that
// can: H.264 for 8 bits, HEVC for more, VP9 or ProRes for transparency.
func (l *Layout) chooseCodec(m *av.Media) error {
	source := av.CodecName(m.Video().Params.CodecID())
	order := []Codec{CodecH264, CodecHEVC}
	if l.working.Depth > 8 {
		order = []Codec{CodecHEVC, CodecH264}
	}
	switch {
	case l.working.Alpha && l.working.ChromaW > 0:
		order = append([]Codec{CodecVP9, CodecProRes}, order...)
	case l.working.Alpha:
		order = append([]Codec{CodecProRes, CodecVP9}, order...)
	}
	order = append(order, CodecVP9, CodecAV1, CodecProRes)
	for _, e := range encoders {
		if e.id == source && !e.still {
			order = append([]Codec{e.codec}, order...)
		}
	}
	// First what keeps the pixel format, then what keeps transparency, then what there is.
	for _, good := range []func(best frame.Format, exact bool) bool{
		func(_ frame.Format, exact bool) bool { return exact },
		func(best frame.Format, _ bool) bool {
			return best.Alpha == l.working.Alpha && best.Depth >= min(l.working.Depth, 12)
		},
		func(frame.Format, bool) bool { return true },
	} {
		for _, c := range order {
			e := encoderOf(c)
			if l.container != nil && !slices.Contains(l.container.codecs, c) || min(l.Width, l.Height) < e.minSide {
				continue
			}
			codec := astiav.FindEncoderByName(e.name)
			if codec == nil {
				continue
			}
			best, exact, err := av.BestFormat(codec, l.storable(e, l.working))
			if err != nil || !good(best, exact && l.storable(e, l.working) == l.working) {
				continue
			}
			l.encoder = e
			if e.id != source && slices.ContainsFunc(encoders, func(e *encoder) bool { return e.id == source && !e.still }) {
				l.tell(notice.Fallback, m.VideoIndex, "The video becomes %s: as %s it could not be kept in this pixel format or container.",
					e.label, source)
			}
			return nil
		}
	}
	return &UnsupportedError{Text: fmt.Sprintf("No encoder of this server takes a picture of %dx%d like the input's.", l.Width, l.Height)}
}

// storable returns the format without alpha where the container chosen by the user cannot store this codec's alpha: VP9 has it
// in a second stream beside the picture, which only Matroska and WebM know.
func (l *Layout) storable(e *encoder, f frame.Format) frame.Format {
	if e.codec == CodecVP9 && l.container != nil && l.container.container != ContainerMatroska && l.container.container != ContainerWebM {
		f.Alpha = false
	}
	return f
}

// chooseContainer returns MP4 when it holds everything, else Matroska; QuickTime for ProRes, which has its home there.
func (l *Layout) chooseContainer(m *av.Media) *container {
	preferred := ContainerMP4
	if l.encoder.codec == CodecProRes {
		preferred = ContainerMOV
	}
	c := containerOf(preferred)
	fits := slices.Contains(c.codecs, l.encoder.codec)
	if l.working.Alpha && l.encoder.codec == CodecVP9 {
		fits = false // see storable
	}
	for i, s := range m.Streams {
		fits = fits && (i == m.VideoIndex || c.holds(s, l.seekable) || c.silent(m, s))
	}
	if !fits {
		c = containerOf(ContainerMatroska)
	}
	return c
}

func containerFor(c Codec) *container {
	for _, f := range containers {
		if slices.Contains(f.codecs, c) {
			return f
		}
	}
	return nil
}

// choosePixels sets the pixel format and the encoded size.
func (l *Layout) choosePixels(m *av.Media) error {
	codec, err := l.encoder.find()
	if err != nil {
		return err
	}
	if l.encoder.still {
		l.chooseStill(m)
		return nil
	}
	want := l.storable(l.encoder, l.working)
	best, exact, err := av.BestFormat(codec, want)
	if err != nil {
		return &UnsupportedError{Text: fmt.Sprintf("%s cannot encode the input's pixel format; choose another codec.", l.encoder.label)}
	}
	l.target, l.composed = best, want
	if want.Alpha && !best.Alpha {
		l.composed.Alpha = false
	}
	if want.Gray && !best.Gray { // gray with neutral chroma needs no conversion
		l.composed = frame.Format{Depth: want.Depth, ChromaW: 1, ChromaH: 1, Alpha: l.composed.Alpha}
		if l.target.Depth == want.Depth {
			l.composed = l.target
		}
	}
	name, from := formatName(l.target), formatName(l.working)
	l.PixelFormat = name
	l.pixels, _ = av.PixelFormatOf(l.target)
	switch {
	case l.working.Alpha && !l.target.Alpha:
		l.lose(notice.PixelFormatConverted, m.VideoIndex, "The picture's transparency is lost: %s in %s cannot hold it (%s becomes %s).",
			l.encoder.label, l.container.label, from, name)
	case !exact && (l.target.Depth < l.working.Depth || !l.working.Gray && (l.target.ChromaW > l.working.ChromaW || l.target.ChromaH > l.working.ChromaH)):
		l.lose(notice.PixelFormatConverted, m.VideoIndex, "The picture is reduced to %s because %s cannot hold %s.", name, l.encoder.label, from)
	case !exact:
		l.tell(notice.PixelFormatConverted, m.VideoIndex, "The picture is stored as %s because %s cannot hold %s.", name, l.encoder.label, from)
	}
	if l.encoder.even {
		w, h := l.Width, l.Height
		if l.target.ChromaW > 0 {
			l.Width += l.Width & 1
		}
		if l.target.ChromaH > 0 {
			l.Height += l.Height & 1
		}
		if l.Width != w || l.Height != h {
			l.tell(notice.PixelFormatConverted, m.VideoIndex, "The picture grows from %dx%d to %dx%d by repeating its last column or row: %s stores %s in even sizes only.",
				w, h, l.Width, l.Height, l.encoder.label, name)
		}
	}
	return nil
}

// chooseStill sets the pixel format of a still picture: as deep as the input's own, which decode may have deepened so that RGB
// survives being YUV in between.
func (l *Layout) chooseStill(m *av.Media) {
	l.target = l.working
	if l.working.Gray && m.Color.Range == av.RangeLimited { // as colour, which knows ranges; a gray PNG has only the full one
		l.target = frame.Format{Depth: l.working.Depth, ChromaW: 1, ChromaH: 1}
	}
	l.composed = l.target
	l.pixels = av.StillFormat(l.target, av.Depth(m.Video().Params.PixelFormat()) > 8)
	l.PixelFormat = av.PixelFormatName(l.pixels)
	l.turn = m.Orientation()
}

func formatName(f frame.Format) string {
	p, _ := av.PixelFormatOf(f)
	return av.PixelFormatName(p)
}

// assignStreams gives every input stream its place in the output, or drops it with a notice.
func (l *Layout) assignStreams(m *av.Media, o Options) {
	l.Input = m.Info
	l.Input.Streams = slices.Clone(m.Info.Streams)
	n := 0
	for i, s := range m.Streams {
		in := &l.Input.Streams[i]
		in.Action, in.Peer = media.ActionCopy, n
		switch {
		case i == m.VideoIndex:
			in.Action = media.ActionUpscale
		case l.container.holds(s, l.seekable):
		case !o.Strict && l.container.converts(s):
			in.Action = media.ActionConvert
			if l.convert == nil {
				l.convert = map[int]bool{}
			}
			l.convert[i] = true
			l.tell(notice.Fallback, i, "%s (stream %d) becomes %s, the text that %s holds; its text and plain styles are kept.",
				streamName(in, s), i, av.CodecName(l.container.text), l.container.label)
		default:
			in.Action, in.Peer = media.ActionDrop, -1
		}
		if in.Action != media.ActionDrop {
			if i < m.VideoIndex && s.Kind == media.KindVideo && !s.AttachedPicture {
				l.VideosBefore++
			}
			l.streams = append(l.streams, n)
			n++
			continue
		}
		l.streams = append(l.streams, -1)
		if l.container.silent(m, s) {
			continue
		}
		text := fmt.Sprintf("%s (stream %d) is left out: %s cannot hold it", streamName(in, s), i, l.container.label)
		if other := l.container.alternative(s, l.seekable); other != "" {
			text += ", " + other + " can"
		}
		l.lose(notice.StreamDropped, i, "%s.", text)
	}
}

// streamName names a stream for people: "The German subtitle stream" is beyond it, "Subtitle subrip (ger)" is not.
func streamName(in *media.Stream, s *av.Stream) string {
	kind := map[media.Kind]string{media.KindVideo: "Video", media.KindAudio: "Audio", media.KindSubtitle: "Subtitle",
		media.KindAttachment: "Attachment", media.KindData: "Data"}[in.Kind]
	if kind == "" {
		kind = "Stream"
	}
	if s.AttachedPicture {
		kind = "Cover art"
	}
	name := kind + " " + in.Codec
	if in.Language != "" {
		name += " (" + in.Language + ")"
	}
	return strings.TrimSpace(name)
}

// tellReductions names the metadata that the output cannot carry.
func (l *Layout) tellReductions(m *av.Media) {
	if !l.container.chapters && len(m.Chapters) > 0 {
		l.lose(notice.MetadataReduced, notice.NoStream, "The %d chapters are left out: %s cannot hold them, Matroska and MP4 can.",
			len(m.Chapters), l.container.label)
	}
	if !l.container.says.rotated && !l.encoder.still && av.HasDisplayMatrix(m.Video().Params) {
		l.lose(notice.MetadataReduced, m.VideoIndex, "How the picture is to be turned is left out: %s cannot say it, Matroska and MP4 can.", l.container.label)
	}
	l.keepPrograms(m)
	if !l.encoder.still && l.live == nil {
		l.tellUnsaid(m)
	}
	if d, found := av.FindDolbyVision(m.Video().Params, m.FirstSideData); found {
		l.lose(notice.MetadataReduced, m.VideoIndex, "Dolby Vision%s is reduced to its base layer: its metadata describes the small picture.", profileName(d))
	}
	for _, sd := range m.FirstSideData {
		if sd.Type == av.SideDataHDR10Plus && !l.keepsHDR10Plus(sd) {
			l.lose(notice.MetadataReduced, m.VideoIndex, "HDR10+ metadata is left out: the %s encoder cannot carry it in %s, HEVC can; HDR10 metadata is kept.",
				l.encoder.label, l.container.label)
		}
	}
	unranged := l.encoder.codec == CodecProRes || l.encoder.codec == CodecFFV1 && l.container.container == ContainerMOV
	if unranged && m.Color.Range == av.RangeFull && !l.working.Gray {
		l.lose(notice.MetadataReduced, m.VideoIndex, "%s in %s cannot say that the samples use the full range; players will show too much contrast.",
			l.encoder.label, l.container.label)
	}
}

func profileName(d av.DolbyVision) string {
	if d.Profile == 0 {
		return ""
	}
	return fmt.Sprintf(" (profile %d)", d.Profile)
}

// refuseDolbyVision refuses a picture whose colours nothing but Dolby Vision's metadata tells.
func refuseDolbyVision(m *av.Media) error {
	d, found := av.FindDolbyVision(m.Video().Params, m.FirstSideData)
	if !found || !d.Alone {
		return nil
	}
	return &UnsupportedError{Text: fmt.Sprintf("The video is Dolby Vision%s without a base layer for other players; "+
		"upscaled without its metadata it would have false colours. Convert it to HDR10 first.", profileName(d))}
}

// keepsHDR10Plus tells whether each frame's HDR10+ metadata reaches the output: as messages in HEVC, in VP9 as block additions of
// Matroska and WebM. AV1 could hold it, but dav1d 1.0 takes that of pictures that are shown again for the next ones'.
func (l *Layout) keepsHDR10Plus(sd frame.SideData) bool {
	if _, whole := av.HDR10PlusMessage(sd); !whole {
		return false
	}
	switch l.encoder.codec {
	case CodecHEVC:
		return true
	case CodecVP9:
		return l.container.container == ContainerMatroska || l.container.container == ContainerWebM
	}
	return false
}

func (l *Layout) describeOutput(m *av.Media) {
	l.Output = media.Info{Container: l.Muxer, Duration: m.Duration()}
	if l.container.chapters {
		l.Output.Chapters = len(m.Chapters)
	}
	for i, in := range l.Input.Streams {
		if in.Action == media.ActionDrop {
			continue
		}
		out := in
		out.Index, out.Peer = in.Peer, i
		if in.Action == media.ActionConvert {
			out.Codec = av.CodecName(l.container.text)
		}
		if i == m.VideoIndex && in.Video != nil {
			v := *in.Video
			v.Width, v.Height, v.PixelFormat = l.Width, l.Height, l.PixelFormat
			if l.encoder.still {
				v.Width, v.Height = l.turn.Size(l.Width, l.Height)
				v.Rotation = 0
			}
			out.Video, out.Codec = &v, l.encoder.id
		}
		l.Output.Streams = append(l.Output.Streams, out)
	}
}
