package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"upscaler/client"
	upscalev1 "upscaler/gen/upscale/v1"
)

// liveReporter tells how a live job goes: one status line on a terminal, a line now and then in a log, or JSON.
type liveReporter interface {
	say(text string)
	event(e client.Event)
	done(s *upscalev1.Summary)
	failed(err error) // before the program says it on standard error
	close()           // may be called twice
}

func (a *app) newLiveReporter(asJSON bool, src, dst string) liveReporter {
	switch {
	case asJSON && dst == standard:
		return &liveJSON{jsonReporter{out: a.stderr, errors: io.Discard}, &task{in: src, out: dst}}
	case asJSON:
		return &liveJSON{jsonReporter{out: a.stdout, errors: a.stderr}, &task{in: src, out: dst}}
	case showsBars(a.stderr):
		return newLiveStatus(a.stderr)
	default:
		return &liveLines{out: a.stderr}
	}
}

// describeLive writes how a live job keeps up on one line.
func describeLive(p *upscalev1.Progress) string {
	l := p.GetLive()
	line := fmt.Sprintf("%s  %.1f fps in, %.1f out  %s  latency %d ms (99 %%: %d)", formatDuration(p.GetPosition().AsDuration()),
		l.GetFpsIn(), l.GetFpsOut(), printable(l.GetLevel()),
		l.GetLatencyP50().AsDuration().Milliseconds(), l.GetLatencyP99().AsDuration().Milliseconds())
	if n := l.GetDroppedLate() + l.GetDroppedSink() + l.GetDroppedUndecoded(); n > 0 {
		line += fmt.Sprintf("  %d dropped", n)
	}
	if n := l.GetHeld(); n > 0 {
		line += fmt.Sprintf("  %d held", n)
	}
	if n := l.GetSourceReconnects() + l.GetSinkReconnects(); n > 0 {
		line += "  " + plural(uint64(n), "reconnect")
	}
	return line
}

func describeLiveEnd(s *upscalev1.Summary) string {
	return fmt.Sprintf("ended after %s: %s in, %s out, %s", formatDuration(s.GetElapsed().AsDuration()),
		plural(s.GetFramesDecoded(), "frame"), plural(s.GetFramesEncoded(), "frame"), formatSize(s.GetBytesOut()))
}

// liveLines writes plain lines, for logs.
type liveLines struct {
	out  io.Writer
	last time.Time
}

func (r *liveLines) line(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

func (r *liveLines) say(text string) { r.line("sr-client: %s", printable(text)) }

func (r *liveLines) event(e client.Event) {
	switch {
	case e.Accepted != nil:
		r.line("%s", describeJob(e.Accepted))
	case e.Notice != nil:
		r.line("note: %s", printable(e.Notice.GetText()))
	case e.Progress != nil && time.Since(r.last) >= lineEvery:
		r.last = time.Now()
		r.line("%s", describeLive(e.Progress))
	}
}

func (r *liveLines) done(s *upscalev1.Summary) { r.line("%s", describeLiveEnd(s)) }

func (r *liveLines) failed(error) {}

func (r *liveLines) close() {}

// liveStatus keeps one line on a terminal; what is said once goes above it.
type liveStatus struct {
	lines  *mpb.Progress
	status *mpb.Bar
	out    io.Writer
	closed bool

	mu       sync.Mutex // the line's own goroutine reads what follows
	progress *upscalev1.Progress
}

func newLiveStatus(out io.Writer) *liveStatus {
	r := &liveStatus{lines: mpb.New(mpb.WithOutput(out)), out: out}
	r.status = r.lines.New(0, mpb.NopStyle(), mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.progress == nil {
			return "waiting for the source"
		}
		return describeLive(r.progress)
	})))
	return r
}

func (r *liveStatus) above(format string, args ...any) { fmt.Fprintf(r.lines, format+"\n", args...) }

func (r *liveStatus) say(text string) { r.above("%s", printable(text)) }

func (r *liveStatus) event(e client.Event) {
	switch {
	case e.Accepted != nil:
		r.above("%s", describeJob(e.Accepted))
	case e.Notice != nil:
		r.above("note: %s", printable(e.Notice.GetText()))
	case e.Progress != nil:
		r.mu.Lock()
		r.progress = e.Progress
		r.mu.Unlock()
	}
}

func (r *liveStatus) done(s *upscalev1.Summary) {
	r.close()
	fmt.Fprintln(r.out, describeLiveEnd(s))
}

func (r *liveStatus) failed(error) { r.close() }

func (r *liveStatus) close() {
	if r.closed {
		return
	}
	r.closed = true
	r.status.Abort(true)
	r.lines.Wait()
}

// liveJSON writes one JSON object a line.
type liveJSON struct {
	jsonReporter
	task *task
}

func (r *liveJSON) event(e client.Event) { r.jsonReporter.event(r.task, e) }

func (r *liveJSON) done(s *upscalev1.Summary) {
	r.write(r.task, jsonEvent{Event: "done", Summary: raw(s), Size: s.GetBytesOut(), Elapsed: s.GetElapsed().AsDuration().Seconds()})
}

func (r *liveJSON) failed(err error) { r.fail(r.task, err) }
