package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/durationpb"

	"upscaler/decode"
	"upscaler/encode"
	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/internal/frame"
	"upscaler/internal/notice"
	"upscaler/server/pipeline"
	"upscaler/sr"
)

// session is one job of one call, from the client's Start to the Summary. These goroutines work for it: the call's handler,
// which runs the job; one that receives the client's chunks; one that sends; one that watches and reports progress; and the
// pipeline's two.
type session struct {
	server *Server
	id     string
	log    *slog.Logger
	start  *upscalev1.Start
	began  time.Time

	cancel context.CancelCauseFunc
	input  *io.PipeReader
	out    chan *upscalev1.UpscaleResponse // read by the sending goroutine; every message is at most sendChunk and its framing

	frames, planes *frame.Pool // decoded frames, upscaled luma

	resumed     *resumed // an interrupted output to go on with; nil for none
	digest      hash.Hash
	remote      atomic.Pointer[remoteSink] // of a live job that has one
	job         atomic.Pointer[running]    // once it runs
	expected    atomic.Uint64              // frames, as Accepted says
	notices     atomic.Int64
	liveNotices *rate.Limiter
	received    atomic.Uint64 // bytes of input
	sent        atomic.Uint64 // messages the client has taken, as far as gRPC tells
	bytesOut    uint64        // owned by the pipeline's sink until Run returns
}

// running is a job at work, of a file or live.
type running struct {
	job interface{ Progress() pipeline.Progress }
}

// prepared is a job whose input has been looked at and whose output is decided, before any frame is decoded.
type prepared struct {
	source   *decode.Source
	engine   *sr.Job
	plan     *encode.Layout
	options  encode.Options
	kept     *decode.Interrupted // nil for none
	accepted *upscalev1.Accepted
}

func (p *prepared) close() {
	if p.kept != nil {
		p.kept.Close()
	}
	if p.engine != nil {
		p.engine.Close()
	}
	if p.source != nil {
		media := p.source.Media()
		p.source.Close()
		media.Free()
	}
}

func (s *Server) newSession(start *upscalev1.Start, cancel context.CancelCauseFunc, input *io.PipeReader) *session {
	id := rand.Text()[:10]
	return &session{
		server: s, id: id, start: start, began: time.Now(),
		log:    s.log.With("job", id),
		cancel: cancel, input: input,
		out:    make(chan *upscalev1.UpscaleResponse, sendQueue),
		frames: frame.NewPool(s.limits.FrameMemory), planes: frame.NewPool(s.limits.PlaneMemory),
		digest:      sha256.New(),
		liveNotices: rate.NewLimiter(liveNoticeRate, maxNotices),
	}
}

// heldBytes is the frame memory the job holds now.
func (s *session) heldBytes() int64 { return s.frames.InUse() + s.planes.InUse() }

func (s *session) logger() *slog.Logger { return s.log }

// prepare opens the input, finds the model and lays out the output.
func (s *session) prepare(ctx context.Context, notify notice.Func) (*prepared, error) {
	srv := s.server
	options, err := encodeOptions(s.start)
	if err != nil {
		return nil, err
	}
	if _, known := upscalev1.Deinterlace_name[int32(s.start.GetDeinterlace())]; !known {
		return nil, &protocolError{"start.deinterlace", "this way to deinterlace is not known to this server"}
	}
	options.Compare = s.start.GetCompare()
	options.Threads, options.Notify = srv.cfg.CodecThreads, notify
	spec, err := modelSpec(s.start)
	if err != nil {
		return nil, err
	}
	part, err := partOf(s.start)
	if err != nil {
		return nil, err
	}
	if options.Container == encode.ContainerPNG {
		part.Pictures = 1
	}
	p := &prepared{}
	// The model first: a name that does not exist should not cost the client an upload.
	if p.engine, err = srv.cfg.Scheduler.Open(ctx, spec); err != nil {
		return nil, err
	}
	input := s.decodeOptions(notify)
	input.Spool = s.spool
	input.FieldRate = s.start.GetFieldRate()
	input.Stills = options.Container == encode.ContainerPNG || options.Container == encode.ContainerPNGSequence
	input.Part = part
	p.source, err = decode.Open(ctx, s.input, input)
	if err != nil {
		p.close()
		return nil, err
	}
	options.Scale = p.engine.Model().Scale
	if p.plan, err = encode.Plan(p.source.Media(), options); err != nil {
		p.close()
		return nil, err
	}
	for _, n := range p.plan.Notices {
		notify(n)
	}
	if s.resumed != nil {
		if p.kept, err = s.resumed.open(ctx, p.plan, notify); err != nil {
			p.close()
			return nil, err
		}
		options.Kept = p.kept
	}
	p.options = options
	p.accepted = s.describe(p)
	return p, nil
}

// decodeOptions are those that every job's decoder has.
func (s *session) decodeOptions(notify notice.Func) decode.Options {
	return decode.Options{
		Name:        s.start.GetInput().GetName(),
		Limits:      decode.Limits{MaxPixels: s.server.limits.MaxInputPixels},
		Pool:        s.frames,
		Notify:      notify,
		Threads:     s.server.cfg.CodecThreads,
		Deinterlace: decode.Deinterlace(s.start.GetDeinterlace()),
	}
}

// spool makes the storage for an upload that cannot be read as a stream.
func (s *session) spool() (decode.Spool, error) {
	return decode.NewSpool(s.server.cfg.SpoolDir, s.server.limits.MaxSpool)
}

// run works the whole job and returns what to say at its end, or the error that ended it, in the rooms' own types.
func (s *session) run(ctx context.Context) (summary *upscalev1.Summary, err error) {
	defer func() {
		// A panic in one job is a bug to be fixed, but not a reason to end the others.
		if r := recover(); r != nil {
			s.log.Error("panic", "value", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("an internal error ended the job; its number in the server's log is %s", s.id)
		}
	}()
	switch s.start.GetMode() {
	case upscalev1.Mode_MODE_UNSPECIFIED:
	case upscalev1.Mode_MODE_LIVE:
		return s.runLive(ctx)
	default:
		return nil, &protocolError{"start.mode", "this mode is not known to this server"}
	}
	p, err := s.prepare(ctx, s.notify(ctx))
	if err != nil {
		return nil, err
	}
	defer p.close()
	s.expected.Store(p.accepted.GetEstimatedFrames())
	if err := s.send(ctx, &upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Accepted{Accepted: p.accepted}}); err != nil {
		return nil, err
	}
	sink, err := encode.Open(ctx, &chunkWriter{session: s, ctx: ctx}, p.source.Media(), p.plan, p.options)
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	job := &pipeline.Job{Source: p.source, Engine: p.engine, Sink: sink, Luma: s.planes}
	s.job.Store(&running{job})
	err = job.Run(ctx)
	s.server.metrics.jobDone(job.Progress())
	if err != nil {
		return nil, err
	}
	return s.summary(job.Progress()), nil
}

// startWatch runs watch in a goroutine of its own until the returned function is called, which waits for its end.
func (s *session) startWatch(ctx context.Context, send func(*upscalev1.Progress)) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.watch(ctx, send)
	}()
	return func() {
		cancel()
		<-done
	}
}

// watch ends a job that makes no progress, and sends the progress it makes, until ctx ends. send may drop a message.
func (s *session) watch(ctx context.Context, send func(*upscalev1.Progress)) {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	var meter *meter
	var last uint64
	lastChange := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			activity := s.received.Load() + s.resumed.bytes() + s.sent.Load()
			if job := s.job.Load(); job != nil {
				if meter == nil {
					size := s.start.GetInput().GetSize()
					if s.start.GetStartTime() != nil || s.start.GetDuration() != nil {
						size = 0 // how much of the file a part takes is not known
					}
					meter = newMeter(s.expected.Load(), size)
				}
				pr := job.job.Progress()
				activity += pr.Skipped + pr.Decoded + pr.Encoded
				p := meter.progress(now, pr)
				if remote := s.remote.Load(); remote != nil && p.GetLive() != nil {
					st := remote.Stats()
					p.Live.SinkReconnects, p.Live.DroppedSink = uint32(st.Reconnects), uint64(st.DroppedFrames)
					p.Live.QueuedBytes = uint64(st.QueuedBytes)
				}
				send(p)
			}
			if activity != last {
				last, lastChange = activity, now
			} else if now.Sub(lastChange) > s.server.limits.StallTimeout {
				s.cancel(errStalled)
				return
			}
		}
	}
}

// trySend queues a progress message unless the queue is full: a client that does not keep up with the video needs no
// more to read, and the next progress will do.
func (s *session) trySend(p *upscalev1.Progress) {
	select {
	case s.out <- &upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Progress{Progress: p}}:
	default:
	}
}

// notify returns what the rooms report notices to.
func (s *session) notify(ctx context.Context) notice.Func {
	return func(n notice.Notice) {
		s.log.Info("notice", "code", int(n.Code), "text", n.Text)
		if !s.mayTell() {
			return
		}
		// An error means that the job is ending, which its own goroutines learn from ctx.
		_ = s.send(ctx, &upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Notice{Notice: noticeMessage(n)}})
	}
}

// mayTell bounds the notices: all of a file's, those of a running stream in time.
func (s *session) mayTell() bool {
	if s.start.GetMode() == upscalev1.Mode_MODE_LIVE {
		return s.liveNotices.Allow()
	}
	return s.notices.Add(1) <= maxNotices
}

// send queues a message for the sending goroutine, waiting while the queue is full.
func (s *session) send(ctx context.Context, m *upscalev1.UpscaleResponse) error {
	select {
	case s.out <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *session) summary(pr pipeline.Progress) *upscalev1.Summary {
	return &upscalev1.Summary{
		FramesDecoded: pr.Decoded,
		FramesEncoded: pr.Encoded,
		BytesIn:       s.received.Load(),
		BytesOut:      s.bytesOut,
		Sha256:        s.digest.Sum(nil),
		Elapsed:       durationpb.New(time.Since(s.began)),
		Stages:        stageTimes(pr.Stages),
	}
}

// receive copies the client's chunks into the pipe that the decoder reads, until the client half-closes. Nothing is
// buffered here: while the decoder does not read, the client's flow-control window fills and the client waits.
func (s *session) receive(recv func() (*upscalev1.Chunk, error), input *io.PipeWriter) {
	for {
		chunk, err := recv()
		if errors.Is(err, io.EOF) {
			input.Close()
			return
		}
		if err != nil {
			s.cancel(err)
			input.CloseWithError(err)
			return
		}
		if n := s.received.Add(uint64(len(chunk.GetData()))); s.server.limits.MaxUpload > 0 && n > uint64(s.server.limits.MaxUpload) {
			s.cancel(errTooMuch)
			return
		}
		if _, err := input.Write(chunk.GetData()); err != nil {
			if errors.Is(err, io.ErrClosedPipe) {
				continue // the decoder has all it wants; what the client still sends is read and dropped
			}
			return
		}
	}
}

// chunkWriter sends what the muxer writes as chunks with offsets.
type chunkWriter struct {
	*session
	ctx  context.Context // of the job; encode calls WriteAt from within its own calls, which carry no other
	file uint32          // number of the current file
}

// EndFile implements encode.Files.
func (w *chunkWriter) EndFile(duration time.Duration) error {
	chunk := &upscalev1.Chunk{File: w.file, FileDuration: durationpb.New(duration)}
	w.file++
	return w.send(w.ctx, &upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Chunk{Chunk: chunk}})
}

func (w *chunkWriter) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n := min(len(p)-done, sendChunk)
		data := make([]byte, n) // gRPC may hold on to it after Send has returned
		copy(data, p[done:])
		w.digest.Write(data)
		chunk := &upscalev1.Chunk{Data: data, Offset: uint64(off) + uint64(done), File: w.file}
		if err := w.send(w.ctx, &upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Chunk{Chunk: chunk}}); err != nil {
			return done, err
		}
		done += n
		w.bytesOut += uint64(n)
	}
	return done, nil
}

var _ encode.Files = (*chunkWriter)(nil)
