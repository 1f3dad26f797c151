package cli

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	upscalev1 "upscaler/gen/upscale/v1"
)

// printable replaces what could move a terminal's cursor or worse. File names, stream titles and a server's sentences come
// from strangers.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

// printableLines is printable for text of several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = printable(strings.ReplaceAll(line, "\t", "  "))
	}
	return strings.Join(lines, "\n")
}

// formatDuration writes a duration for people: 0.8s, 42s, 3m05s, 2h07m.
func formatDuration(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Truncate(time.Second).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
}

// formatSize writes a number of bytes for people: 512 B, 12.3 MB.
func formatSize(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	unit := -1
	for v >= 999.95 { // what %.1f would round to 1000.0
		v /= 1000
		unit++
	}
	return fmt.Sprintf("%.1f %cB", v, "kMGTPE"[unit])
}

// formatFactor writes how much faster something is: 0.52x, 3.1x, 120x.
func formatFactor(v float64) string {
	switch {
	case v < 1:
		return fmt.Sprintf("%.2fx", v)
	case v < 10:
		return fmt.Sprintf("%.1fx", v)
	default:
		return fmt.Sprintf("%.0fx", v)
	}
}

// plural writes a count with its noun: 1 frame, 2 frames.
func plural(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// enumName writes an enum's value as the flags spell it: VIDEO_CODEC_H264 with the prefix VIDEO_CODEC_ is h264.
func enumName(value fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(value.String(), prefix))
}

func deviceName(d upscalev1.Device) string {
	switch d {
	case upscalev1.Device_DEVICE_CPU:
		return "CPU"
	case upscalev1.Device_DEVICE_CUDA:
		return "CUDA"
	default:
		return "an unknown device"
	}
}

// upscaledStream returns the stream that is or was upscaled, nil when there is none.
func upscaledStream(m *upscalev1.MediaInfo) *upscalev1.StreamInfo {
	for _, s := range m.GetStreams() {
		if s.GetAction() == upscalev1.StreamAction_STREAM_ACTION_UPSCALE {
			return s
		}
	}
	return nil
}

// describeVideo writes a video stream's codec and size: h264 854x480.
func describeVideo(s *upscalev1.StreamInfo) string {
	return fmt.Sprintf("%s %dx%d", printable(s.GetCodec()), s.GetVideo().GetWidth(), s.GetVideo().GetHeight())
}

// describeJob writes what a job will do on one line.
func describeJob(a *upscalev1.Accepted) string {
	var b strings.Builder
	if in, out := upscaledStream(a.GetInput()), upscaledStream(a.GetOutput()); in != nil && out != nil {
		fmt.Fprintf(&b, "%s -> %s, ", describeVideo(in), describeVideo(out))
	}
	fmt.Fprintf(&b, "%s on %s", printable(a.GetModel().GetName()), deviceName(a.GetDevice()))
	if n := a.GetEstimatedFrames(); n > 0 {
		fmt.Fprintf(&b, ", %s", plural(n, "frame"))
	}
	if a.GetEstimatedTime() != nil {
		fmt.Fprintf(&b, ", about %s", formatDuration(a.GetEstimatedTime().AsDuration()))
	}
	return b.String()
}
