package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	upscalev1 "upscaler/gen/upscale/v1"
)

// printJSON writes a message in protobuf's JSON form, indented.
func (a *app) printJSON(m proto.Message) error {
	data, err := protojson.MarshalOptions{Multiline: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s\n", data)
	return err
}

// saying writes a message of the program on stderr.
func (a *app) saying(text string) { fmt.Fprintf(a.stderr, "sr-client: %s\n", printable(text)) }

func (a *app) modelsCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "models",
		Short: "List the server's networks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), a.saying)
			if err != nil {
				return err
			}
			defer s.close()
			models, err := s.Models(cmd.Context())
			if err != nil {
				return s.explain(err)
			}
			if asJSON {
				return a.printJSON(&upscalev1.ListModelsResponse{Models: models})
			}
			return printModels(a.stdout, models)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printModels(out io.Writer, models []*upscalev1.Model) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSCALE\tTIER\tFOR\tPRECISION\tPARAMETERS\tVERSION\tLICENCE\t")
	for _, m := range models {
		mark := ""
		if m.GetIsDefault() {
			mark = fmt.Sprintf("default for x%d", m.GetScale())
		}
		fmt.Fprintf(w, "%s\tx%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", printable(m.GetName()), m.GetScale(), printable(m.GetTier()),
			printable(m.GetFlavour()), printable(m.GetPrecision()), m.GetParameters(), printable(m.GetVersion()), printable(m.GetLicense()), mark)
	}
	return w.Flush()
}

func (a *app) infoCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Tell the server's version, devices and limits",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), a.saying)
			if err != nil {
				return err
			}
			defer s.close()
			info, err := s.ServerInfo(cmd.Context())
			if err != nil {
				return s.explain(err)
			}
			if asJSON {
				return a.printJSON(info)
			}
			var devices []string
			for _, d := range info.GetDevices() {
				devices = append(devices, deviceName(d))
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "address\t%s\n", s.Address())
			fmt.Fprintf(w, "version\t%s (FFmpeg %s, ONNX Runtime %s)\n", printable(info.GetVersion()),
				printable(info.GetFfmpegVersion()), printable(info.GetOnnxruntimeVersion()))
			fmt.Fprintf(w, "devices\t%s\n", strings.Join(devices, ", "))
			fmt.Fprintf(w, "jobs\t%d running, at most %d\n", info.GetRunningJobs(), info.GetMaxJobs())
			fmt.Fprintf(w, "largest picture\t%.1f megapixels\n", float64(info.GetMaxInputPixels())/1e6)
			fmt.Fprintf(w, "memory per job\t%s\n", formatSize(info.GetJobMemoryBytes()))
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) probeCommand() *cobra.Command {
	f := &settings{}
	asJSON := false
	output := ""
	cmd := &cobra.Command{
		Use:   "probe INPUT",
		Short: "Show what upscale would do with a video",
		Long: `Shows the streams of a video and what upscale would make of each with the same flags, the model, the time it would
take, and what the user should know beforehand. Nothing is upscaled. A - is standard input.`,
		Example: `  sr-client probe video.mp4
  sr-client probe in.mkv --output out.mp4 --codec hevc`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.probe(cmd, f, args[0], output, asJSON)
		},
	}
	f.addFlags(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "", "name of the result; only its extension matters")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) probe(cmd *cobra.Command, f *settings, path, output string, asJSON bool) error {
	ctx := cmd.Context()
	if path == standard && isTerminal(a.stdin) {
		return usagef("standard input is a terminal; pipe a video into it")
	}
	in, name, size := io.Reader(struct{ io.Reader }{a.stdin}), "stdin", int64(0)
	if path != standard {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if info.IsDir() {
			return fmt.Errorf("%s is a folder; probe takes one video", path)
		}
		in, name, size = file, filepath.Base(path), info.Size()
	}
	s, err := a.connect(ctx, a.saying)
	if err != nil {
		return err
	}
	defer s.close()
	if f.modelDecidesScale() {
		if err := f.resolveScale(ctx, s); err != nil {
			return err
		}
	}
	tasks, err := planTasks([]string{path}, output, f, false)
	if err != nil {
		return err
	}
	start := f.start(name, size, tasks[0].container)
	start.Output.Seekable = !tasks[0].toStream
	response, err := s.Probe(ctx, start, in)
	if err != nil {
		return s.explain(err)
	}
	if asJSON {
		return a.printJSON(response)
	}
	return printProbe(a.stdout, tasks[0], response)
}

// printProbe writes a probe's answer as a table of streams with a few lines around it.
func printProbe(out io.Writer, t *task, r *upscalev1.ProbeResponse) error {
	a := r.GetAccepted()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

	line("%s\t%s", "input", describeFile(t.name(), a.GetInput()))
	line("%s\t%s", "output", describeFile(t.outName(), a.GetOutput()))
	line("%s\t%s on %s", "model", printable(a.GetModel().GetName()), deviceName(a.GetDevice()))
	if n := a.GetEstimatedFrames(); n > 0 {
		line("%s\t%d", "frames", n)
	}
	if a.GetEstimatedTime() != nil {
		line("%s\tabout %s", "time", formatDuration(a.GetEstimatedTime().AsDuration()))
	}
	line("")
	if err := w.Flush(); err != nil {
		return err
	}

	outputs := map[uint32]*upscalev1.StreamInfo{}
	for _, s := range a.GetOutput().GetStreams() {
		outputs[s.GetIndex()] = s
	}
	line("STREAM\tKIND\tIS\tLANGUAGE\tTITLE\tBECOMES")
	for _, s := range a.GetInput().GetStreams() {
		becomes := "dropped"
		var o *upscalev1.StreamInfo
		if s.Peer != nil {
			o = outputs[s.GetPeer()]
		}
		switch {
		case s.GetAction() == upscalev1.StreamAction_STREAM_ACTION_UPSCALE && o != nil:
			becomes = "upscaled to " + describeStream(o)
		case s.GetAction() == upscalev1.StreamAction_STREAM_ACTION_UPSCALE:
			becomes = "upscaled"
		case s.GetAction() == upscalev1.StreamAction_STREAM_ACTION_COPY:
			becomes = "kept as it is"
		case s.GetAction() == upscalev1.StreamAction_STREAM_ACTION_CONVERT && o != nil:
			becomes = "converted to " + printable(o.GetCodec())
		}
		line("%d\t%s\t%s\t%s\t%s\t%s", s.GetIndex(), enumName(s.GetKind(), "STREAM_KIND_"), describeStream(s),
			language(s), printable(s.GetTitle()), becomes)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range r.GetNotices() {
		if _, err := fmt.Fprintf(out, "\nnote: %s\n", printable(n.GetText())); err != nil {
			return err
		}
	}
	return nil
}

// language returns a stream's language; the code for an undetermined one says nothing.
func language(s *upscalev1.StreamInfo) string {
	if s.GetLanguage() == "und" {
		return ""
	}
	return printable(s.GetLanguage())
}

func describeFile(name string, m *upscalev1.MediaInfo) string {
	parts := []string{printable(m.GetContainer())}
	if m.GetDuration() != nil {
		parts = append(parts, formatDuration(m.GetDuration().AsDuration()))
	}
	if n := m.GetChapters(); n > 0 {
		parts = append(parts, plural(uint64(n), "chapter"))
	}
	return fmt.Sprintf("%s (%s)", printable(name), strings.Join(parts, ", "))
}

// describeStream writes what a stream is: h264 854x480 yuv420p 24 fps, aac 48000 Hz 2 channels.
func describeStream(s *upscalev1.StreamInfo) string {
	text := printable(s.GetCodec())
	if v := s.GetVideo(); v != nil {
		text = describeVideo(s) + " " + printable(v.GetPixelFormat())
		if r := v.GetFrameRate(); r.GetNum() > 0 && r.GetDen() > 0 {
			text += fmt.Sprintf(" %.4g fps", float64(r.GetNum())/float64(r.GetDen()))
		}
		if v.GetRotation() != 0 {
			text += fmt.Sprintf(" rotated by %d°", v.GetRotation())
		}
	}
	if v := s.GetAudio(); v != nil {
		text += fmt.Sprintf(" %d Hz %s", v.GetSampleRate(), plural(uint64(v.GetChannels()), "channel"))
	}
	return text
}
