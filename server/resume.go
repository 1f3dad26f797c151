package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"upscaler/decode"
	"upscaler/encode"
	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/internal/notice"
)

// resumed is an interrupted output that the client sends before its input. The call's receiving goroutine fills it; once done
// is closed it is the job's. A nil resumed is none.
type resumed struct {
	size  uint64
	spool decode.Spool
	got   atomic.Uint64
	done  chan struct{}
}

// newResumed makes room for the interrupted output that a Start announces; nil when it announces none.
func (s *Server) newResumed(start *upscalev1.Start) (*resumed, error) {
	if start.GetResume() == nil {
		return nil, nil
	}
	size := start.GetResume().GetSize()
	switch {
	case !start.GetOutput().GetSeekable():
		return nil, &protocolError{"start.resume", "only an output that takes chunks at their offsets (output.seekable) can be gone on with"}
	case size > uint64(s.limits.MaxSpool):
		return nil, &decode.SpoolLimitError{Limit: s.limits.MaxSpool}
	case s.limits.MaxUpload > 0 && size > uint64(s.limits.MaxUpload):
		return nil, errTooMuch
	}
	spool, err := decode.NewSpool(s.cfg.SpoolDir, s.limits.MaxSpool)
	if err != nil {
		return nil, err
	}
	r := &resumed{size: size, spool: spool, done: make(chan struct{})}
	if size == 0 {
		close(r.done)
	}
	return r, nil
}

// close frees the storage.
func (r *resumed) close() {
	if r != nil {
		_ = r.spool.Close()
	}
}

// bytes returns how much has come.
func (r *resumed) bytes() uint64 {
	if r == nil {
		return 0
	}
	return r.got.Load()
}

// receiver returns a function that receives the input's chunks, after it has stored those of the interrupted output.
func (r *resumed) receiver(recv func() (*upscalev1.UpscaleRequest, error)) func() (*upscalev1.Chunk, error) {
	return func() (*upscalev1.Chunk, error) {
		for {
			m, err := recv()
			if err == nil && m.GetResumed() != nil {
				if err = r.add(m.GetResumed().GetData()); err == nil {
					continue
				}
				return nil, err
			}
			if r != nil && r.got.Load() < r.size && (err == nil || errors.Is(err, io.EOF)) {
				return nil, &protocolError{"resumed", fmt.Sprintf("the interrupted output has %d bytes, %d were announced", r.got.Load(), r.size)}
			}
			return chunkOf(m.GetChunk(), err)
		}
	}
}

func (r *resumed) add(data []byte) error {
	if r == nil || r.got.Load()+uint64(len(data)) > r.size {
		return &protocolError{"resumed", "the client sent more of an interrupted output than it announced"}
	}
	if len(data) == 0 {
		return nil
	}
	if _, err := r.spool.Write(data); err != nil {
		return err
	}
	if r.got.Add(uint64(len(data))) == r.size {
		close(r.done)
	}
	return nil
}

// open looks through the interrupted output for what the planned one can keep of it.
func (r *resumed) open(ctx context.Context, plan *encode.Layout, notify notice.Func) (*decode.Interrupted, error) {
	select {
	case <-r.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	k, err := decode.OpenInterrupted(ctx, r.spool, int64(r.size),
		decode.EncodedVideo{Codec: plan.CodecName(), Width: plan.Width, Height: plan.Height, Order: plan.VideosBefore},
		decode.Limits{MaxPixels: int64(plan.Width) * int64(plan.Height)})
	if err != nil {
		return nil, err
	}
	n := notice.Notice{Code: notice.Resumed, Stream: notice.NoStream,
		Text: fmt.Sprintf("The interrupted output is gone on with after %.1f s: its first %d pictures are used as they are.", k.Seconds(), k.Frames())}
	if k.Frames() == 0 {
		n.Text = "Nothing of the interrupted output can be used; the work begins anew."
	}
	notify(n)
	return k, nil
}
