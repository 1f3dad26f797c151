package decode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/notice"

	"github.com/asticode/go-astiav"
)

// formats are the demuxers that may be used, by FFmpeg's names. None of them opens other files by itself; playlists (HLS, DASH,
// ffconcat), SDP and everything that names files or addresses is left out. Those of sound alone are there so that a sound file
// gets an answer that says so.
var formats = strings.Join([]string{
	"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "mpeg", "flv", "avi", "ogg", "asf", "ivf", "obu",
	"h264", "hevc", "m4v", "mpegvideo", "yuv4mpegpipe", "gif", "apng",
	"png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe",
	"aac", "mp3", "flac", "wav",
}, ",")

// noMemory is FFmpeg's ENOMEM: it wanted more than its allocator or max_streams allows.
const noMemory = astiav.Error(-int(syscall.ENOMEM))

// openDemuxer looks at the first bytes, spools the input if it must, and opens it, its streams and the video decoder.
func (s *Source) openDemuxer() error {
	r, size, err := s.prepare()
	if err != nil {
		return err
	}
	if s.input, err = av.NewInput(r, size); err != nil {
		return err
	}
	if s.packet = av.AllocPacket(); s.packet == nil {
		return errNoMemory
	}
	s.input.Allow(s.opts.Limits.MaxHeadBytes)
	if err := s.openFormat(); err != nil {
		return err
	}
	if n := s.format.NbStreams(); n > s.opts.Limits.MaxStreams {
		return s.tooManyStreams(n)
	}
	if err := av.FindStreamInfo(s.format, codecPixels(s.opts.Limits.MaxPixels)); err != nil {
		if err := s.inputErr(); err != nil {
			return err
		}
		return inputError(Damaged, err, "The input's streams cannot be understood; it may be damaged or truncated.")
	}
	if err := s.inputErr(); err != nil {
		return err
	}
	if n := s.format.NbStreams(); n > s.opts.Limits.MaxStreams {
		return s.tooManyStreams(n)
	}
	return s.describe()
}

// prepare returns the reader the demuxer will use, and the input's size when that reader can seek, else -1.
func (s *Source) prepare() (io.Reader, int64, error) {
	var head []byte
	for {
		how, need := scanHead(head)
		if how == accessStream {
			break
		}
		switch how {
		case accessSeek:
			return s.fill(head, "This MP4 has its index at the end", "remux it with -movflags +faststart")
		case accessPicture:
			return s.fill(head, "This is a TIFF or animated PNG", "convert it to PNG, GIF or a video")
		}
		was := len(head)
		head = append(head, make([]byte, need-was)...)
		n, err := io.ReadFull(s.reader, head[was:])
		head = head[:was+n]
		if s.reader.ended {
			break
		}
		if err != nil {
			return nil, 0, err
		}
	}
	if len(head) == 0 {
		return nil, 0, inputError(Empty, nil, "The input is empty.")
	}
	s.known, s.late = knownMagic(head), strings.HasPrefix(string(head), "FLV\x01")
	return io.MultiReader(bytes.NewReader(head), s.reader), -1, nil
}

// fill spools the whole input, whose first bytes have been read already. what and remedy are for sentences that say why.
func (s *Source) fill(head []byte, what, remedy string) (io.Reader, int64, error) {
	s.known = true
	if s.opts.Spool == nil {
		return nil, 0, inputError(Unsupported, nil,
			"%s and cannot be read as a stream; %s.", what, remedy)
	}
	s.notify(notice.InputSpooled, notice.NoStream,
		what+", so the whole input is stored on the server before work starts.")
	spool, err := s.opts.Spool()
	if err != nil {
		return nil, 0, err
	}
	s.spool = spool
	size, err := io.CopyBuffer(struct{ io.Writer }{spool}, io.MultiReader(bytes.NewReader(head), s.reader), make([]byte, spoolBuffer))
	var full *SpoolLimitError
	if errors.As(err, &full) {
		return nil, 0, inputError(TooLarge, err,
			"%s and is larger than the %d MiB that may be stored; %s.", what, full.Limit>>20, remedy)
	}
	if err != nil {
		return nil, 0, err
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("rewinding the spool: %w", err)
	}
	return &spooled{Spool: spool, reader: s.reader}, size, nil
}

// spooled reads from the spool and stops with the cause of the call's context.
type spooled struct {
	Spool
	reader *reader
}

func (s *spooled) Read(p []byte) (int, error) {
	if err := context.Cause(s.reader.ctx); err != nil {
		return 0, err
	}
	return s.Spool.Read(p)
}

func (s *Source) openFormat() (err error) {
	var more map[string]string
	if s.opts.Live {
		more = map[string]string{
			"analyzeduration": strconv.FormatInt(microseconds(min(s.opts.Limits.AnalyzeDuration, liveAnalyze)), 10),
		}
	}
	if s.late {
		if more == nil {
			more = map[string]string{}
		}
		more["codec_whitelist"] = lateDecoders
	}
	var opened bool
	s.format, opened, err = openFormat(s.input, formats, hint(s.opts.Name), s.opts.Limits, more)
	if !opened {
		return s.openError(err)
	}
	return err
}

// openFormat opens a demuxer that reads in and nothing else. opened tells whether there is a context to close, with or without
// an error. more are further options, which come before the usual ones.
func openFormat(in *av.Input, formats, hint string, l Limits, more map[string]string) (fc *astiav.FormatContext, opened bool, err error) {
	if fc = astiav.AllocFormatContext(); fc == nil {
		return nil, false, errNoMemory
	}
	av.TrackOpen()
	in.Attach(fc)
	options := map[string]string{
		"format_whitelist":   formats,
		"protocol_whitelist": "", // nothing
		"probesize":          strconv.FormatInt(l.ProbeBytes, 10),
		"analyzeduration":    strconv.FormatInt(microseconds(l.AnalyzeDuration), 10),
		// One more than allowed, so that too many can be told from just enough: Matroska's demuxer silently stops at this limit.
		"max_streams": strconv.Itoa(l.MaxStreams + 1),
	}
	maps.Copy(options, more)
	err = av.WithOptions(options, func(d *astiav.Dictionary) error {
		if err := fc.OpenInput(hint, nil, d); err != nil {
			return err
		}
		opened = true
		return nil
	})
	if !opened { // FFmpeg has freed the context
		av.TrackClose()
		return nil, false, err
	}
	return fc, true, err
}

// lateDecoders are the decoders that FFmpeg may use to learn what the streams of FLV are, which show up only while it looks: it takes no
// limit of pixels for those, and 200 KB can be pictures that take hundreds of megabytes. Pictures' sizes are in the headers of the
// video that FLV holds today, or are learned from the first picture that our own decoder makes.
const lateDecoders = "aac,mp3float,pcm_s16le,pcm_u8,pcm_alaw,pcm_mulaw"

// liveAnalyze is how much of a running stream is read at most to learn what its streams are. What is read is late; but with much
// less, the first packets of sound have no duration yet and their times would have to be guessed.
const liveAnalyze = time.Second

// hint returns a name that tells FFmpeg nothing but the extension, and that only for raw streams, whose first bytes look alike;
// all other formats say themselves what they are.
func hint(name string) string {
	ext := strings.ToLower(filepath.Ext(name))
	if slices.Contains([]string{".h264", ".264", ".avc", ".hevc", ".h265", ".265", ".m4v", ".m2v", ".obu"}, ext) {
		return "input" + ext
	}
	return ""
}

// openError turns FFmpeg's error of opening an input into what people should know.
func (s *Source) openError(err error) error {
	if err := s.inputErr(); err != nil {
		return err
	}
	if errors.Is(err, noMemory) {
		return inputError(TooLarge, err, "The input claims more streams (at most %d) or larger tables than are accepted.",
			s.opts.Limits.MaxStreams)
	}
	if s.known {
		return inputError(Damaged, err, "The input looks like a video file, but its header is damaged or incomplete.")
	}
	return inputError(NotVideo, err, "The input is not a video file of a supported format.")
}

func (s *Source) tooManyStreams(n int) error {
	return inputError(TooLarge, nil, "The input has %d streams; at most %d are accepted.", n, s.opts.Limits.MaxStreams)
}

func (s *Source) closeFormat() {
	if s.format != nil {
		s.format.CloseInput()
		s.format = nil
		av.TrackClose()
	}
}

// describe fills Media and opens the decoder of the best video stream.
func (s *Source) describe() error {
	m, err := av.Describe(s.format)
	if err != nil {
		return err
	}
	s.media = m
	s.end = make([]int64, len(m.Streams))
	for i := range s.end {
		s.end[i] = av.NoTimestamp
	}
	m.VideoIndex = -1
	unsupported := ""
	for i, st := range m.Streams {
		if !isVideo(st) {
			continue
		}
		if astiav.FindDecoder(st.Params.CodecID()) == nil {
			unsupported = av.CodecName(st.Params.CodecID())
			continue
		}
		if m.VideoIndex < 0 || better(st, m.Video()) {
			m.VideoIndex = i
		}
	}
	switch {
	case m.VideoIndex < 0 && unsupported != "":
		return inputError(Unsupported, nil, "The video's codec (%s) is not supported.", unsupported)
	case m.VideoIndex < 0:
		return inputError(NoVideoStream, nil, "The input has no video stream.")
	}
	m.UseVideo(m.VideoIndex)
	if err := s.checkSize(m.Width, m.Height); err != nil {
		return err
	}
	s.time = newTimeline(m, s.format.InputFormat().Flags().Has(astiav.IOFormatFlagTsDiscont), func() {
		s.notify(notice.TimestampsRepaired, notice.NoStream, "Missing or falling timestamps were repaired.")
	})
	s.time.live = s.opts.Live
	s.coded = s.format.Streams()[m.VideoIndex].CodecParameters()
	s.video, err = newVideo(s)
	return err
}

// better tells whether a is the rather wanted of two video streams: the file's default first, then the larger picture, then
// the first.
func better(a, b *av.Stream) bool {
	da, db := a.Disposition.Has(astiav.DispositionFlagDefault), b.Disposition.Has(astiav.DispositionFlagDefault)
	if da != db {
		return da
	}
	return a.Params.Width()*a.Params.Height() > b.Params.Width()*b.Params.Height()
}

func (s *Source) checkSize(w, h int) error {
	if int64(w)*int64(h) > s.opts.Limits.MaxPixels {
		return inputError(TooLarge, nil, "The picture has %dx%d pixels; at most %d are accepted.", w, h, s.opts.Limits.MaxPixels)
	}
	return nil
}
