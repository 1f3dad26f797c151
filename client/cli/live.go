package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"upscaler/client"
	upscalev1 "upscaler/gen/upscale/v1"
)

const (
	// playlistLength is how many segments an HLS playlist names by default: 20 s of 2 s each, time enough for any player.
	playlistLength = 10
	// segmentLength is the length of HLS segments: the shorter, the less delay; players hold three.
	segmentLength = 2 * time.Second
	// stopPatience is how long the server gets to complete the output after Ctrl+C.
	stopPatience = 5 * time.Second
)

// liveFlags are the flags of live.
type liveFlags struct {
	settings
	latency   time.Duration
	floor     string
	hold      time.Duration
	keyFrames time.Duration
	fragment  upscalev1.Fragment
	playlist  int
	overwrite bool
	json      bool
}

func (a *app) liveCommand() *cobra.Command {
	f := &liveFlags{}
	cmd := &cobra.Command{
		Use:   "live SRC DST",
		Short: "Upscale a running stream, keeping up with it",
		Long: `Upscales a running stream from SRC to DST and keeps up with it: when the machine is too slow for the best model, a faster one takes
over, at the end bicubic interpolation, and only then frames are dropped. It ends with the stream, or with Ctrl+C.

SRC is an address that the server reads (rtsp://, rtmp://, srt://, udp://, or http(s):// for an HLS playlist), a file, which is read
at the speed it plays, or - for standard input. DST is an address that the server sends to (rtsp://, rtmp://, srt://, udp://), a file,
a folder, which gets an HLS playlist and its segments, or - for standard output.

A server opens only addresses that its operator allowed (sr-server --allow-source, --allow-sink). Without --server a private server is
started that may open these two.`,
		Example: `  sr-client live rtsp://camera/stream rtmp://media/live/big
  sr-client live srt://encoder:9000 hls/ --latency 300ms
  sr-client live https://example.org/live/index.m3u8 - | mpv -
  sr-client live film.mp4 srt://0.0.0.0:9000?mode=listener --quality-floor s
  ffmpeg -f v4l2 -i /dev/video0 -c:v libx264 -tune zerolatency -f mpegts - | sr-client live - out.ts`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.live(cmd.Context(), f, args[0], args[1])
		},
	}
	f.addFlags(cmd)
	for _, name := range []string{"start", "duration"} {
		_ = cmd.Flags().MarkHidden(name) // of files; the server says so
	}
	flags := cmd.Flags()
	flags.DurationVar(&f.latency, "latency", 500*time.Millisecond, "how long a frame may take from decoding to encoding")
	flags.StringVar(&f.floor, "quality-floor", "", "the lowest tier to fall back to (s, m, l); frames are dropped rather than going below")
	flags.DurationVar(&f.hold, "hold", 30*time.Second, "how long to go on with the last picture while the source is gone")
	flags.DurationVar(&f.keyFrames, "key-frames", 2*time.Second, "time between key frames, where players can join")
	addChoice(cmd, "fragment", "gop", map[string]upscalev1.Fragment{
		"gop": upscalev1.Fragment_FRAGMENT_UNSPECIFIED, "frame": upscalev1.Fragment_FRAGMENT_FRAME}, &f.fragment, "what a fragment of an MP4 holds")
	flags.IntVar(&f.playlist, "playlist-length", playlistLength, "segments in an HLS playlist; older ones are removed (0: keep all)")
	flags.BoolVar(&f.overwrite, "overwrite", false, "replace a file that exists")
	flags.BoolVar(&f.json, "json", false, "tell what happens as JSON, one event a line, on standard output\n(on standard error when the video goes to standard output)")
	return cmd
}

// isAddress tells a stream's address from a file's name.
func isAddress(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && len(scheme) > 1 && !strings.ContainsAny(scheme, `/\.`)
}

// isHLS tells whether a destination is a folder for HLS.
func isHLS(dst string) bool {
	return strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, ".m3u8") || isFolder(dst)
}

func (a *app) live(ctx context.Context, f *liveFlags, src, dst string) error {
	if err := f.check(); err != nil {
		return err
	}
	if src == standard && isTerminal(a.stdin) {
		return usagef("standard input is a terminal; pipe a stream into it")
	}
	if dst == standard && isTerminal(a.stdout) {
		return usagef("standard output is a terminal; pipe it into a player or name a file")
	}
	job := client.LiveJob{}
	start, err := f.liveStart(src, dst)
	if err != nil {
		return err
	}
	job.Settings = start
	in, closeIn, err := a.liveInput(src)
	if err != nil {
		return err
	}
	defer closeIn()
	job.In = in

	report := a.newLiveReporter(f.json, src, dst)
	defer report.close()
	server, err := a.connectLive(ctx, src, dst, report.say)
	if err != nil {
		return err
	}
	defer server.close()
	out, closeOut, err := a.liveOutput(f, dst)
	if err != nil {
		return err
	}
	job.Out, job.On = out, report.event

	// The first Ctrl+C ends the stream in order; what takes too long then is cut off.
	stop := make(chan struct{})
	job.Stop = stop
	running, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		close(stop)
		time.AfterFunc(stopPatience, func() { cancel(context.Cause(ctx)) })
	})()
	summary, err := server.Live(running, job)
	if closeErr := closeOut(); err == nil {
		err = closeErr
	}
	if err != nil {
		err = server.explain(err)
		report.failed(err)
		return err
	}
	report.done(summary)
	if ctx.Err() != nil {
		return &reportedError{context.Cause(ctx)}
	}
	return nil
}

// liveStart returns the settings as the server takes them.
func (f *liveFlags) liveStart(src, dst string) (*upscalev1.Start, error) {
	container := upscalev1.Container_CONTAINER_UNSPECIFIED
	switch {
	case f.format != "":
		container, _ = client.ContainerOf("." + f.format) // checked
	case !isAddress(dst) && dst != standard && !isHLS(dst):
		c, ok := client.ContainerOf(dst)
		if !ok {
			return nil, usagef("the extension of %q says no container; use one of %s, or --format", dst, strings.Join(client.Extensions(), ", "))
		}
		container = c
	}
	name := filepath.Base(src)
	if isAddress(src) {
		name = ""
	}
	start := f.start(name, 0, container)
	start.Live = &upscalev1.Live{
		Latency: durationpb.New(f.latency), Hold: durationpb.New(f.hold), KeyFrameInterval: durationpb.New(f.keyFrames),
		QualityFloor: f.floor, Fragment: f.fragment,
		Paced: !isAddress(src) && src != standard,
	}
	if isAddress(src) {
		start.Live.Source = src
	}
	switch {
	case isAddress(dst):
		start.Live.Sink = dst
	case isHLS(dst):
		start.Output.Container = upscalev1.Container_CONTAINER_MPEGTS
		start.Live.Segment = durationpb.New(max(f.keyFrames, segmentLength))
	}
	return start, nil
}

func (a *app) liveInput(src string) (io.Reader, func(), error) {
	switch {
	case isAddress(src):
		return nil, func() {}, nil
	case src == standard:
		return a.stdin, func() {}, nil
	}
	file, err := os.Open(src)
	if err != nil {
		return nil, nil, err
	}
	return struct{ io.Reader }{file}, func() { _ = file.Close() }, nil
}

// oneFile is a LiveOutput of a single file.
type oneFile struct{ io.Writer }

// EndFile implements client.LiveOutput; it is not called without segments.
func (oneFile) EndFile(time.Duration) error { return nil }

func (a *app) liveOutput(f *liveFlags, dst string) (client.LiveOutput, func() error, error) {
	switch {
	case isAddress(dst):
		return nil, func() error { return nil }, nil
	case dst == standard:
		return oneFile{a.stdout}, func() error { return nil }, nil
	case isHLS(dst):
		folder := dst
		if strings.HasSuffix(dst, ".m3u8") {
			folder = filepath.Dir(dst)
		}
		h, err := client.NewHLSFolder(folder, f.playlist)
		if err != nil {
			return nil, nil, err
		}
		return h, h.Close, nil
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if f.overwrite {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	file, err := os.OpenFile(dst, flags, 0o644) //nolint:gosec // what a shell's > does
	if errors.Is(err, os.ErrExist) {
		return nil, nil, errExists(dst)
	}
	if err != nil {
		return nil, nil, err
	}
	return oneFile{file}, file.Close, nil
}

// connectLive is connect, but for addresses it starts a private server that may open them: any other would refuse.
func (a *app) connectLive(ctx context.Context, src, dst string, say func(string)) (*session, error) {
	var args []string
	for _, end := range []struct{ flag, address string }{{"--allow-source", src}, {"--allow-sink", dst}} {
		if !isAddress(end.address) {
			continue
		}
		pattern, err := patternOf(end.address)
		if err != nil {
			return nil, err
		}
		args = append(args, end.flag, pattern)
	}
	if a.server != "" || len(args) == 0 {
		return a.connect(ctx, say)
	}
	return a.startPrivate(ctx, say, args...)
}

// defaultPorts are those that an address without a port means.
var defaultPorts = map[string]string{"rtsp": "554", "rtsps": "322", "rtmp": "1935", "rtmps": "443", "http": "80", "https": "443"}

// patternOf returns what a server must be allowed to open an address.
func patternOf(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" && u.Port() == "" {
		return "", usagef("%q is not an address such as rtsp://camera/stream", address)
	}
	host, port := u.Hostname(), u.Port()
	if port == "" {
		port = defaultPorts[u.Scheme]
	}
	if host == "" {
		host = "*"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == "" {
		return "", usagef("%q names no port", address)
	}
	return fmt.Sprintf("%s://%s:%s", u.Scheme, host, port), nil
}
