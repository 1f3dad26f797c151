package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/protobuf/types/known/durationpb"

	"upscaler/decode"
	"upscaler/encode"
	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/internal/av"
	"upscaler/internal/notice"
	"upscaler/live"
	"upscaler/server/pipeline"
	"upscaler/sr"
)

// The defaults and bounds of a live job's settings.
const (
	defaultLatency = 500 * time.Millisecond
	minLatency     = 20 * time.Millisecond // less than a frame
	maxLatency     = 30 * time.Second      // more would not be live

	defaultHold = 30 * time.Second
	maxHold     = time.Hour // the last picture takes an encoder and a place among the jobs

	defaultKeyFrameInterval = 2 * time.Second // what players wait for at most when they join
	minKeyFrameInterval     = 100 * time.Millisecond
	maxKeyFrameInterval     = time.Minute

	minSegment = 500 * time.Millisecond
	maxSegment = time.Minute
)

// tiers are those a quality floor may name, the best first.
var tiers = []string{"l", "m", "s"}

// liveSettings are a live job's settings with defaults filled in.
type liveSettings struct {
	latency, hold, keyFrames, segment time.Duration
	floor                             string
	paced, fragmentFrame              bool
}

func liveSettingsOf(start *upscalev1.Start) (liveSettings, error) {
	l := start.GetLive()
	var set liveSettings
	if start.GetStartTime() != nil || start.GetDuration() != nil {
		return set, &protocolError{"start.start_time", "a running stream has no parts; leave out start_time and duration"}
	}
	if start.GetResume() != nil {
		return set, &protocolError{"start.resume", "a running stream cannot be gone on with; leave out resume"}
	}
	if start.GetCompare() {
		return set, &protocolError{"start.compare", "a running stream cannot be compared; leave out compare"}
	}
	if _, known := upscalev1.Fragment_name[int32(l.GetFragment())]; !known {
		return set, &protocolError{"start.live.fragment", "this kind of fragment is not known to this server"}
	}
	if f := l.GetQualityFloor(); f != "" && !slices.Contains(tiers, f) {
		return set, &protocolError{"start.live.quality_floor", fmt.Sprintf("%q is not a tier; choose l, m or s", f)}
	}
	set = liveSettings{floor: l.GetQualityFloor(), paced: l.GetPaced(), fragmentFrame: l.GetFragment() == upscalev1.Fragment_FRAGMENT_FRAME}
	for _, d := range []struct {
		field         string
		value         *durationpb.Duration
		into          *time.Duration
		def, min, max time.Duration
	}{
		{"latency", l.GetLatency(), &set.latency, defaultLatency, minLatency, maxLatency},
		{"hold", l.GetHold(), &set.hold, defaultHold, 0, maxHold},
		{"key_frame_interval", l.GetKeyFrameInterval(), &set.keyFrames, defaultKeyFrameInterval, minKeyFrameInterval, maxKeyFrameInterval},
		{"segment", l.GetSegment(), &set.segment, 0, minSegment, maxSegment},
	} {
		*d.into = d.def
		if d.value == nil {
			continue
		}
		if v := d.value.AsDuration(); d.value.CheckValid() != nil || v < d.min || v > d.max {
			return set, &protocolError{"start.live." + d.field, fmt.Sprintf("%s must lie between %v and %v", d.field, d.min, d.max)}
		}
		*d.into = d.value.AsDuration()
	}
	if set.segment > 0 {
		set.keyFrames = min(set.keyFrames, set.segment)
	}
	return set, nil
}

// liveJob is a live job that is ready to run.
type liveJob struct {
	prepared
	set    liveSettings
	levels []pipeline.Level
	models []sr.Model // of the levels that have one
	input  *liveInput
}

func (p *liveJob) close() {
	for _, l := range p.levels {
		if l.Engine != nil {
			l.Engine.Close()
		}
	}
	p.engine = nil // one of the levels'
	p.prepared.close()
	p.input.close()
}

// prepareLive opens the input, the models of all levels, and lays out the output.
func (s *session) prepareLive(ctx context.Context, notify notice.Func) (_ *liveJob, err error) {
	p := &liveJob{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.set, err = liveSettingsOf(s.start); err != nil {
		return nil, err
	}
	options, err := encodeOptions(s.start)
	if err != nil {
		return nil, err
	}
	options.Threads, options.Notify = s.server.cfg.CodecThreads, notify
	options.Live = &encode.Live{KeyFrameInterval: p.set.keyFrames, FragmentFrame: p.set.fragmentFrame, Segment: p.set.segment}
	if err := s.checkAddresses(&options); err != nil {
		return nil, err
	}
	if err := s.openLevels(ctx, p); err != nil {
		return nil, err
	}
	p.input = s.liveInput(notify)
	if p.source, err = p.input.openFirst(ctx, p.set.hold, notify); err != nil {
		return nil, err
	}
	options.Scale = p.models[0].Scale
	if p.plan, err = encode.Plan(p.source.Media(), options); err != nil {
		return nil, err
	}
	p.options = options
	for _, n := range p.plan.Notices {
		notify(n)
	}
	p.engine = p.levels[0].Engine
	p.accepted = s.describe(&p.prepared)
	p.accepted.EstimatedFrames, p.accepted.EstimatedTime = 0, nil
	p.accepted.Model = s.firstModel(p)
	p.accepted.Settings.Live = p.set.message(s.start.GetLive())
	if s.start.GetModel() == "" {
		p.accepted.Settings.Model = "" // any of them
	}
	return p, nil
}

func (set liveSettings) message(l *upscalev1.Live) *upscalev1.Live {
	m := &upscalev1.Live{
		Latency: durationpb.New(set.latency), Hold: durationpb.New(set.hold), KeyFrameInterval: durationpb.New(set.keyFrames),
		QualityFloor: set.floor, Paced: set.paced, Fragment: l.GetFragment(), Source: l.GetSource(), Sink: l.GetSink(),
	}
	if set.segment > 0 {
		m.Segment = durationpb.New(set.segment)
	}
	return m
}

// openLevels loads the models that the job may use, the best first. Below them comes bicubic interpolation, unless the client
// names a model or a floor.
func (s *session) openLevels(ctx context.Context, p *liveJob) error {
	spec, err := modelSpec(s.start)
	if err != nil {
		return err
	}
	scheduler := s.server.cfg.Scheduler
	models, err := scheduler.Ladder(spec)
	if err != nil {
		return err
	}
	if p.set.floor != "" {
		lowest := slices.Index(tiers, p.set.floor)
		models = slices.DeleteFunc(models, func(m sr.Model) bool { return slices.Index(tiers, m.Tier) > lowest })
		if len(models) == 0 {
			return &protocolError{"start.live.quality_floor", fmt.Sprintf("there is no model of tier %s or better at this scale", p.set.floor)}
		}
	}
	p.models = models
	for _, m := range models {
		engine, err := scheduler.Open(ctx, sr.Spec{Scale: m.Scale, Model: m.Name, Device: spec.Device, Live: true})
		if err != nil {
			return err
		}
		p.levels = append(p.levels, pipeline.Level{Name: m.Name, Engine: engine})
	}
	if p.set.floor == "" && spec.Model == "" {
		p.levels = append(p.levels, pipeline.Level{Name: pipeline.Bicubic})
	}
	return nil
}

// estimate returns how long a frame takes at a level of the job, as far as it is known.
func (s *session) estimate(p *liveJob, level int) (time.Duration, bool) {
	m, l := p.source.Media(), p.levels[level]
	return s.server.cfg.Scheduler.Estimate(l.Name, l.Engine.Device(), m.Width, m.Height)
}

// firstModel is what the job begins with.
func (s *session) firstModel(p *liveJob) *upscalev1.Model {
	var interval time.Duration
	if rate := p.source.Media().Video().AvgFrameRate.Float(); rate > 0 {
		interval = time.Duration(float64(time.Second) / rate)
	}
	first := pipeline.FirstLevel(p.levels, interval, func(level int) (time.Duration, bool) { return s.estimate(p, level) })
	if first >= len(p.models) {
		return &upscalev1.Model{Name: pipeline.Bicubic, Scale: uint32(p.models[0].Scale)}
	}
	return modelMessage(p.models[first])
}

// runLive works a live job to its end.
func (s *session) runLive(ctx context.Context) (*upscalev1.Summary, error) {
	p, err := s.prepareLive(ctx, s.notify(ctx))
	if err != nil {
		return nil, err
	}
	defer p.close()
	if err := s.send(ctx, &upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Accepted{Accepted: p.accepted}}); err != nil {
		return nil, err
	}
	var out encode.Output = &chunkWriter{session: s, ctx: ctx}
	if addr := s.start.GetLive().GetSink(); addr != "" {
		remote, err := s.server.network().OpenSink(ctx, addr, s.sinkChanged(ctx))
		if err != nil {
			return nil, err
		}
		defer remote.Close()
		s.remote.Store(&remoteSink{remote})
		out = &sinkWriter{session: s, sink: remote}
	}
	sink, err := encode.Open(ctx, out, p.source.Media(), p.plan, p.options)
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	job := pipeline.NewLive(pipeline.LiveConfig{
		Source: p.source, Reopen: p.input.open, Reconnect: p.input.reconnects, Interrupt: p.input.interrupt,
		Levels:   p.levels,
		Estimate: func(level int) (time.Duration, bool) { return s.estimate(p, level) },
		Sink:     sink, Frames: s.frames, Luma: s.planes, Scale: p.options.Scale,
		Latency: p.set.latency, Hold: p.set.hold, Paced: p.set.paced || p.input.paced, Notify: s.notify(ctx),
	})
	s.job.Store(&running{job})
	if p.input.reconnects {
		// There are no chunks; the end of the client's stream is its wish to end the job.
		go func() {
			_, _ = io.Copy(io.Discard, s.input) // ends with the stream or with the job
			job.Stop()
		}()
	}
	err = job.Run(ctx)
	s.server.metrics.jobDone(job.Progress())
	if err != nil {
		return nil, err
	}
	return s.summary(job.Progress()), nil
}

// network is what live jobs may reach.
func (s *Server) network() *live.Network {
	if s.cfg.Network == nil {
		return &live.Network{} // nothing
	}
	return s.cfg.Network
}

// checkAddresses refuses addresses before anything is spent, and settles the container for those that take only one.
func (s *session) checkAddresses(o *encode.Options) error {
	l := s.start.GetLive()
	if l.GetSource() != "" {
		if err := s.server.network().CheckSource(l.GetSource()); err != nil {
			return &addressError{"start.live.source", err}
		}
	}
	if l.GetSink() == "" {
		return nil
	}
	if err := s.server.network().CheckSink(l.GetSink()); err != nil {
		return &addressError{"start.live.sink", err}
	}
	if o.Container != encode.ContainerAuto && o.Container != encode.ContainerMPEGTS {
		return &protocolError{"start.output.container", "what is sent to an address is MPEG-TS at first; leave the container out"}
	}
	if o.Live.Segment > 0 {
		return &protocolError{"start.live.segment", "what is sent to an address has no files; leave out the segments"}
	}
	return nil
}

// addressError says that an address of a live job is refused or cannot be used.
type addressError struct {
	field string
	err   error
}

func (e *addressError) Error() string { return e.err.Error() }
func (e *addressError) Unwrap() error { return e.err }

// remoteSink is where a live job's output goes instead of to its client.
type remoteSink struct{ live.Sink }

// sinkWriter writes the muxer's bytes to an address. They are MPEG-TS, front to back.
type sinkWriter struct {
	session *session
	sink    live.Sink
}

// WriteAt implements encode.Output.
func (w *sinkWriter) WriteAt(p []byte, _ int64) (int, error) {
	n, err := w.sink.Write(p)
	w.session.digest.Write(p[:n])
	w.session.bytesOut += uint64(n)
	return n, err
}

// Flush implements encode.Flusher.
func (w *sinkWriter) Flush() { w.sink.Flush() }

// sinkChanged tells of a sink's connections.
func (s *session) sinkChanged(ctx context.Context) func(live.SinkChange) {
	notify := s.notify(ctx)
	return func(c live.SinkChange) {
		text := c.Notice
		switch {
		case text != "":
		case c.Connected:
			text = "The sink takes the stream."
		case c.Err != nil:
			text = fmt.Sprintf("The sink does not take the stream (%v); it is tried again.", c.Err)
		default:
			text = "The sink is gone; it is tried again."
		}
		notify(notice.Notice{Code: notice.Connection, Text: text, Stream: notice.NoStream})
	}
}

// liveInput opens the source of a live job, and opens it again: the client's chunks, or an address.
type liveInput struct {
	connect    func(ctx context.Context) (io.ReadCloser, error)
	options    decode.Options
	reconnects bool   // there may be more after the end
	paced      bool   // what comes is ahead of its time
	stop       func() // ends what connect's readers share; may be nil

	mu      sync.Mutex
	current io.ReadCloser
	ended   bool // by interrupt
}

func (s *session) liveInput(notify notice.Func) *liveInput {
	in := &liveInput{options: s.decodeOptions(notify)}
	in.options.Live = true
	if s.start.GetLive().GetPaced() { // a file, which may have to be stored first
		in.options.Spool = s.spool
	}
	if addr := s.start.GetLive().GetSource(); addr != "" {
		in.reconnects = true
		in.connect = func(ctx context.Context) (io.ReadCloser, error) {
			return s.server.network().OpenSource(ctx, addr, func(text string) {
				notify(notice.Notice{Code: notice.StreamDropped, Text: text, Stream: notice.NoStream})
			})
		}
		return in
	}
	// The chunks are read on after the streams have changed: only the end of the job ends them.
	in.connect = func(context.Context) (io.ReadCloser, error) { return io.NopCloser(s.input), nil }
	in.stop = func() { _ = s.input.CloseWithError(context.Canceled) } // never fails
	return in
}

// open connects and looks at the streams, whose frames are to be like those of like when that is not nil. With unread, the
// connection that there is goes on, and this is what was read of it already.
func (in *liveInput) open(ctx context.Context, like *av.Media, unread []byte) (*decode.Source, error) {
	r, err := in.reader(ctx, unread)
	if err != nil {
		return nil, err
	}
	in.mu.Lock()
	ended := in.ended
	in.mu.Unlock()
	if ended {
		in.close()
	}
	// While the streams are looked at, ctx must be able to end waiting; later interrupt does.
	defer context.AfterFunc(ctx, in.interrupt)()
	options := in.options
	options.Like = like
	source, err := decode.Open(ctx, r, options)
	if err != nil {
		in.close() // the next attempt is to have a connection of its own
	}
	return source, err
}

// openFirst is open for the first time. A source that is not there yet is waited for as long as one that is gone would be.
func (in *liveInput) openFirst(ctx context.Context, patience time.Duration, notify notice.Func) (*decode.Source, error) {
	told := false
	open := func() (*decode.Source, error) {
		source, err := in.open(ctx, nil, nil)
		if err == nil {
			return source, nil
		}
		var input *decode.InputError
		var refused *live.RefusedError
		var address *live.AddressError
		wrong := errors.As(err, &input) && input.Kind != decode.Empty || errors.As(err, &refused) || errors.As(err, &address)
		if !in.reconnects || wrong || ctx.Err() != nil {
			return nil, backoff.Permanent(err)
		}
		if !told {
			told = true
			notify(notice.Notice{Code: notice.Connection, Stream: notice.NoStream,
				Text: fmt.Sprintf("The source cannot be read yet (%v); it is tried again for up to %v.", err, patience)})
		}
		return nil, err
	}
	source, err := backoff.Retry(ctx, open, backoff.WithBackOff(live.Backoff()), backoff.WithMaxElapsedTime(max(patience, time.Nanosecond)))
	if err != nil && told {
		return nil, &pipeline.SourceGoneError{After: patience, Err: err}
	}
	return source, err
}

// reader returns the current connection's bytes from unread on, or those of a new connection.
func (in *liveInput) reader(ctx context.Context, unread []byte) (io.Reader, error) {
	in.mu.Lock()
	current := in.current
	in.mu.Unlock()
	if current != nil && unread != nil {
		return io.MultiReader(bytes.NewReader(unread), current), nil
	}
	in.close()
	r, err := in.connect(ctx)
	if err != nil {
		return nil, err
	}
	in.mu.Lock()
	in.current = r
	in.mu.Unlock()
	return r, nil
}

// interrupt ends the current connection and all that may follow.
func (in *liveInput) interrupt() {
	in.mu.Lock()
	in.ended = true
	in.mu.Unlock()
	if in.stop != nil {
		in.stop()
	}
	in.close()
}

// close ends the current connection.
func (in *liveInput) close() {
	if in == nil {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.current != nil {
		in.current.Close()
		in.current = nil
	}
}
