package encode

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"upscaler/internal/av"

	"github.com/asticode/go-astiav"
)

// encoder is what we know of one of FFmpeg's encoders beyond what it tells itself.
type encoder struct {
	codec Codec
	name  string // FFmpeg's name of the encoder
	id    string // FFmpeg's name of the codec
	label string // for people

	// memory is what the encoder takes in bytes for each pixel of the picture, in 8-bit 4:2:0 with two threads and its default
	// preset: measured for noise of 1920x1080, rounded up.
	memory  int
	still   bool // stores a single picture of packed RGB or gray
	copies  bool // has done with a picture when it asks for the next one
	minSide int  // smallest width and height it takes, 0 for any
	even    bool // sizes must be even where chroma is subsampled

	minCRF, maxCRF, crf int // constant quality; maxCRF 0 for none
	bitrate             bool

	presetOption string // empty: the encoder has no presets
	presets      []string
	preset       string
	tuneOption   string // empty: the encoder has no tunings
	tunes        []string

	// profiles are the names that the encoder's library knows; empty where FFmpeg's own list says it.
	profiles []string
	// fixed are options set for every job.
	fixed map[string]string
	// refused are private options that the user may not set: they name files, or other fields say the same.
	refused []string
	// params is the option that takes a list key=value:key=value for the encoder's library, and paramKeys what it may hold. These
	// lists can name files to read and write, hence only keys known to be harmless.
	params    string
	paramKeys []string
}

var x26xPresets = []string{"ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"}

// encoders are in no particular order. The default qualities keep what the network has added: at them the encoder's loss is well
// below the difference between the network and bicubic. The default presets are those that cost little beside the network on a
// CPU, measured in core milliseconds for a 1708x960 picture of a film (the network takes about 300 there): x264 veryfast 44
// (faster 71 and medium 104, for files no smaller at the same quality setting), x265 superfast 109 (veryfast 173), SVT-AV1 8: 90
// (7: 132), VP9 5: 98 (4: 121), FFV1 26.
var encoders = []*encoder{
	{
		codec: CodecH264, name: "libx264", id: "h264", label: "H.264",
		memory: 100,
		copies: true,
		even:   true,
		minCRF: 0, maxCRF: 51, crf: 18, bitrate: true,
		presetOption: "preset", presets: x26xPresets, preset: "veryfast",
		tuneOption: "tune", tunes: []string{"film", "animation", "grain", "stillimage", "psnr", "ssim", "fastdecode", "zerolatency"},
		profiles: []string{"baseline", "main", "high", "high10", "high422", "high444"},
		refused:  []string{"passlogfile", "x264opts", "fastfirstpass"},
		params:   "x264-params",
		paramKeys: []string{"8x8dct", "aq-mode", "aq-strength", "aud", "b-adapt", "b-bias", "b-pyramid", "bframes", "bluray-compat",
			"cabac", "chroma-qp-offset", "crf-max", "deblock", "direct", "fast-pskip", "intra-refresh", "ipratio", "keyint", "level",
			"mbtree", "me", "merange", "min-keyint", "mixed-refs", "nal-hrd", "nr", "open-gop", "partitions", "pbratio", "psy",
			"psy-rd", "qblur", "qcomp", "qpmax", "qpmin", "qpstep", "rc-lookahead", "ref", "scenecut", "slices", "subme", "trellis",
			"vbv-bufsize", "vbv-init", "vbv-maxrate", "weightb", "weightp"},
	},
	{
		codec: CodecHEVC, name: "libx265", id: "hevc", label: "HEVC",
		memory:  145,
		copies:  true,
		minSide: 16, even: true,
		minCRF: 0, maxCRF: 51, crf: 19, bitrate: true,
		presetOption: "preset", presets: x26xPresets, preset: "superfast",
		tuneOption: "tune", tunes: []string{"psnr", "ssim", "grain", "fastdecode", "zerolatency", "animation"},
		fixed:    map[string]string{"a53cc": "1"}, // captions; x264 keeps them by itself
		profiles: []string{"main", "main10", "main12", "main422-10", "main422-12", "main444-8", "main444-10", "main444-12"},
		refused:  []string{"dolbyvision"},
		params:   "x265-params",
		paramKeys: []string{"amp", "aq-mode", "aq-motion", "aq-strength", "aud", "b-adapt", "b-intra", "b-pyramid", "bframe-bias",
			"bframes", "cbqpoffs", "crqpoffs", "ctu", "cutree", "deblock", "early-skip", "fast-intra", "hdr10", "hdr10-opt",
			"high-tier", "hrd", "intra-refresh", "ipratio", "keyint", "level-idc", "limit-modes", "limit-refs", "limit-tu", "lossless",
			"max-merge", "max-tu-size", "me", "merange", "min-cu-size", "min-keyint", "nr-inter", "nr-intra", "open-gop", "pbratio",
			"psy-rd", "psy-rdoq", "qcomp", "qg-size", "qpmax", "qpmin", "qpstep", "rc-grain", "rc-lookahead", "rd", "rdoq-level",
			"rdpenalty", "rect", "ref", "repeat-headers", "rskip", "sao", "scenecut", "scenecut-bias", "selective-sao", "signhide",
			"splitrd-skip", "ssim-rd", "strong-intra-smoothing", "subme", "temporal-mvp", "tskip", "tskip-fast", "tu-inter-depth",
			"tu-intra-depth", "uhd-bd", "vbv-bufsize", "vbv-init", "vbv-maxrate", "weightb", "weightp"},
	},
	{
		codec: CodecVP9, name: "libvpx-vp9", id: "vp9", label: "VP9",
		memory: 140,
		copies: true,
		minCRF: 0, maxCRF: 63, crf: 24, bitrate: true,
		presetOption: "cpu-used", presets: []string{"0", "1", "2", "3", "4", "5", "6", "7", "8"}, preset: "5",
		tuneOption: "tune-content", tunes: []string{"default", "screen", "film"},
		fixed:   map[string]string{"row-mt": "1", "deadline": "good"},
		refused: []string{"ts-parameters"},
	},
	{
		codec: CodecAV1, name: "libsvtav1", id: "av1", label: "AV1",
		memory:  220,
		copies:  true,
		minSide: 64, even: true,
		minCRF: 1, maxCRF: 63, crf: 24, bitrate: true,
		presetOption: "preset", presets: []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13"}, preset: "8",
		refused: []string{"dolbyvision"},
		params:  "svtav1-params",
		paramKeys: []string{"aq-mode", "enable-cdef", "enable-dlf", "enable-overlays", "enable-qm", "enable-restoration", "enable-tf",
			"fast-decode", "film-grain", "film-grain-denoise", "irefresh-type", "keyint", "qm-max", "qm-min", "scd", "scm",
			"tile-columns", "tile-rows", "tune"},
	},
	{
		codec: CodecProRes, name: "prores_ks", id: "prores", label: "ProRes",
		memory: 20,
		even:   true,
		fixed:  map[string]string{"vendor": "apl0"}, // some programs refuse other vendors' ProRes
	},
	{
		codec: CodecFFV1, name: "ffv1", id: "ffv1", label: "FFV1",
		memory: 160,
		// Version 3 with slices and checksums, every frame a key frame: what archives ask for, and it can be seeked anywhere. No
		// number of slices means four, and more where four cannot be cut between the chroma samples of an odd size.
		fixed: map[string]string{"level": "3", "slicecrc": "1", "slices": "0", "g": "1"},
	},
	{
		codec: CodecPNG, name: "png", id: "png", label: "PNG",
		memory: 20,
		still:  true,
		fixed:  map[string]string{"pred": "mixed"}, // the best filter for each row, as every PNG optimiser begins with
	},
}

// genericOptions are options of every encoder in FFmpeg that the user may set beside the encoder's private ones.
var genericOptions = []string{"g", "bf", "keyint_min", "refs", "qmin", "qmax", "maxrate", "minrate", "bufsize", "profile", "level",
	"slices", "coder", "context", "sc_threshold", "trellis"}

// fieldOptions are options that have their own field in the request.
var fieldOptions = map[string]string{"crf": "crf", "preset": "preset", "tune": "tune", "b": "bitrate", "cpu-used": "preset",
	"tune-content": "tune"}

// The bit rates that make sense for video, in bits a second: from a slide show to more than lossless 8K.
const (
	minBitrate = 10_000
	maxBitrate = 4_000_000_000
)

func encoderOf(c Codec) *encoder {
	for _, e := range encoders {
		if e.codec == c {
			return e
		}
	}
	return nil
}

// find returns FFmpeg's encoder.
func (e *encoder) find() (*astiav.Codec, error) {
	c := astiav.FindEncoderByName(e.name)
	if c == nil {
		return nil, &UnsupportedError{Text: fmt.Sprintf("This server's FFmpeg was built without %s and cannot encode %s.", e.name, e.label)}
	}
	return c, nil
}

// settings are the options of one job's encoder with all defaults filled in.
type settings struct {
	crf     int // -1 for none
	preset  string
	tune    string
	bitrate int64
	options map[string]string // for FFmpeg, all of the above included
	user    bool              // options of the user are among them
}

// settle checks the user's options and fills in the defaults.
func (e *encoder) settle(o Options) (settings, error) {
	s := settings{crf: -1, options: maps.Clone(e.fixed)}
	if s.options == nil {
		s.options = map[string]string{}
	}
	if o.CRF != nil && o.Bitrate != 0 {
		return s, optionError("bitrate", "constant quality and a bit rate exclude each other; give one of them.")
	}
	switch {
	case o.Bitrate != 0:
		if !e.bitrate {
			return s, optionError("bitrate", "%s has no bit rate control; leave the bit rate out.", e.label)
		}
		if o.Bitrate < minBitrate || o.Bitrate > maxBitrate {
			return s, optionError("bitrate", "%d is not between %d and %d bits a second.", o.Bitrate, minBitrate, int64(maxBitrate))
		}
		s.bitrate = o.Bitrate
		s.options["b"] = strconv.FormatInt(o.Bitrate, 10)
	case e.maxCRF == 0:
		if o.CRF != nil {
			return s, optionError("crf", "%s has no constant quality setting; leave it out.", e.label)
		}
	default:
		s.crf = e.crf
		if o.CRF != nil {
			s.crf = *o.CRF
		}
		if s.crf < e.minCRF || s.crf > e.maxCRF {
			return s, optionError("crf", "%d is not between %d and %d, the range of %s.", s.crf, e.minCRF, e.maxCRF, e.label)
		}
		s.options["crf"] = strconv.Itoa(s.crf)
		if e.codec == CodecVP9 {
			s.options["b"] = "0" // else crf is only a lower bound beside a default bit rate
		}
	}
	preset := e.preset
	if fast := livePresets[e.codec]; o.Live != nil && fast != "" {
		preset = fast
	}
	var err error
	if s.preset, err = choose("preset", e.label, e.presetOption, e.presets, o.Preset, preset, s.options); err != nil {
		return s, err
	}
	if s.tune, err = choose("tune", e.label, e.tuneOption, e.tunes, o.Tune, "", s.options); err != nil {
		return s, err
	}
	if err := e.addUserOptions(o.EncoderOptions, &s); err != nil {
		return s, err
	}
	if o.Live != nil {
		e.settleLive(o, &s)
	}
	return s, nil
}

// choose returns want, or def when it is empty, and puts it under the encoder's name for it.
func choose(field, label, option string, known []string, want, def string, into map[string]string) (string, error) {
	if want == "" {
		want = def
	}
	if want == "" {
		return "", nil
	}
	if option == "" {
		return "", optionError(field, "%s has no %ss; leave it out.", label, field)
	}
	if !slices.Contains(known, want) {
		return "", optionError(field, "%q is not a %s of %s; choose one of %s.", want, field, label, strings.Join(known, ", "))
	}
	into[option] = want
	return want, nil
}

func (e *encoder) addUserOptions(user map[string]string, s *settings) error {
	if len(user) == 0 {
		return nil
	}
	codec, err := e.find()
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(user)) {
		value, field := user[key], fmt.Sprintf("encoder_options[%q]", key)
		if f, ok := fieldOptions[key]; ok && (key == "b" || key == "crf" || key == e.presetOption || key == e.tuneOption) {
			return optionError(field, "use the field %s for it.", f)
		}
		if slices.Contains(e.refused, key) {
			return optionError(field, "this option is not open to users of the service.")
		}
		if !slices.Contains(genericOptions, key) && !slices.Contains(e.private(codec), key) {
			return optionError(field, "%s (%s) has no such option.", e.label, e.name)
		}
		if strings.ContainsRune(value, 0) || len(value) > maxOptionValue {
			return optionError(field, "the value is not a text of at most %d bytes.", maxOptionValue)
		}
		if key == "profile" && len(e.profiles) > 0 && !slices.Contains(e.profiles, value) {
			return optionError(field, "%q is not a profile of %s; choose one of %s.", value, e.label, strings.Join(e.profiles, ", "))
		}
		if key == e.params {
			if err := e.checkParams(field, value); err != nil {
				return err
			}
		} else if err := av.CheckEncoderOption(codec, key, value); errors.Is(err, astiav.ErrOptionNotFound) {
			return optionError(field, "%s (%s) has no such option.", e.label, e.name)
		} else if err != nil {
			return optionError(field, "%q is not a value that %s takes here.", value, e.name)
		}
		s.options[key] = value
		s.user = true
	}
	return nil
}

// maxOptionValue is the longest value of an encoder option in bytes; real ones have a few dozen.
const maxOptionValue = 1024

// private returns the names of the encoder's private options.
func (e *encoder) private(codec *astiav.Codec) []string {
	c := av.AllocEncoder(codec)
	if c == nil {
		return nil
	}
	defer av.FreeEncoder(c)
	var names []string
	if pd := c.PrivateData(); pd != nil {
		for _, o := range pd.Options().List() {
			names = append(names, o.Name())
		}
	}
	return names
}

// paramCharacters are those that values of parameters consist of. A path would need others.
const paramCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.,_"

// checkParams checks a list of the encoder library's own parameters, key=value:key=value.
func (e *encoder) checkParams(field, list string) error {
	for part := range strings.SplitSeq(list, ":") {
		key, value, _ := strings.Cut(part, "=")
		if !slices.Contains(e.paramKeys, strings.TrimPrefix(key, "no-")) {
			return optionError(field, "the parameter %q is unknown or not open to users of the service.", key)
		}
		if strings.ContainsFunc(value, func(c rune) bool { return !strings.ContainsRune(paramCharacters, c) }) {
			return optionError(field, "the value %q of %s holds a character that no parameter needs.", value, key)
		}
	}
	return nil
}
