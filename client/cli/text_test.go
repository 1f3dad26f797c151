package cli

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"upscaler/client"
	"upscaler/client/internal/scripted"
	upscalev1 "upscaler/gen/upscale/v1"
)

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                        "0s",
		0:                                   "0.0s",
		800 * time.Millisecond:              "0.8s",
		9940 * time.Millisecond:             "9.9s",
		42*time.Second + 900e6:              "42s",
		60 * time.Second:                    "1m00s",
		3*time.Minute + 5*time.Second:       "3m05s",
		time.Hour - time.Second:             "59m59s",
		2*time.Hour + 7*time.Minute:         "2h07m",
		100*time.Hour + 59*time.Second + 30: "100h00m",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("formatDuration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 12345: "12.3 kB", 999949: "999.9 kB", 999950: "1.0 MB",
		5e9: "5.0 GB", math.MaxUint64: "18.4 EB",
	} {
		if got := formatSize(n); got != want {
			t.Errorf("formatSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"plain":            "plain",
		"Ünïcödé 漢字 🎬":     "Ünïcödé 漢字 🎬",
		"\x1b[31mred\x07":  "\uFFFD[31mred\uFFFD",
		"new\nline\r":      "new\uFFFDline\uFFFD",
		"right\u202eleft":  "right\uFFFDleft", // text that runs backwards
		"broken \xff\xfe.": "broken \uFFFD\uFFFD.",
	} {
		if got := printable(text); got != want {
			t.Errorf("printable(%q) = %q, want %q", text, got, want)
		}
	}
	if got := printableLines("one\x1b\n\ttwo"); got != "one\uFFFD\n  two" {
		t.Errorf("printableLines keeps %q", got)
	}
}

// bitrates are what parseBitrate makes of what people write; 0 is a refusal. FuzzParseBitrate begins from them.
var bitrates = map[string]uint64{
	"1": 1, "2500k": 2_500_000, "2500K": 2_500_000, "8M": 8_000_000, "1.5M": 1_500_000, "0.0005k": 1, "1G": 1_000_000_000, "1e3k": 1_000_000,
	"": 0, "k": 0, "0": 0, "0.4": 0, "-1": 0, "8m": 0, "8 M": 0, "fast": 0, "NaN": 0, "Inf": 0, "1e300": 0, "2000G": 0, "0x10": 0, "1_000": 0,
}

func TestParseBitrate(t *testing.T) {
	for text, want := range bitrates {
		got, err := parseBitrate(text)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("parseBitrate(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
}

func FuzzParseBitrate(f *testing.F) {
	for text := range bitrates {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseBitrate(text)
		if (err == nil) != (got != 0) {
			t.Fatalf("parseBitrate(%q) = %d, %v", text, got, err)
		}
		if err == nil {
			if again, err := parseBitrate(strconv.FormatUint(got, 10)); again != got || err != nil {
				t.Errorf("%q is %d, and that again %d, %v", text, got, again, err)
			}
		}
	})
}

// spans are what parseSpan makes of what people write; -1 is a refusal. FuzzParseSpan begins from them.
var spans = map[string]time.Duration{
	"0": 0, "90": 90 * time.Second, "1.5": 1500 * time.Millisecond, ".5": 500 * time.Millisecond, "1:30": 90 * time.Second, "90s": 90 * time.Second,
	"1m30s": 90 * time.Second, "0:00.04": 40 * time.Millisecond, "1:02:03.5": time.Hour + 2*time.Minute + 3500*time.Millisecond,
	"100:00:00": 100 * time.Hour, "500ms": 500 * time.Millisecond,
	"": -1, "-5": -1, "-5s": -1, "noon": -1, "1:60": -1, "1:2:3:4": -1, "1.5:00": -1, ":30": -1, "1:": -1, "1e3": -1, "NaN": -1, "+5": -1,
	"99999999999": -1, "9999999h": -1, "1 30": -1,
}

func TestParseSpan(t *testing.T) {
	for text, want := range spans {
		got, err := parseSpan(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("parseSpan(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
}

func FuzzParseSpan(f *testing.F) {
	for text := range spans {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseSpan(text)
		if got < 0 || got > maxSpan || err != nil && got != 0 {
			t.Fatalf("parseSpan(%q) = %v, %v", text, got, err)
		}
		if err == nil {
			if again, err := parseSpan(got.String()); again != got || err != nil {
				t.Errorf("%q is %v, and that again %v, %v", text, got, again, err)
			}
		}
	})
}

func FuzzPrintable(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b]0;title\x07")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range printable(text) {
			if !unicode.IsPrint(r) && r != '\uFFFD' {
				t.Errorf("printable(%q) holds %U", text, r)
			}
		}
	})
}

func TestLinesAreRare(t *testing.T) {
	var out bytes.Buffer
	r := &lineReporter{out: &out}
	video := &task{in: "a.mp4", out: "a.x2.mp4"}
	r.begin(video)
	at := func(ago time.Duration, fraction float64) string {
		out.Reset()
		r.last = time.Now().Add(-ago)
		r.event(video, client.Event{Progress: &upscalev1.Progress{
			FramesEncoded: 40, Fps: 12.5, Fraction: &fraction, Eta: durationpb.New(65 * time.Second),
		}})
		return out.String()
	}
	if got := at(lineEvery/2, 0.9); got != "" {
		t.Errorf("soon after the last line came %q", got)
	}
	if got := at(2*lineEvery, lineStep/2); got != "" {
		t.Errorf("without a step came %q", got)
	}
	if got, want := at(2*lineEvery, 0.4), "a.mp4: 40 %, 40 frames, 12.5 fps, 1m05s left\n"; got != want {
		t.Errorf("after time and step came %q, want %q", got, want)
	}
	if got := at(2*lineEvery, 0.4+lineStep/2); got != "" {
		t.Errorf("without a further step came %q", got)
	}
	if got := at(2*lineAnyway, 0.41); !strings.HasPrefix(got, "a.mp4: 41 %") {
		t.Errorf("after a long time came %q", got)
	}
}

// The bars' own drawing is the library's; what goes above them and what they show is ours.
func TestBars(t *testing.T) {
	var out bytes.Buffer
	r := newBarReporter(&out, true, mpb.WithAutoRefresh()) // which it does by itself on a terminal
	tasks := []*task{
		{in: "dir/" + strings.Repeat("long", 20) + ".mp4", out: "1.mp4"},
		{in: "bad.mp4", out: "2.mp4"},
		{in: "skipped.mp4", out: "3.mp4"},
	}
	r.plan(tasks)
	r.begin(tasks[0])
	if got := r.speed(statistics); got != " sending" {
		t.Errorf("before an answer it says %q", got)
	}
	tasks[0].size = 12_345_678
	tasks[0].sent.Store(5_000)
	if got := r.speed(statistics); got != " 5.0 kB of 12.3 MB sent" {
		t.Errorf("while it is sent it says %q", got)
	}
	accepted := scripted.Accept(&upscalev1.Start{})
	r.event(tasks[0], client.Event{Accepted: accepted})
	r.event(tasks[0], client.Event{Notice: &upscalev1.Notice{Text: "a calm word"}})
	r.event(tasks[0], client.Event{Busy: &client.Busy{Reason: errors.New("full"), Pause: time.Second}})
	r.event(tasks[0], client.Event{Progress: &upscalev1.Progress{Fps: 12.5, Fraction: proto.Float64(0.5), Eta: durationpb.New(time.Minute)}})
	if got := r.speed(statistics); got != "  12.5 fps  1m00s left" {
		t.Errorf("it says %q", got)
	}
	if got := r.current.Current(); got != barSteps/2 {
		t.Errorf("the bar is at %d of %d", got, barSteps)
	}
	r.event(tasks[0], client.Event{Progress: &upscalev1.Progress{Fraction: proto.Float64(7)}}) // a server that cannot count
	if got := r.current.Current(); got != barSteps-1 {
		t.Errorf("the bar is at %d of %d before the end", got, barSteps)
	}
	r.event(tasks[0], client.Event{Progress: &upscalev1.Progress{FramesEncoded: 7, Fps: 3}})
	if got := r.speed(statistics) + r.percent(statistics); got != "   3.0 fps  7 frames" {
		t.Errorf("of an unknown length it says %q", got)
	}
	r.end(tasks[0], &result{accepted: accepted, summary: &upscalev1.Summary{FramesEncoded: 100}, size: 12345, elapsed: 8 * time.Second}, nil)
	if got := r.all.Current(); got != barSteps {
		t.Errorf("after one of three the bar for all is at %d", got)
	}
	r.begin(tasks[1])
	r.end(tasks[1], nil, errors.New("no video"))
	r.skip(tasks[2])
	r.close()
	r.close()
	text := out.String()
	for _, want := range []string{
		": mpeg4 320x180 -> h264 640x360, lmswn-s-x2-video on CPU, 100 frames, about 9.0s\n",
		"  note: a calm word\n",
		": full; asking again in 1.0s\n",
		"1.mp4: 640x360, 100 frames, 12.3 kB in 8.0s (12.5 fps, 0.50x real time)\n",
		"sr-client: bad.mp4: no video\n",
		"skipped.mp4: left out, 3.mp4 exists\n",
		"1 of 3 videos upscaled, 1 left out because the result exists, 1 failed:\nsr-client: bad.mp4: no video\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

// statistics are a bar's in the middle of its way.
var statistics = decor.Statistics{Total: barSteps, Current: barSteps / 2}
