package av

//#include <libavformat/avformat.h>
//#include <libavutil/pixdesc.h>
import "C"

import (
	"errors"
	"math"
	"strings"
	"time"
	"unsafe"

	"upscaler/internal/media"

	"github.com/asticode/go-astiav"
)

// VideoDelay returns by how many pictures the decoding of a stream runs ahead of its presentation; 0 for p nil.
func VideoDelay(p *astiav.CodecParameters) int {
	if p == nil {
		return 0
	}
	return int((*C.AVCodecParameters)(raw(p)).video_delay)
}

// Describe reads everything an opened demuxer knows into a Media, which the caller frees. UseVideo is to be called next.
func Describe(fc *astiav.FormatContext) (*Media, error) {
	m := &Media{VideoIndex: -1}
	c := (*C.AVFormatContext)(raw(fc))
	m.Metadata = Entries(fc.Metadata())
	for _, s := range fc.Streams() {
		st, err := describeStream(s)
		if err != nil {
			m.Free()
			return nil, err
		}
		m.Streams = append(m.Streams, st)
	}
	for _, ch := range unsafe.Slice(c.chapters, c.nb_chapters) {
		m.Chapters = append(m.Chapters, Chapter{
			ID:       int64(ch.id),
			TimeBase: media.Rational{Num: int(ch.time_base.num), Den: int(ch.time_base.den)},
			Start:    int64(ch.start),
			End:      int64(ch.end),
			Metadata: cEntries(ch.metadata),
		})
	}
	for _, p := range unsafe.Slice(c.programs, c.nb_programs) {
		prog := Program{ID: int(p.id), Number: int(p.program_num), PMTPID: int(p.pmt_pid), PCRPID: int(p.pcr_pid),
			Metadata: cEntries(p.metadata)}
		for _, i := range unsafe.Slice(p.stream_index, p.nb_stream_indexes) {
			prog.Streams = append(prog.Streams, int(i))
		}
		m.Programs = append(m.Programs, prog)
	}
	if d := fc.Duration(); d != NoTimestamp && d > 0 && d <= math.MaxInt64/int64(time.Microsecond) {
		m.Info.Duration = time.Duration(d) * time.Microsecond // AV_TIME_BASE is microseconds
	}
	m.Info.Container = fc.InputFormat().Name()
	m.DurationGuessed = c.duration_estimation_method == C.AVFMT_DURATION_FROM_BITRATE
	m.Info.Chapters = len(m.Chapters)
	return m, nil
}

// UseVideo makes stream i the one that is decoded. What only decoded frames tell (size, layout, colour) is taken from its codec
// parameters until the caller knows better.
func (m *Media) UseVideo(i int) {
	m.VideoIndex = i
	v := m.Video()
	m.VideoTimeBase = v.TimeBase
	m.Width, m.Height = v.Params.Width(), v.Params.Height()
	m.Color = Color{
		Range:          int(v.Params.ColorRange()),
		Space:          int(v.Params.ColorSpace()),
		Primaries:      int(v.Params.ColorPrimaries()),
		Transfer:       int(v.Params.ColorTransferCharacteristic()),
		ChromaLocation: int(v.Params.ChromaLocation()),
	}
	m.UpdateInfo()
}

// UpdateInfo fills Info.Streams from the other fields. To be called again after those have changed.
func (m *Media) UpdateInfo() {
	m.Info.Streams = m.Info.Streams[:0]
	for i, s := range m.Streams {
		info := media.Stream{
			Index:    i,
			Kind:     s.Kind,
			Codec:    CodecName(s.Params.CodecID()),
			Language: text(s.Metadata, "language"),
			Title:    text(s.Metadata, "title"),
			Default:  s.Disposition.Has(astiav.DispositionFlagDefault),
			Peer:     -1,
		}
		switch s.Kind {
		case media.KindVideo:
			info.Video = m.videoInfo(i, s)
		case media.KindAudio:
			info.Audio = &media.Audio{SampleRate: s.Params.SampleRate(), Channels: s.Params.ChannelLayout().Channels()}
		}
		m.Info.Streams = append(m.Info.Streams, info)
	}
}

func (m *Media) videoInfo(i int, s *Stream) *media.Video {
	p := (*C.AVCodecParameters)(raw(s.Params))
	c := Color{Range: int(p.color_range), Space: int(p.color_space), Primaries: int(p.color_primaries), Transfer: int(p.color_trc)}
	v := &media.Video{
		Width: int(p.width), Height: int(p.height),
		PixelFormat:       PixelFormatName(astiav.PixelFormat(p.format)),
		FrameRate:         s.AvgFrameRate,
		SampleAspectRatio: s.SampleAspectRatio,
		TimeBase:          s.TimeBase,
		Rotation:          rotation(s.Params),
	}
	if i == m.VideoIndex {
		v.Width, v.Height, c = m.Width, m.Height, m.Color
	}
	v.Range, v.Space, v.Primaries, v.Transfer = c.Names()
	switch {
	case s.Frames > 0:
		v.Frames = uint64(s.Frames)
	case s.AttachedPicture:
		v.Frames = 1
	default:
		seconds := m.Info.Duration.Seconds()
		if s.Duration > 0 {
			seconds = s.TimeBase.Seconds(s.Duration)
		}
		if n := math.Round(seconds * s.AvgFrameRate.Float()); n > 0 && n < math.MaxInt32 {
			v.Frames = uint64(n)
		}
	}
	return v
}

func describeStream(s *astiav.Stream) (*Stream, error) {
	params, err := CopyParameters(s.CodecParameters())
	if err != nil {
		return nil, err
	}
	st := &Stream{
		Index:             s.Index(),
		ID:                s.ID(),
		Params:            params,
		TimeBase:          Rational(s.TimeBase()),
		AvgFrameRate:      Rational(s.AvgFrameRate()),
		RealFrameRate:     Rational(s.RFrameRate()),
		SampleAspectRatio: Rational(s.SampleAspectRatio()),
		Disposition:       s.DispositionFlags(),
		Metadata:          Entries(s.Metadata()),
		StartTime:         s.StartTime(),
		Duration:          s.Duration(),
		Frames:            max(s.NbFrames(), 0),
		AttachedPicture:   s.DispositionFlags().Has(astiav.DispositionFlagAttachedPic),
	}
	if st.SampleAspectRatio.Num == 0 {
		st.SampleAspectRatio = Rational(params.SampleAspectRatio())
	}
	switch params.MediaType() {
	case astiav.MediaTypeVideo:
		st.Kind = media.KindVideo
	case astiav.MediaTypeAudio:
		st.Kind = media.KindAudio
	case astiav.MediaTypeSubtitle:
		st.Kind = media.KindSubtitle
	case astiav.MediaTypeAttachment:
		st.Kind = media.KindAttachment
	case astiav.MediaTypeData:
		st.Kind = media.KindData
	}
	return st, nil
}

// CopyParameters returns an own copy of codec parameters, which the caller frees and counts with TrackClose.
func CopyParameters(p *astiav.CodecParameters) (*astiav.CodecParameters, error) {
	own := astiav.AllocCodecParameters()
	if own == nil {
		return nil, errors.New("no memory for codec parameters")
	}
	if err := p.Copy(own); err != nil {
		own.Free()
		return nil, err
	}
	TrackOpen()
	return own, nil
}

// rotation returns the display matrix's rotation in degrees clockwise, 0..359.
func rotation(p *astiav.CodecParameters) int {
	m, ok := p.SideData().DisplayMatrix().Get()
	if !ok {
		return 0
	}
	deg := m.Rotation()
	if math.IsNaN(deg) {
		return 0
	}
	return ((int(math.Round(deg)) % 360) + 360) % 360
}

// Names returns FFmpeg's names of range, matrix, primaries and transfer, "unknown" when not said.
func (c Color) Names() (colorRange, space, primaries, transfer string) {
	return name(C.av_color_range_name(C.enum_AVColorRange(c.Range))),
		name(C.av_color_space_name(C.enum_AVColorSpace(c.Space))),
		name(C.av_color_primaries_name(C.enum_AVColorPrimaries(c.Primaries))),
		name(C.av_color_transfer_name(C.enum_AVColorTransferCharacteristic(c.Transfer)))
}

// CodecName returns FFmpeg's short name of a codec.
func CodecName(id astiav.CodecID) string { return C.GoString(C.avcodec_get_name(C.enum_AVCodecID(id))) }

// PixelFormatName returns FFmpeg's name of a pixel format, "unknown" for none.
func PixelFormatName(f astiav.PixelFormat) string {
	return name(C.av_get_pix_fmt_name(C.enum_AVPixelFormat(f)))
}

func name(s *C.char) string {
	if s == nil {
		return "unknown"
	}
	return C.GoString(s)
}

// text returns an entry as valid UTF-8, as messages for people must be; the entry itself stays as it is in the file.
func text(entries []KeyValue, key string) string {
	for _, e := range entries {
		if strings.EqualFold(e.Key, key) {
			return strings.ToValidUTF8(e.Value, "\uFFFD")
		}
	}
	return ""
}

func cEntries(d *C.AVDictionary) []KeyValue {
	var all []KeyValue
	var e *C.AVDictionaryEntry
	for {
		if e = C.av_dict_iterate(d, e); e == nil {
			return all
		}
		all = append(all, KeyValue{Key: C.GoString(e.key), Value: C.GoString(e.value)})
	}
}
