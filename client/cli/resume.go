package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"upscaler/client"
	upscalev1 "upscaler/gen/upscale/v1"
)

const (
	// keepEvery is how often a growing result is made to survive the process and the power. What is lost is at most this and
	// the group of pictures that was going on; a disk takes some 10 ms for it.
	keepEvery = time.Second
	// checkTold is the size in bytes from which the check of an interrupted job's input is told of, and how often: it takes
	// longer than a second or two.
	checkTold  = 256 << 20
	checkEvery = 3 * time.Second
)

// keeper sees to it that a task's growing result can be gone on with. A nil keeper is for results that cannot.
type keeper struct {
	file     *client.File
	input    *client.Fingerprint
	settings *upscalev1.Start // as accepted; nil before
	before   *client.Interrupted
	resuming bool
	cancel   context.CancelCauseFunc // ends the job
	last     time.Time
	failed   bool
}

// canKeep tells whether a task's result can be gone on with: both ends are files, and the result is one growing video.
func (t *task) canKeep() bool {
	return t.in != standard && !t.toStream && t.size > 0 && !t.sequence && t.container != upscalev1.Container_CONTAINER_PNG
}

// event notes what the server tells.
func (k *keeper) event(e client.Event, report reporter) {
	switch {
	case k == nil:
	case e.Accepted != nil:
		k.settings = effective(e.Accepted.GetSettings())
		if k.resuming {
			if err := compareSettings(effective(k.before.Settings()), k.settings); err != nil {
				k.cancel(err)
			}
		}
	case e.Progress != nil && time.Since(k.last) >= keepEvery:
		k.keep(report)
		k.last = time.Now()
	}
}

// keep makes what there is survive. A failure is told once: the result itself may still come to its end.
func (k *keeper) keep(report reporter) {
	if k == nil || k.settings == nil || k.failed {
		return
	}
	if err := k.file.Keep(k.input, k.settings); err != nil {
		k.failed = true
		report.say(fmt.Sprintf("an interruption could not be resumed: %v", err))
	}
}

// leave decides what a failed task leaves behind, and returns the error with a sentence about it.
func (k *keeper) leave(failure error, report reporter) error {
	if k == nil {
		return failure
	}
	if !worthKeeping(failure) {
		k.file.Abort()
		return failure
	}
	k.keep(report)
	kept := k.file.Kept()
	k.file.Leave()
	switch {
	case kept > 0:
		return &keptError{failure, kept}
	case k.before != nil:
		return &keptError{failure, k.before.Size()}
	}
	return failure
}

// keptError is a failure after which the same command with --resume goes on.
type keptError struct {
	err  error
	kept int64 // bytes
}

func (e *keptError) Error() string { return e.err.Error() + "; " + e.remedy() }
func (e *keptError) Unwrap() error { return e.err }

func (e *keptError) remedy() string {
	return fmt.Sprintf("the same command with --resume goes on with the %s that are done", formatSize(uint64(max(e.kept, 0))))
}

// worthKeeping tells whether another try with the same input and settings may come further.
func worthKeeping(failure error) bool {
	var server *client.Error
	var settings *settingsError
	var protocol *client.ProtocolError
	switch {
	case errors.As(failure, &settings), errors.As(failure, &protocol):
		return false
	case errors.As(failure, &server):
		return server.Reason != "RESUME" && slices.Contains([]codes.Code{codes.Unavailable, codes.Aborted, codes.Canceled, codes.DeadlineExceeded,
			codes.ResourceExhausted, codes.Internal, codes.Unknown}, server.Code)
	}
	return true
}

// settingsError says that this run asks for something else than the interrupted one did.
type settingsError struct{ differences []string }

func (e *settingsError) Error() string {
	return "the interrupted run had other settings: " + strings.Join(e.differences, ", ") + "; use the same, or leave out --resume to begin anew"
}

// resumeError is a server's refusal to go on with what there is.
type resumeError struct{ err *client.Error }

func (e *resumeError) Error() string {
	return strings.TrimSuffix(e.err.Error(), ".") + "; leave out --resume to begin anew"
}
func (e *resumeError) Unwrap() error { return e.err }

// effective returns settings without what may differ between a job and one that goes on with it.
func effective(s *upscalev1.Start) *upscalev1.Start {
	s = proto.CloneOf(s)
	s.Device, s.Input, s.Resume, s.Strict = 0, nil, nil, false
	return s
}

// compareSettings returns a *settingsError when two jobs' effective settings differ.
func compareSettings(before, now *upscalev1.Start) error {
	differences := compareFields("", before.ProtoReflect(), now.ProtoReflect())
	if len(differences) == 0 {
		return nil
	}
	return &settingsError{differences}
}

func compareFields(prefix string, before, now protoreflect.Message) (differences []string) {
	fields := before.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		a, b := before.Get(f), now.Get(f)
		switch {
		case a.Equal(b) && before.Has(f) == now.Has(f):
		case f.Message() != nil && !f.IsMap() && f.Message().FullName() == "upscale.v1.Output":
			differences = append(differences, compareFields(prefix+f.TextName()+".", a.Message(), b.Message())...)
		default:
			differences = append(differences, fmt.Sprintf("%s was %s and is %s", prefix+f.TextName(), describeValue(f, before), describeValue(f, now)))
		}
	}
	return differences
}

func describeValue(f protoreflect.FieldDescriptor, m protoreflect.Message) string {
	if !m.Has(f) {
		return "not set"
	}
	v := m.Get(f)
	switch {
	case f.Enum() != nil:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			name := string(d.Name())
			return strings.ToLower(name[strings.LastIndex(name, "_")+1:])
		}
	case f.IsMap():
		var all []string
		v.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			all = append(all, key.String()+"="+value.String())
			return true
		})
		slices.Sort(all)
		return strings.Join(all, " ")
	case f.Message() != nil:
		return "another"
	}
	return printable(v.String())
}

// fillSettings gives to what the user has left open the values of the interrupted run, whatever the defaults are now.
func fillSettings(now, before *upscalev1.Start) {
	out, was := now.GetOutput(), before.GetOutput()
	if now.Model == "" {
		now.Model = before.GetModel()
	}
	if out.Codec == 0 {
		out.Codec = was.GetCodec()
	}
	if out.Crf == nil && out.Bitrate == 0 {
		out.Crf, out.Bitrate = was.Crf, was.GetBitrate()
	}
	if out.Preset == "" {
		out.Preset = was.GetPreset()
	}
	if out.Tune == "" {
		out.Tune = was.GetTune()
	}
	if len(out.EncoderOptions) == 0 {
		out.EncoderOptions = was.GetEncoderOptions()
	}
}

// checkInput makes sure that in, which has size bytes and is read from its beginning, is what the interrupted job had.
func checkInput(ctx context.Context, before *client.Interrupted, in io.ReadSeeker, t *task, report reporter) error {
	began := time.Now()
	told := began
	err := before.CheckInput(ctx, in, t.size, func(done, total int64) {
		if total >= checkTold && time.Since(told) >= checkEvery {
			told = time.Now()
			report.say(fmt.Sprintf("%s: checked %d %% of %s", t.name(), 100*done/total, formatSize(uint64(total)))) //nolint:gosec // positive
		}
	})
	if err != nil {
		return err
	}
	_, err = in.Seek(0, io.SeekStart)
	return err
}

// resume opens what an interrupted run of the task has left. The caller closes the file.
func (k *keeper) resume(ctx context.Context, start *upscalev1.Start, in io.ReadSeeker, t *task, report reporter) (*client.Resume, *os.File, error) {
	if was := k.before.Settings().GetScale(); was != start.GetScale() { // it decides the model, hence it is told before all else
		return nil, nil, &settingsError{[]string{fmt.Sprintf("scale was %d and is %d", was, start.GetScale())}}
	}
	if err := checkInput(ctx, k.before, in, t, report); err != nil {
		var changed *client.InputChangedError
		if errors.As(err, &changed) {
			err = fmt.Errorf("%w; leave out --resume to begin anew", err)
		}
		return nil, nil, err
	}
	fillSettings(start, k.before.Settings())
	partial, err := k.before.Open()
	if err != nil {
		return nil, nil, err
	}
	k.resuming = true
	return &client.Resume{Output: partial, Size: k.before.Size()}, partial, nil
}
