package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"upscaler/client"
	upscalev1 "upscaler/gen/upscale/v1"
)

// upscaleFlags are the flags of upscale beside those that describe the job.
type upscaleFlags struct {
	settings
	output       string
	overwrite    bool
	skipExisting bool
	resume       bool
	preview      int
	json         bool
	wait         time.Duration
}

func (a *app) upscaleCommand() *cobra.Command {
	f := &upscaleFlags{}
	cmd := &cobra.Command{
		Use:   "upscale INPUT...",
		Short: "Upscale videos",
		Long: `Upscales videos, and folders of videos. Each result lies beside its original, named video.x2.mp4 after video.mp4, unless
--output says otherwise. Nothing is overwritten unasked. While a result grows it has a temporary name; after an interruption, whatever
the cause, the same command with --resume goes on with it.

A - as INPUT is standard input; as --output it is standard output.`,
		Example: `  sr-client upscale video.mp4
  sr-client upscale in.mkv -o out.mkv --scale 4 --server gpu-box:50051
  sr-client upscale *.mp4 holiday/ -o upscaled/
  sr-client upscale in.ts --codec hevc --crf 20 --preset slow -o out.mp4
  sr-client upscale film.mkv --preview 3
  sr-client upscale film.mkv --resume
  sr-client upscale film.mkv -o 'frames/%06d.png'
  sr-client upscale film.mkv --start 1:02:30 --duration 10 -o sample.mkv
  ffmpeg -i rtmp://camera/live -c copy -f matroska - | sr-client upscale - | mpv -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.upscale(cmd.Context(), f, args)
		},
	}
	f.addFlags(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&f.output, "output", "o", "", "name of the result, or a folder for the results; - is standard output")
	flags.BoolVar(&f.overwrite, "overwrite", false, "replace files that exist")
	flags.BoolVar(&f.skipExisting, "skip-existing", false, "leave out inputs whose result exists")
	flags.BoolVar(&f.resume, "resume", false, "go on where an interrupted run of the same command was; results that exist are left out")
	flags.DurationVar(&f.wait, "wait", client.DefaultPatience, "how long to keep asking a server that is full")
	flags.BoolVar(&f.json, "json", false, "tell what happens as JSON, one event a line, on standard output\n(on standard error when the video goes to standard output)")
	flags.IntVar(&f.preview, "preview", 0, "upscale only `N` short samples spread over the video, each beside bicubic interpolation:\nvideo.preview-1.png and video.preview-1.mp4 of video.mp4, and so on")
	cmd.MarkFlagsMutuallyExclusive("overwrite", "skip-existing")
	cmd.MarkFlagsMutuallyExclusive("preview", "resume")
	cmd.MarkFlagsMutuallyExclusive("preview", "skip-existing")
	return cmd
}

// upscale runs the command: all tasks one after the other, since a server spends all it has on one job, too.
func (a *app) upscale(ctx context.Context, f *upscaleFlags, args []string) error {
	if err := f.check(); err != nil {
		return err
	}
	if args[0] == standard && isTerminal(a.stdin) {
		return usagef("standard input is a terminal; pipe a video into it")
	}
	if f.preview < 0 || f.preview > maxPreviews || f.preview == 0 && f.command.Flags().Changed("preview") {
		return usagef("--preview must be from 1 to %d", maxPreviews)
	}
	// Before a server is bothered or started, find what cannot work. The scale may be a wrong one yet, and with it some names.
	if _, err := planTasks(args, f.output, &f.settings, isTerminal(a.stdout)); err != nil {
		return err
	}
	toStdout := f.output == standard || (f.output == "" && args[0] == standard)
	report := a.newReporter(f.json, toStdout, len(args) > 1 || isFolder(args[0]))
	defer report.close()

	var server *session
	defer func() {
		if server != nil {
			server.close()
		}
	}()
	connect := func() (err error) {
		if server == nil {
			server, err = a.connect(ctx, report.say)
		}
		return err
	}
	if f.modelDecidesScale() {
		if err := connect(); err != nil {
			return err
		}
		if err := f.resolveScale(ctx, server); err != nil {
			return err
		}
	}
	tasks, err := planTasks(args, f.output, &f.settings, isTerminal(a.stdout))
	if err != nil {
		return err
	}
	if f.resume && tasks[0].sequence {
		return usagef("a sequence of pictures cannot be resumed: its pictures are whole; use --start for those that are missing")
	}
	for _, t := range tasks {
		if t.preview = f.preview; f.preview > 0 && (t.in == standard || t.size == 0 || t.toStream || t.sequence || t.container == upscalev1.Container_CONTAINER_PNG) {
			return usagef("--preview makes videos and pictures of a video in a file; %s is none, or its result is none", t.name())
		}
	}
	report.plan(tasks)

	var failed []error
	for _, t := range tasks {
		if (f.skipExisting || f.resume && !f.overwrite) && !t.toStream && exists(t.out) {
			report.skip(t)
			continue
		}
		report.begin(t)
		err := t.checkFiles(f.overwrite)
		if err == nil {
			err = connect()
		}
		var done *result
		if err == nil && t.preview > 0 {
			done, err = a.runPreview(ctx, f, server, t, report)
		} else if err == nil {
			done, err = a.runTask(ctx, f, server, t, report)
		}
		if err != nil && ctx.Err() != nil {
			var kept *keptError
			if errors.As(err, &kept) {
				err = &keptError{context.Cause(ctx), kept.kept}
			} else {
				err = context.Cause(ctx)
			}
		}
		report.end(t, done, err)
		if err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	report.close()
	if len(failed) > 0 {
		return &reportedError{failed[len(failed)-1]}
	}
	return nil
}

// result is what a task has come to.
type result struct {
	accepted *upscalev1.Accepted
	summary  *upscalev1.Summary
	size     uint64        // of the output in bytes
	elapsed  time.Duration // from the start of the upload to the file's final name
}

// runTask upscales one input.
func (a *app) runTask(ctx context.Context, f *upscaleFlags, c *session, t *task, report reporter) (*result, error) {
	began := time.Now()
	name := "stdin"
	// A terminal or a pipe is hidden behind a plain reader: nothing but its bytes can be had from it.
	in := io.Reader(struct{ io.Reader }{a.stdin})
	if t.in != standard {
		file, err := os.Open(t.in)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }()
		in, name = &meter{file, &t.sent}, filepath.Base(t.in)
	}

	out, file, closeOut, err := a.openOutput(t, f.overwrite)
	if err != nil {
		return nil, err
	}
	defer closeOut()

	job := client.Job{Settings: f.start(name, t.size, t.container), In: in, Out: out, Patience: patience(f.wait)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var k *keeper
	if t.canKeep() {
		input := client.NewFingerprint(in.(io.ReadSeeker), t.size)
		k = &keeper{file: file.(*client.File), input: input, before: client.FindInterrupted(t.out), cancel: cancel}
		job.In = input
		switch {
		case k.before != nil && f.resume:
			var partial *os.File
			if job.Resume, partial, err = k.resume(ctx, job.Settings, input, t, report); err != nil {
				return nil, err
			}
			defer func() { _ = partial.Close() }()
		case k.before != nil:
			report.say(fmt.Sprintf("%s: an interrupted run has left %s of the result; --resume would go on with it, this run begins anew",
				t.name(), formatSize(uint64(k.before.Size())))) //nolint:gosec // positive
		}
	}

	r := &result{}
	job.On = func(e client.Event) {
		if e.Accepted != nil {
			r.accepted = e.Accepted
		}
		k.event(e, report)
		report.event(t, e)
	}
	if r.summary, err = c.Upscale(ctx, job); err != nil {
		return nil, k.leave(c.explain(err), report)
	}
	k.keep(report)
	if err := commit(file); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, errExists(t.out)
		}
		return nil, err
	}
	r.size, r.elapsed = out.Size(), time.Since(began)
	return r, nil
}

// patience turns the flag's 0, no waiting, into the client's way to say so.
func patience(wait time.Duration) time.Duration {
	if wait <= 0 {
		return -1
	}
	return wait
}

// committer is a result that gets its name at the end.
type committer interface{ Commit() error }

// commit gives a result its name; nil is a stream, which has one.
func commit(file committer) error {
	if file == nil {
		return nil
	}
	return file.Commit()
}

// openOutput opens what a task writes to; file is nil for a stream. The caller calls closeOut in the end, whose only effect on a
// file that has been committed or left is none.
func (a *app) openOutput(t *task, overwrite bool) (out *client.Output, file committer, closeOut func(), err error) {
	if t.out == standard {
		return client.ToStream(a.stdout), nil, func() {}, nil
	}
	if t.toStream {
		file, err := os.OpenFile(t.out, os.O_WRONLY, 0)
		if err != nil {
			return nil, nil, nil, err
		}
		return client.ToStream(file), nil, func() { _ = file.Close() }, nil
	}
	if err := os.MkdirAll(filepath.Dir(t.out), 0o777); err != nil { //nolint:gosec // the umask decides
		return nil, nil, nil, fmt.Errorf("make the output's folder: %w", err)
	}
	if t.sequence {
		s, err := client.NewSequence(t.out, overwrite)
		if err != nil {
			return nil, nil, nil, err
		}
		return client.ToFiles(s.Next), s, s.Abort, nil
	}
	growing, err := client.CreateFile(t.out, overwrite)
	if errors.Is(err, fs.ErrExist) {
		err = errExists(t.out)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	return client.ToFile(growing), growing, growing.Abort, nil
}
