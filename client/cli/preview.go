package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"upscaler/client"
	upscalev1 "upscaler/gen/upscale/v1"
)

const (
	// maxPreviews is the most samples of one video. Each costs reading the video up to it, twice.
	maxPreviews = 20
	// previewLength is how long a sample's clip is.
	previewLength = 2 * time.Second
)

// previewBase returns what the names of a task's samples begin with: video for video.mp4 and for video.x2.mp4.
func previewBase(out string) string {
	if m := earlierResult.FindStringSubmatch(out); m != nil {
		return m[1]
	}
	return strings.TrimSuffix(out, filepath.Ext(out))
}

// previewNames returns the names of a sample's picture and clip; samples count from 1.
func (t *task) previewNames(number int) (picture, clip string) {
	base := fmt.Sprintf("%s.preview-%d", previewBase(t.out), number)
	return base + ".png", base + filepath.Ext(t.out)
}

// runPreview upscales n samples of a video, spread over it: a picture and a clip of each, with bicubic interpolation beside the model.
func (a *app) runPreview(ctx context.Context, f *upscaleFlags, c *session, t *task, report reporter) (*result, error) {
	began := time.Now()
	file, err := os.Open(t.in)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	in := &meter{file, &t.sent}
	start := f.start(filepath.Base(t.in), t.size, t.container)
	start.Compare = true
	probe, err := c.Probe(ctx, start, in)
	if err != nil {
		return nil, c.explain(err)
	}
	if probe.GetAccepted().GetOutput() == nil {
		return nil, &client.ProtocolError{Text: "the server does not say what the output will be"}
	}
	from, length := time.Duration(f.from), probe.GetAccepted().GetOutput().GetDuration().AsDuration()
	n := f.preview
	if length <= 0 && n > 1 {
		return nil, errors.New("the video does not say how long it is, so samples cannot be spread over it; use --preview 1")
	}
	total := &result{accepted: probe.GetAccepted(), summary: &upscalev1.Summary{}}
	// These are of the whole, which is not what is done.
	total.accepted.Output.Duration, total.accepted.EstimatedTime, total.accepted.EstimatedFrames = nil, nil, 0
	report.event(t, client.Event{Accepted: total.accepted})
	for i := range n {
		// In the middle of the i-th of n equal pieces.
		at := from + max(0, length*time.Duration(2*i+1)/time.Duration(2*n)-previewLength/2)
		picture, clip := t.previewNames(i + 1)
		report.say(fmt.Sprintf("%s: sample %d of %d, at %s", t.name(), i+1, n, formatDuration(at)))
		for _, out := range []string{picture, clip} {
			job := proto.CloneOf(start)
			job.StartTime = durationpb.New(at)
			if out == clip {
				job.Duration = durationpb.New(previewLength)
			} else {
				job.Output = &upscalev1.Output{Container: upscalev1.Container_CONTAINER_PNG}
				job.Duration, job.StartTime = nil, durationpb.New(at+min(previewLength, length)/2)
				if length <= 0 {
					job.StartTime = durationpb.New(at)
				}
			}
			if err := a.runSample(ctx, f, c, in, job, out, total, func(fraction float64) {
				report.event(t, client.Event{Progress: &upscalev1.Progress{
					FramesEncoded: total.summary.GetFramesEncoded(), Fraction: proto.Float64((float64(i) + fraction) / float64(n))}})
			}); err != nil {
				return nil, err
			}
		}
	}
	total.elapsed = time.Since(began)
	return total, nil
}

// runSample makes one file of a preview and adds it to total.
func (a *app) runSample(ctx context.Context, f *upscaleFlags, c *session, in io.ReadSeeker, start *upscalev1.Start, path string, total *result,
	progress func(fraction float64)) error {
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil { //nolint:gosec // the umask decides
		return fmt.Errorf("make the output's folder: %w", err)
	}
	file, err := client.CreateFile(path, f.overwrite)
	if errors.Is(err, fs.ErrExist) {
		err = errExists(path)
	}
	if err != nil {
		return err
	}
	defer file.Abort()
	out := client.ToFile(file)
	summary, err := c.Upscale(ctx, client.Job{Settings: start, In: in, Out: out, Patience: patience(f.wait), On: func(e client.Event) {
		if e.Progress != nil {
			progress(e.Progress.GetFraction())
		}
	}})
	if err != nil {
		return c.explain(err)
	}
	if err := file.Commit(); err != nil {
		return err
	}
	total.size += out.Size()
	total.summary.FramesEncoded += summary.GetFramesEncoded()
	total.summary.FramesDecoded += summary.GetFramesDecoded()
	return nil
}
