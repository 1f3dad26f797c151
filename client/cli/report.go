package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"upscaler/client"
	upscalev1 "upscaler/gen/upscale/v1"
)

// reporter tells the user how the tasks go. Its methods are called by one goroutine.
type reporter interface {
	plan(tasks []*task)                       // all that will be done, known before the first begins
	say(text string)                          // something beside the tasks
	begin(t *task)                            //
	event(t *task, e client.Event)            // between begin and end
	end(t *task, done *result, failure error) // one of done and failure is set
	skip(t *task)                             // instead of begin and end
	close()                                   // may be called twice
}

func (a *app) newReporter(asJSON, toStdout, several bool) reporter {
	switch {
	case asJSON && toStdout:
		return &jsonReporter{out: a.stderr, errors: io.Discard}
	case asJSON:
		return &jsonReporter{out: a.stdout, errors: a.stderr}
	case showsBars(a.stderr):
		return newBarReporter(a.stderr, several)
	default:
		return &lineReporter{out: a.stderr, several: several}
	}
}

// finalLine says what was written, its size, the time it took, and the speed.
func finalLine(t *task, r *result) string {
	s := r.summary
	line := fmt.Sprintf("%s: ", printable(t.outName()))
	if v := upscaledStream(r.accepted.GetOutput()); v != nil {
		line += fmt.Sprintf("%dx%d, ", v.GetVideo().GetWidth(), v.GetVideo().GetHeight())
	}
	line += fmt.Sprintf("%s, %s in %s", plural(s.GetFramesEncoded(), "frame"), formatSize(r.size), formatDuration(r.elapsed))
	if seconds := r.elapsed.Seconds(); seconds > 0 {
		line += fmt.Sprintf(" (%.1f fps", float64(s.GetFramesEncoded())/seconds)
		if d := r.accepted.GetOutput().GetDuration().AsDuration(); d > 0 {
			line += fmt.Sprintf(", %s real time", formatFactor(d.Seconds()/seconds))
		}
		line += ")"
	}
	return line
}

func failureLine(t *task, err error) string {
	if errors.Is(err, errInterrupted) {
		var kept *keptError
		if errors.As(err, &kept) {
			return fmt.Sprintf("%s: interrupted; %s", printable(t.name()), kept.remedy())
		}
		return fmt.Sprintf("%s: interrupted; nothing is left behind", printable(t.name()))
	}
	return fmt.Sprintf("sr-client: %s: %s", printable(t.name()), printableLines(err.Error()))
}

func busyLine(b *client.Busy) string {
	return fmt.Sprintf("%s; asking again in %s", printable(b.Reason.Error()), formatDuration(b.Pause))
}

// tally counts how tasks ended, for the last lines of a run of several.
type tally struct {
	done, skipped int
	failed        []string
}

func (y *tally) end(t *task, failure error) {
	if failure == nil {
		y.done++
	} else {
		y.failed = append(y.failed, failureLine(t, failure))
	}
}

// lines returns the end of the report on total tasks: a count, and the failures once more, in one place.
func (y *tally) lines(total int) []string {
	line := fmt.Sprintf("%d of %s upscaled", y.done, plural(uint64(total), "video")) //nolint:gosec // a count
	if y.skipped > 0 {
		line += fmt.Sprintf(", %d left out because the result exists", y.skipped)
	}
	if len(y.failed) == 0 {
		return []string{line}
	}
	return append([]string{line + fmt.Sprintf(", %d failed:", len(y.failed))}, y.failed...)
}

const (
	// lineEvery and lineStep make progress lines rare: one needs both, a log of hours stays short.
	lineEvery = 10 * time.Second
	lineStep  = 0.10
	// lineAnyway is when a line comes without the step, as a sign of life.
	lineAnyway = time.Minute
)

// lineReporter writes plain lines, for logs.
type lineReporter struct {
	out     io.Writer
	several bool
	tally   tally
	total   int

	last     time.Time
	fraction float64
}

func (r *lineReporter) line(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

func (r *lineReporter) plan(tasks []*task) { r.total = len(tasks) }

func (r *lineReporter) say(text string) { r.line("sr-client: %s", printable(text)) }

func (r *lineReporter) begin(t *task) {
	r.last, r.fraction = time.Now(), 0
	if t.note != "" {
		r.line("%s: %s", printable(t.name()), printable(t.note))
	}
}

func (r *lineReporter) event(t *task, e client.Event) {
	name := printable(t.name())
	switch {
	case e.Accepted != nil:
		r.line("%s: %s", name, describeJob(e.Accepted))
	case e.Notice != nil:
		r.line("%s: note: %s", name, printable(e.Notice.GetText()))
	case e.Busy != nil:
		r.line("%s: %s", name, busyLine(e.Busy))
	case e.Progress != nil:
		since := time.Since(r.last)
		if (since < lineEvery || e.Progress.GetFraction() < r.fraction+lineStep) && since < lineAnyway {
			return
		}
		r.last, r.fraction = time.Now(), e.Progress.GetFraction()
		r.line("%s: %s", name, describeProgress(e.Progress))
	}
}

// describeProgress writes a progress on one line.
func describeProgress(p *upscalev1.Progress) string {
	line := ""
	if p.Fraction != nil {
		line = fmt.Sprintf("%.0f %%, ", 100*p.GetFraction())
	}
	line += fmt.Sprintf("%s, %.1f fps", plural(p.GetFramesEncoded(), "frame"), p.GetFps())
	if p.GetEta() != nil {
		line += fmt.Sprintf(", %s left", formatDuration(p.GetEta().AsDuration()))
	}
	return line
}

func (r *lineReporter) end(t *task, done *result, failure error) {
	r.tally.end(t, failure)
	if failure != nil {
		r.line("%s", failureLine(t, failure))
	} else {
		r.line("%s", finalLine(t, done))
	}
}

func (r *lineReporter) skip(t *task) {
	r.tally.skipped++
	r.line("%s: left out, %s exists", printable(t.name()), printable(t.out))
}

func (r *lineReporter) close() {
	if r.total > 1 {
		for _, line := range r.tally.lines(r.total) {
			r.line("%s", line)
		}
	}
	r.total = 0
}

// jsonReporter writes one JSON object a line.
//
// Every object has "event" and, where they concern one, "input" and "output" (- for the standard streams). The events are
// begin, accepted, notice, progress, busy, done, failed, skipped and message; accepted, notice, progress and done carry
// the server's own message of that name (done: summary) in protobuf's JSON form.
type jsonReporter struct {
	out    io.Writer
	errors io.Writer // gets failures as text as well
}

type jsonEvent struct {
	Event    string          `json:"event"`
	Time     time.Time       `json:"time"`
	Input    string          `json:"input,omitempty"`
	Output   string          `json:"output,omitempty"`
	Text     string          `json:"text,omitempty"`
	Accepted json.RawMessage `json:"accepted,omitempty"`
	Notice   json.RawMessage `json:"notice,omitempty"`
	Progress json.RawMessage `json:"progress,omitempty"`
	Summary  json.RawMessage `json:"summary,omitempty"`
	Size     uint64          `json:"size,omitempty"`    // of the output, in bytes
	Elapsed  float64         `json:"elapsed,omitempty"` // seconds
	Pause    float64         `json:"pause,omitempty"`   // seconds
	Error    *jsonError      `json:"error,omitempty"`
}

type jsonError struct {
	Code   string         `json:"code,omitempty"` // of the gRPC status, when the server or the connection failed
	Reason string         `json:"reason,omitempty"`
	Text   string         `json:"text"`
	Fields []client.Field `json:"fields,omitempty"`
	Kept   int64          `json:"kept,omitempty"` // bytes that --resume goes on with
}

func (r *jsonReporter) write(t *task, e jsonEvent) {
	e.Time = time.Now()
	if t != nil {
		e.Input, e.Output = t.in, t.out
	}
	line, err := json.Marshal(e)
	if err != nil { // cannot happen: every field is plain
		line = fmt.Appendf(nil, `{"event":"failed","text":%q}`, err)
	}
	_, _ = r.out.Write(append(line, '\n')) // one write a line, for readers that follow
}

// raw writes a message in protobuf's JSON form.
func raw(m proto.Message) json.RawMessage {
	data, err := protojson.Marshal(m)
	if err != nil {
		return nil
	}
	return data
}

func (r *jsonReporter) plan([]*task) {}

func (r *jsonReporter) say(text string) { r.write(nil, jsonEvent{Event: "message", Text: text}) }

func (r *jsonReporter) begin(t *task) { r.write(t, jsonEvent{Event: "begin", Text: t.note}) }

func (r *jsonReporter) event(t *task, e client.Event) {
	switch {
	case e.Accepted != nil:
		r.write(t, jsonEvent{Event: "accepted", Accepted: raw(e.Accepted)})
	case e.Notice != nil:
		r.write(t, jsonEvent{Event: "notice", Notice: raw(e.Notice)})
	case e.Progress != nil:
		r.write(t, jsonEvent{Event: "progress", Progress: raw(e.Progress)})
	case e.Busy != nil:
		r.write(t, jsonEvent{Event: "busy", Text: e.Busy.Reason.Error(), Pause: e.Busy.Pause.Seconds()})
	}
}

func (r *jsonReporter) end(t *task, done *result, failure error) {
	if failure == nil {
		r.write(t, jsonEvent{Event: "done", Summary: raw(done.summary), Size: done.size, Elapsed: done.elapsed.Seconds()})
		return
	}
	r.fail(t, failure)
	fmt.Fprintln(r.errors, failureLine(t, failure))
}

func (r *jsonReporter) fail(t *task, failure error) {
	e := &jsonError{Text: failure.Error()}
	var server *client.Error
	if errors.As(failure, &server) {
		e.Code, e.Reason, e.Fields = server.Code.String(), server.Reason, server.Fields
	}
	var kept *keptError
	if errors.As(failure, &kept) {
		e.Kept = kept.kept
	}
	r.write(t, jsonEvent{Event: "failed", Error: e})
}

func (r *jsonReporter) skip(t *task) { r.write(t, jsonEvent{Event: "skipped"}) }

func (r *jsonReporter) close() {}
