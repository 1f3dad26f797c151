package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"upscaler/client"
	upscalev1 "upscaler/gen/upscale/v1"
)

// The words of the flags that choose one of a few.
var (
	codecs = map[string]upscalev1.VideoCodec{
		"auto":   upscalev1.VideoCodec_VIDEO_CODEC_UNSPECIFIED,
		"h264":   upscalev1.VideoCodec_VIDEO_CODEC_H264,
		"hevc":   upscalev1.VideoCodec_VIDEO_CODEC_HEVC,
		"av1":    upscalev1.VideoCodec_VIDEO_CODEC_AV1,
		"vp9":    upscalev1.VideoCodec_VIDEO_CODEC_VP9,
		"ffv1":   upscalev1.VideoCodec_VIDEO_CODEC_FFV1,
		"prores": upscalev1.VideoCodec_VIDEO_CODEC_PRORES,
	}
	devices = map[string]upscalev1.Device{
		"auto": upscalev1.Device_DEVICE_UNSPECIFIED,
		"cpu":  upscalev1.Device_DEVICE_CPU,
		"cuda": upscalev1.Device_DEVICE_CUDA,
	}
	deinterlaces = map[string]upscalev1.Deinterlace{
		"auto": upscalev1.Deinterlace_DEINTERLACE_UNSPECIFIED,
		"on":   upscalev1.Deinterlace_DEINTERLACE_ON,
		"off":  upscalev1.Deinterlace_DEINTERLACE_OFF,
		"film": upscalev1.Deinterlace_DEINTERLACE_FILM,
	}
)

const (
	defaultScale = 2
	// maxScale is the largest factor that any network has.
	maxScale = 4
)

// choice is a flag whose value is one of a few words.
type choice[T any] struct {
	words map[string]T
	word  string
	value *T
}

// String implements pflag.Value.
func (c *choice[T]) String() string { return c.word }

// Type implements pflag.Value.
func (c *choice[T]) Type() string { return "word" }

// Set implements pflag.Value.
func (c *choice[T]) Set(s string) error {
	v, ok := c.words[s]
	if !ok {
		return fmt.Errorf("must be one of %s", strings.Join(c.list(), ", "))
	}
	c.word, *c.value = s, v
	return nil
}

func (c *choice[T]) list() []string {
	var list []string
	for w := range c.words {
		list = append(list, w)
	}
	slices.Sort(list)
	return list
}

func addChoice[T any](cmd *cobra.Command, name, word string, words map[string]T, value *T, usage string) {
	c := &choice[T]{words: words, word: word, value: value}
	cmd.Flags().Var(c, name, usage+": "+strings.Join(c.list(), ", "))
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(c.list(), cobra.ShellCompDirectiveNoFileComp))
}

// bitrate is a flag in bits a second, with k, M or G for thousands.
type bitrate uint64

// String implements pflag.Value.
func (b *bitrate) String() string {
	if *b == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(*b), 10)
}

// Type implements pflag.Value.
func (b *bitrate) Type() string { return "rate" }

// Set implements pflag.Value.
func (b *bitrate) Set(s string) error {
	v, err := parseBitrate(s)
	*b = bitrate(v)
	return err
}

// parseBitrate reads a positive number of bits a second, such as 2500k or 8M (or 1.5M).
func parseBitrate(s string) (uint64, error) {
	number, factor := s, 1.0
	if n := len(s); n > 0 {
		if f := map[byte]float64{'k': 1e3, 'K': 1e3, 'M': 1e6, 'G': 1e9}[s[n-1]]; f > 0 {
			number, factor = s[:n-1], f
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	v = math.Round(v * factor)
	// The upper bound is far above any video's rate and keeps the conversion exact. NaN fails both comparisons.
	if err != nil || !(v >= 1 && v <= 1e12) || strings.ContainsAny(number, "xXpP_") {
		return 0, fmt.Errorf("must be a number of bits a second such as 2500k or 8M")
	}
	return uint64(v), nil
}

// span is a flag that is a time within a video: seconds (90, 1.5), minutes and hours (1:30, 1:02:03), or with units (90s, 1m30s).
type span time.Duration

// String implements pflag.Value.
func (s *span) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

// Type implements pflag.Value.
func (s *span) Type() string { return "time" }

// Set implements pflag.Value.
func (s *span) Set(text string) error {
	d, err := parseSpan(text)
	*s = span(d)
	return err
}

// maxSpan is longer than any video and keeps the arithmetic exact.
const maxSpan = 10_000 * time.Hour

func parseSpan(text string) (time.Duration, error) {
	wrong := errors.New("must be a time such as 90, 1:30, 1:02:03.5 or 90s")
	var total time.Duration
	if d, err := time.ParseDuration(text); err == nil {
		total = d
	} else {
		fields := strings.Split(text, ":")
		if len(fields) > 3 {
			return 0, wrong
		}
		for i, field := range fields {
			last := i == len(fields)-1
			v, err := strconv.ParseFloat(field, 64)
			if err != nil || strings.Trim(field, "0123456789.") != "" || !last && strings.Contains(field, ".") ||
				i > 0 && v >= 60 || v > maxSpan.Seconds() {
				return 0, wrong
			}
			total = 60*total + time.Duration(math.Round(v*1e9))
		}
	}
	if total < 0 || total > maxSpan {
		return 0, wrong
	}
	return total, nil
}

// settings are the flags that describe a job, shared by upscale and probe.
type settings struct {
	scale       uint32
	model       string
	format      string
	codec       upscalev1.VideoCodec
	device      upscalev1.Device
	deinterlace upscalev1.Deinterlace
	fieldRate   bool
	crf         uint32
	preset      string
	tune        string
	bitrate     bitrate
	options     []string
	strict      bool
	from        span
	length      span

	command *cobra.Command
}

func (s *settings) addFlags(cmd *cobra.Command) {
	s.command = cmd
	f := cmd.Flags()
	f.Uint32VarP(&s.scale, "scale", "s", defaultScale, fmt.Sprintf("factor by which width and height grow, 2 to %d; a --model named in full brings its own", maxScale))
	f.StringVarP(&s.model, "model", "m", "", "a model's name or tier (s, m, l); see sr-client models")
	addChoice(cmd, "device", "auto", devices, &s.device, "where the network runs")
	f.StringVar(&s.format, "format", "", "container of the result when its name does not say: "+strings.Join(client.Extensions(), ", "))
	addChoice(cmd, "codec", "auto", codecs, &s.codec, "codec of the upscaled video")
	f.Uint32Var(&s.crf, "crf", 0, "constant quality on the encoder's own scale, smaller is better (default: the codec's)")
	f.Var(&s.bitrate, "bitrate", "average bits a second instead of constant quality, such as 8M")
	f.StringVar(&s.preset, "preset", "", "the encoder's speed preset, such as veryfast or, for AV1, 0 to 13")
	f.StringVar(&s.tune, "tune", "", "the encoder's tuning, such as film, animation or grain")
	f.StringArrayVar(&s.options, "encoder-option", nil, "a further option of the encoder, `NAME=VALUE`; may be repeated")
	addChoice(cmd, "deinterlace", "auto", deinterlaces, &s.deinterlace, "what happens to interlaced video")
	f.BoolVar(&s.fieldRate, "field-rate", false, "make a frame of each field of interlaced video, at twice the rate")
	f.BoolVar(&s.strict, "strict", false, "fail when something cannot be kept as it is, instead of a notice")
	f.Var(&s.from, "start", "upscale only from this time on: 90, 1:30 or 90s")
	f.Var(&s.length, "duration", "upscale only this much: 90, 1:30 or 90s")
	cmd.MarkFlagsMutuallyExclusive("crf", "bitrate")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(client.Extensions(), cobra.ShellCompDirectiveNoFileComp))
}

// check finds the mistakes that can be seen without a server or a file.
func (s *settings) check() error {
	if s.scale < 2 || s.scale > maxScale {
		return usagef("--scale must be a whole number from 2 to %d", maxScale)
	}
	if s.format != "" {
		if _, ok := client.ContainerOf("." + s.format); !ok {
			return usagef("--format must be one of %s", strings.Join(client.Extensions(), ", "))
		}
	}
	if s.command.Flags().Changed("duration") && s.length == 0 {
		return usagef("--duration must be longer than nothing")
	}
	if s.fieldRate && (s.deinterlace == upscalev1.Deinterlace_DEINTERLACE_OFF || s.deinterlace == upscalev1.Deinterlace_DEINTERLACE_FILM) {
		return usagef("--field-rate goes with --deinterlace auto or on")
	}
	_, err := s.encoderOptions()
	return err
}

func (s *settings) encoderOptions() (map[string]string, error) {
	options := make(map[string]string, len(s.options))
	for _, o := range s.options {
		name, value, ok := strings.Cut(o, "=")
		if !ok || name == "" {
			return nil, usagef("--encoder-option %q must be NAME=VALUE", o)
		}
		options[name] = value
	}
	return options, nil
}

// modelDecidesScale reports whether the scale follows from a model that was named in full; resolveScale finds it out then.
func (s *settings) modelDecidesScale() bool {
	return !s.command.Flags().Changed("scale") && strings.Contains(s.model, "-") // a tier has no hyphen
}

// resolveScale takes the scale from the server's list of models. A model that is not in it is left for the server to
// refuse, with its own words.
func (s *settings) resolveScale(ctx context.Context, c *session) error {
	models, err := c.Models(ctx)
	if err != nil {
		return c.explain(err)
	}
	for _, m := range models {
		if m.GetName() == s.model && m.GetScale() > 0 {
			s.scale = m.GetScale()
		}
	}
	return nil
}

// start returns the settings as the server takes them, for an output in container.
func (s *settings) start(name string, size int64, container upscalev1.Container) *upscalev1.Start {
	options, _ := s.encoderOptions() // checked
	start := &upscalev1.Start{
		Scale:       s.scale,
		Model:       s.model,
		Device:      s.device,
		Strict:      s.strict,
		Deinterlace: s.deinterlace,
		FieldRate:   s.fieldRate,
		Input:       &upscalev1.Input{Name: strings.ToValidUTF8(name, "\uFFFD"), Size: uint64(max(size, 0))},
		Output: &upscalev1.Output{
			Container:      container,
			Codec:          s.codec,
			Preset:         s.preset,
			Tune:           s.tune,
			Bitrate:        uint64(s.bitrate),
			EncoderOptions: options,
		},
	}
	if s.command.Flags().Changed("crf") {
		start.Output.Crf = &s.crf
	}
	if s.from > 0 {
		start.StartTime = durationpb.New(time.Duration(s.from))
	}
	if s.length > 0 {
		start.Duration = durationpb.New(time.Duration(s.length))
	}
	return start
}
