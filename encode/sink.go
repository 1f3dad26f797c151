package encode

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/frame"

	"github.com/asticode/go-astiav"
)

// Sink encodes frames and multiplexes them with packets into one file. One goroutine uses it; only Stats may be called from
// others.
type Sink struct {
	video *video
	mux   *mux
	kept  *kept
	busy  atomic.Int64 // nanoseconds
	err   error        // the first one; nothing works after it
	done  bool
}

// Stats says what a Sink has done so far.
type Stats struct {
	Frames   int64         // taken
	Packets  int64         // encoded frames written; equals Frames after Finish, or Finish fails
	BytesOut int64         // length of the file so far
	Position int64         // PTS of the last frame taken, in the input video's time base
	Busy     time.Duration // time spent working, without waiting for the Output
}

var errClosed = errors.New("the output is finished or closed")

// Open starts the encoder and sets up the file, whose bytes go to out from the first frame on. The plan is Plan's answer for the
// same m and o. m must stay until Close. After an error nothing is left to close.
func Open(ctx context.Context, out Output, m *av.Media, plan *Layout, o Options) (*Sink, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if o.Threads <= 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	start := time.Now()
	of := astiav.FindOutputFormat(plan.Muxer)
	if of == nil {
		return nil, &UnsupportedError{Text: "This server's FFmpeg was built without the " + plan.container.label + " format."}
	}
	v, err := openVideo(m, plan, of.Flags().Has(astiav.IOFormatFlagGlobalheader), o.Threads)
	if err != nil {
		return nil, err
	}
	k := &kept{}
	if o.Kept != nil {
		if k, err = newKept(o.Kept, plan, v.codec); err != nil {
			v.close()
			return nil, err
		}
	}
	x, err := openMux(out, m, plan, v.codec, v.rate, o)
	if err != nil {
		v.close()
		return nil, err
	}
	s := &Sink{video: v, mux: x, kept: k}
	s.busy.Store(int64(time.Since(start)) - x.file.blocked.Load())
	return s, nil
}

// WriteFrame encodes the picture of f, with luma for its first plane: scale times as wide and high and of the same depth. Frames
// come in presentation order. Neither is kept.
func (s *Sink) WriteFrame(ctx context.Context, f *frame.Frame, luma frame.Plane) error {
	return s.work(ctx, func() error { return s.video.encode(f, luma, s.mux.writeVideo) })
}

// WritePacket takes over a packet of another stream than the video. Packets of streams that the plan drops are freed.
func (s *Sink) WritePacket(ctx context.Context, p *av.Packet) error {
	taken := false
	err := s.work(ctx, func() error {
		taken = true
		return s.mux.writePacket(p)
	})
	if !taken {
		p.Free()
	}
	return err
}

// Finish encodes what is held back and completes the file.
func (s *Sink) Finish(ctx context.Context) error {
	err := s.work(ctx, func() error {
		if s.kept.left > 0 {
			return resumeError("The input has fewer pictures than the interrupted output: it is of another input.")
		}
		if err := s.video.drain(s.mux.writeVideo); err != nil {
			return err
		}
		return s.mux.finish()
	})
	s.done = true
	return err
}

// work runs f once the context and earlier calls allow it, and keeps the time and the first error.
func (s *Sink) work(ctx context.Context, f func() error) error {
	switch {
	case s.err != nil:
		return s.err
	case s.done:
		return errClosed
	}
	if s.err = context.Cause(ctx); s.err != nil {
		return s.err
	}
	start, blocked := time.Now(), s.mux.file.blocked.Load()
	s.err = f()
	s.busy.Add(int64(time.Since(start)) - (s.mux.file.blocked.Load() - blocked))
	return s.err
}

// Stats returns the counts so far. They stay readable after Close.
func (s *Sink) Stats() Stats {
	return Stats{
		Frames:   s.video.frames.Load(),
		Packets:  s.video.packets.Load(),
		BytesOut: s.mux.file.size.Load(),
		Position: s.video.position.Load(),
		Busy:     time.Duration(s.busy.Load()),
	}
}

// Close frees everything, after success and after errors alike. A file that is not finished stays incomplete. A second call
// does nothing.
func (s *Sink) Close() error {
	s.done = true
	s.mux.close()
	s.video.close()
	return nil
}
