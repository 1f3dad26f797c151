package server

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"upscaler/decode"
	"upscaler/encode"
	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/internal/media"
	"upscaler/internal/notice"
	"upscaler/server/pipeline"
	"upscaler/sr"
)

// This file turns the contract's messages into the rooms' own types and back. Nothing else happens here.

// defaultScale is used when the client names none.
const defaultScale = 2

// modelChoice is what the Starts of all calls say of the network to use.
type modelChoice interface {
	GetScale() uint32
	GetModel() string
	GetDevice() upscalev1.Device
}

func modelSpec(start modelChoice) (sr.Spec, error) {
	spec := sr.Spec{Scale: int(start.GetScale()), Model: start.GetModel()}
	if spec.Scale == 0 && spec.Model == "" {
		spec.Scale = defaultScale
	}
	switch start.GetDevice() {
	case upscalev1.Device_DEVICE_UNSPECIFIED:
		spec.Device = sr.AnyDevice
	case upscalev1.Device_DEVICE_CPU:
		spec.Device = sr.CPU
	case upscalev1.Device_DEVICE_CUDA:
		spec.Device = sr.CUDA
	default:
		return spec, &protocolError{"start.device", "this device is not known to this server"}
	}
	return spec, nil
}

func deviceMessage(d sr.Device) upscalev1.Device {
	if d == sr.CUDA {
		return upscalev1.Device_DEVICE_CUDA
	}
	return upscalev1.Device_DEVICE_CPU
}

// encodeOptions relies on encode's constants having the contract's values; a value from a newer contract is refused here.
func encodeOptions(start *upscalev1.Start) (encode.Options, error) {
	out := start.GetOutput()
	if _, known := upscalev1.Container_name[int32(out.GetContainer())]; !known {
		return encode.Options{}, &protocolError{"start.output.container", "this container is not known to this server"}
	}
	if _, known := upscalev1.VideoCodec_name[int32(out.GetCodec())]; !known {
		return encode.Options{}, &protocolError{"start.output.codec", "this codec is not known to this server"}
	}
	o := encode.Options{
		Container: encode.Container(out.GetContainer()), Codec: encode.Codec(out.GetCodec()),
		Preset: out.GetPreset(), Tune: out.GetTune(), Bitrate: int64(out.GetBitrate()),
		EncoderOptions: out.GetEncoderOptions(),
		Seekable:       out.GetSeekable(), Strict: start.GetStrict(),
	}
	if out != nil && out.Crf != nil {
		crf := int(out.GetCrf())
		o.CRF = &crf
	}
	return o, nil
}

// partOf reads which part of the video is asked for.
func partOf(start *upscalev1.Start) (decode.Part, error) {
	if d := start.GetStartTime(); d != nil && (d.CheckValid() != nil || d.AsDuration() < 0) {
		return decode.Part{}, &protocolError{"start.start_time", "the start of the part is not a time from zero on"}
	}
	if d := start.GetDuration(); d != nil && (d.CheckValid() != nil || d.AsDuration() <= 0) {
		return decode.Part{}, &protocolError{"start.duration", "the duration of the part is not a time above zero"}
	}
	return decode.Part{Start: start.GetStartTime().AsDuration(), Duration: start.GetDuration().AsDuration()}, nil
}

// describe makes the Accepted of a prepared job.
func (s *session) describe(p *prepared) *upscalev1.Accepted {
	model, device := p.engine.Model(), p.engine.Device()
	settings := proto.Clone(s.start).(*upscalev1.Start)
	settings.Scale, settings.Model, settings.Device = uint32(model.Scale), model.Name, deviceMessage(device)
	if settings.Output == nil {
		settings.Output = &upscalev1.Output{}
	}
	settings.Output.Container = upscalev1.Container(p.plan.Container)
	settings.Output.Codec = upscalev1.VideoCodec(p.plan.Codec)
	settings.Output.Preset, settings.Output.Tune, settings.Output.Bitrate = p.plan.Preset, p.plan.Tune, uint64(p.plan.Bitrate)
	settings.Output.Crf = nil
	if p.plan.CRF >= 0 {
		settings.Output.Crf = proto.Uint32(uint32(p.plan.CRF))
	}
	frames := p.source.Media().Frames()
	a := &upscalev1.Accepted{
		JobId: s.id, Settings: settings,
		Input: infoMessage(p.plan.Input), Output: infoMessage(p.plan.Output),
		Model: modelMessage(model), Device: deviceMessage(device),
		EstimatedFrames: frames,
	}
	if v := p.source.Media().Info.Streams[p.source.Media().VideoIndex].Video; v != nil && frames > 0 {
		if perFrame, ok := s.server.cfg.Scheduler.Estimate(model.Name, device, v.Width, v.Height); ok {
			a.EstimatedTime = durationpb.New(perFrame * time.Duration(frames))
		}
	}
	return a
}

func modelMessage(m sr.Model) *upscalev1.Model {
	return &upscalev1.Model{
		Name: m.Name, Scale: uint32(m.Scale), Tier: m.Tier, Flavour: m.Flavour, Precision: m.Precision,
		ReceptiveField: uint32(m.Halo), Version: m.Version, License: m.License,
		Parameters: uint64(m.Parameters), IsDefault: m.Default,
	}
}

func noticeMessage(n notice.Notice) *upscalev1.Notice {
	m := &upscalev1.Notice{Code: upscalev1.NoticeCode(n.Code), Text: n.Text}
	if n.Stream != notice.NoStream {
		m.Stream = proto.Uint32(uint32(n.Stream))
	}
	return m
}

func stageTimes(st pipeline.Stages) *upscalev1.StageTimes {
	return &upscalev1.StageTimes{
		Decode: durationpb.New(st.Decode), Upscale: durationpb.New(st.Upscale), Encode: durationpb.New(st.Encode),
	}
}

func infoMessage(info media.Info) *upscalev1.MediaInfo {
	m := &upscalev1.MediaInfo{Container: info.Container, Chapters: uint32(info.Chapters)}
	if info.Duration > 0 {
		m.Duration = durationpb.New(info.Duration)
	}
	for _, st := range info.Streams {
		m.Streams = append(m.Streams, streamMessage(st))
	}
	return m
}

func streamMessage(st media.Stream) *upscalev1.StreamInfo {
	m := &upscalev1.StreamInfo{
		Index: uint32(st.Index), Kind: upscalev1.StreamKind(st.Kind), Codec: st.Codec, Language: st.Language, Title: st.Title,
		Action: upscalev1.StreamAction(st.Action), IsDefault: st.Default,
	}
	if st.Peer >= 0 {
		m.Peer = proto.Uint32(uint32(st.Peer))
	}
	if v := st.Video; v != nil {
		m.Video = &upscalev1.VideoInfo{
			Width: uint32(v.Width), Height: uint32(v.Height), PixelFormat: v.PixelFormat,
			FrameRate: rational(v.FrameRate), SampleAspectRatio: rational(v.SampleAspectRatio), TimeBase: rational(v.TimeBase),
			ColorRange: v.Range, ColorSpace: v.Space, ColorPrimaries: v.Primaries, ColorTransfer: v.Transfer,
			Rotation: int32(v.Rotation),
		}
	}
	if a := st.Audio; a != nil {
		m.Audio = &upscalev1.AudioInfo{SampleRate: uint32(a.SampleRate), Channels: uint32(a.Channels)}
	}
	return m
}

func rational(r media.Rational) *upscalev1.Rational {
	return &upscalev1.Rational{Num: int32(r.Num), Den: int32(r.Den)}
}
