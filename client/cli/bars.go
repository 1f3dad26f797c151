package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"upscaler/client"
	upscalev1 "upscaler/gen/upscale/v1"
)

const (
	// barSteps is the resolution of a bar.
	barSteps = 10000
	// maxBarName is how much of a file's name stands before its bar, in characters.
	maxBarName = 28
	// speedWidth is the room for speed and time after a bar, so that its length does not change with them.
	speedWidth = 26
	// barWidth is the widest a bar gets, in columns: on a wide terminal more of it says nothing.
	barWidth = 100
)

// barReporter shows a bar for the video at hand, and one for all when there are several. What is said once goes above.
type barReporter struct {
	out     io.Writer
	several bool
	bars    *mpb.Progress
	tally   tally
	total   int
	closed  bool

	all     *mpb.Bar
	current *mpb.Bar

	mu       sync.Mutex // the bars' own goroutine reads what follows
	progress *upscalev1.Progress
	video    *task
	accepted bool
}

func newBarReporter(out io.Writer, several bool, options ...mpb.ContainerOption) *barReporter {
	options = append(options, mpb.WithOutput(out), mpb.WithWidth(barWidth))
	return &barReporter{out: out, several: several, bars: mpb.New(options...)}
}

// above writes a line above the bars.
func (r *barReporter) above(format string, args ...any) {
	fmt.Fprintf(r.bars, format+"\n", args...)
}

func (r *barReporter) say(text string) { r.above("%s", printable(text)) }

func (r *barReporter) plan(tasks []*task) {
	r.total = len(tasks)
	if r.total < 2 {
		return
	}
	r.all = r.bars.New(int64(r.total)*barSteps, barStyle(),
		mpb.BarPriority(1), // below the current one
		mpb.PrependDecorators(decor.Name("all", decor.WC{W: maxBarName, C: decor.DindentRight}), decor.Percentage(decor.WC{W: 6})),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string {
			return fmt.Sprintf(" %d of %d", s.Current/barSteps, s.Total/barSteps)
		}, decor.WC{W: speedWidth, C: decor.DindentRight})),
	)
}

func barStyle() mpb.BarFillerBuilder {
	return mpb.BarStyle().Lbound(" ").Filler("━").Tip("━").Padding("─").Rbound("")
}

func (r *barReporter) begin(t *task) {
	r.mu.Lock()
	r.progress, r.video, r.accepted = nil, t, false
	r.mu.Unlock()
	if t.note != "" {
		r.above("%s: %s", printable(t.name()), printable(t.note))
	}
	name := []rune(printable(filepath.Base(t.name())))
	if len(name) > maxBarName {
		name = append(name[:maxBarName-1], '…')
	}
	r.current = r.bars.New(barSteps, barStyle(),
		mpb.BarPriority(0),
		mpb.PrependDecorators(decor.Name(string(name), decor.WC{W: r.nameWidth(), C: decor.DindentRight}), decor.Any(r.percent, decor.WC{W: 6})),
		mpb.AppendDecorators(decor.Any(r.speed, decor.WC{W: speedWidth, C: decor.DindentRight})),
	)
}

// nameWidth aligns the names when there are several.
func (r *barReporter) nameWidth() int {
	if r.several {
		return maxBarName
	}
	return 0
}

func (r *barReporter) percent(s decor.Statistics) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.progress != nil && r.progress.Fraction == nil && !s.Completed {
		return "" // of an unknown length
	}
	return fmt.Sprintf("%d %%", s.Current*100/max(s.Total, 1))
}

func (r *barReporter) speed(decor.Statistics) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.progress
	switch {
	case p == nil && r.accepted:
		return " starting"
	case p == nil && r.video.size > 0:
		return fmt.Sprintf(" %s of %s sent", formatSize(uint64(r.video.sent.Load())), formatSize(uint64(r.video.size))) //nolint:gosec // not negative
	case p == nil:
		return " sending"
	case p.GetEta() != nil:
		return fmt.Sprintf(" %5.1f fps  %s left", p.GetFps(), formatDuration(p.GetEta().AsDuration()))
	default:
		return fmt.Sprintf(" %5.1f fps  %s", p.GetFps(), plural(p.GetFramesEncoded(), "frame"))
	}
}

func (r *barReporter) event(t *task, e client.Event) {
	switch {
	case e.Accepted != nil:
		r.above("%s: %s", printable(t.name()), describeJob(e.Accepted))
		r.mu.Lock()
		r.accepted = true
		r.mu.Unlock()
	case e.Notice != nil:
		r.above("  note: %s", printable(e.Notice.GetText()))
	case e.Busy != nil:
		r.above("%s: %s", printable(t.name()), busyLine(e.Busy))
	case e.Progress != nil:
		r.mu.Lock()
		r.progress = e.Progress
		r.mu.Unlock()
		// The last step is end's: a full bar is one whose file has its name.
		at := int64(max(0, min(e.Progress.GetFraction()*barSteps, barSteps-1)))
		r.current.SetCurrent(at)
		if r.all != nil {
			r.all.SetCurrent(int64(r.finished())*barSteps + at)
		}
	}
}

func (r *barReporter) finished() int { return r.tally.done + r.tally.skipped + len(r.tally.failed) }

func (r *barReporter) end(t *task, done *result, failure error) {
	r.tally.end(t, failure)
	r.current.Abort(true)
	r.current.Wait()
	if failure != nil {
		r.above("%s", failureLine(t, failure))
	} else {
		r.above("%s", finalLine(t, done))
	}
	r.advance()
}

func (r *barReporter) skip(t *task) {
	r.tally.skipped++
	r.above("%s: left out, %s exists", printable(t.name()), printable(t.out))
	r.advance()
}

// advance moves the bar for all to the end of a video.
func (r *barReporter) advance() {
	if r.all != nil && r.finished() < r.total {
		r.all.SetCurrent(int64(r.finished()) * barSteps)
	}
}

func (r *barReporter) close() {
	if r.closed {
		return
	}
	r.closed = true
	if r.all != nil {
		r.all.Abort(true)
	}
	r.bars.Wait()
	if r.total > 1 {
		for _, line := range r.tally.lines(r.total) {
			fmt.Fprintln(r.out, line)
		}
	}
}
