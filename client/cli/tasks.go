package cli

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"upscaler/client"
	upscalev1 "upscaler/gen/upscale/v1"
)

// standard is the name that stands for standard input or output.
const standard = "-"

// inputExtensions are what a folder is searched for. A file that is named itself may be called anything.
var inputExtensions = []string{
	".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".flv", ".avi", ".ogv", ".3gp",
	".wmv", ".asf", ".gif",
}

// task is one input and what becomes of it.
type task struct {
	in        string // a path, or standard
	size      int64  // of the input in bytes; 0 when not known
	out       string // a path, or standard
	container upscalev1.Container
	sequence  bool // out is the pattern of the names of many pictures
	preview   int  // how many samples are made in place of the whole; 0 for the whole
	toStream  bool // out is written front to back: a pipe, a device
	note      string
	sent      atomic.Int64 // bytes of the input read so far, for the time before the server has anything to tell
}

// meter counts in sent what is read from a file.
type meter struct {
	*os.File
	sent *atomic.Int64
}

// Read implements io.Reader.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.File.Read(p)
	m.sent.Add(int64(n))
	return n, err
}

// Seek implements io.Seeker; the client goes back when it sends the file anew.
func (m *meter) Seek(offset int64, whence int) (int64, error) {
	at, err := m.File.Seek(offset, whence)
	m.sent.Store(at)
	return at, err
}

// name is what the task is called in messages.
func (t *task) name() string {
	if t.in == standard {
		return "standard input"
	}
	return t.in
}

// outName is what the task's result is called in messages.
func (t *task) outName() string {
	if t.out == standard {
		return "standard output"
	}
	if t.preview > 0 {
		return previewBase(t.out) + ".preview-*"
	}
	return t.out
}

// input is a file to upscale, and its place below the folder through which it was named.
type input struct{ path, relative string }

// findInputs replaces the folders among the arguments by the videos in them and below. Hidden files are left out, and
// results of an earlier run beside their originals.
func findInputs(args []string) (inputs []input, folders bool, err error) {
	for _, arg := range args {
		if arg == standard {
			inputs = append(inputs, input{standard, standard})
			continue
		}
		info, err := os.Stat(arg)
		if err != nil {
			return nil, false, err
		}
		if !info.IsDir() {
			inputs = append(inputs, input{arg, filepath.Base(arg)})
			continue
		}
		folders = true
		found, err := searchFolder(arg)
		if err != nil {
			return nil, false, err
		}
		if len(found) == 0 {
			return nil, false, fmt.Errorf("%s holds no videos", arg)
		}
		inputs = append(inputs, found...)
	}
	return inputs, folders, nil
}

// earlierResult is the name of a file that this program has made from one whose name begins with the first group.
var earlierResult = regexp.MustCompile(`^(.+)\.x[2-9]\.[^.]+$`)

func searchFolder(folder string) ([]input, error) {
	var found []input
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(entry.Name(), ".") && path != folder {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.Type().IsRegular() && slices.Contains(inputExtensions, strings.ToLower(filepath.Ext(path))) {
			relative, err := filepath.Rel(folder, path)
			if err != nil {
				return err
			}
			found = append(found, input{path, relative})
		}
		return nil
	})
	stems := map[string]bool{}
	for _, in := range found {
		stems[strings.TrimSuffix(in.path, filepath.Ext(in.path))] = true
	}
	found = slices.DeleteFunc(found, func(in input) bool {
		m := earlierResult.FindStringSubmatch(in.path)
		return m != nil && stems[m[1]]
	})
	return found, err
}

// planTasks decides the output of every input. output is the -o flag, empty when not given. Nothing is written yet.
func planTasks(args []string, output string, s *settings, stdoutIsTerminal bool) ([]*task, error) {
	if slices.Contains(args, standard) && len(args) > 1 {
		return nil, usagef("standard input (-) cannot be upscaled together with files")
	}
	inputs, folders, err := findInputs(args)
	if err != nil {
		return nil, err
	}
	outFolder := output != "" && output != standard && (len(inputs) > 1 || folders || strings.HasSuffix(output, string(filepath.Separator)) || isFolder(output))
	switch {
	case output == standard && len(inputs) > 1:
		return nil, usagef("several videos cannot go to standard output")
	case outFolder && !isFolder(output) && exists(output):
		return nil, usagef("--output %s must be a folder for several inputs", output)
	}

	var tasks []*task
	taken := map[string]string{}
	for _, in := range inputs {
		t := &task{in: in.path, container: formatOf(s)}
		if info, err := os.Stat(in.path); in.path != standard && err == nil && info.Mode().IsRegular() {
			t.size = info.Size()
		}
		changed := false
		switch {
		case output == standard || (output == "" && in.path == standard):
			t.out, t.toStream = standard, true
			if t.container == 0 {
				t.container = upscalev1.Container_CONTAINER_MATROSKA
			}
			if stdoutIsTerminal {
				return nil, usagef("the video would go to the terminal; name a file with --output, or redirect standard output")
			}
		case output == "":
			t.out, changed = defaultOutput(in.path, s)
		case outFolder && in.path == standard:
			return nil, usagef("the result of standard input needs a file name, not a folder")
		case outFolder:
			t.out, changed = defaultOutput(filepath.Join(output, in.relative), s)
		default:
			t.out = output
			if _, ok := client.SequenceName(output, 1); ok && t.container == 0 {
				t.sequence, t.container = true, upscalev1.Container_CONTAINER_PNG_SEQUENCE
			}
			if info, err := os.Stat(output); err == nil && !info.Mode().IsRegular() {
				t.toStream = true // /dev/null, a named pipe: written as it is, never replaced
				if t.container == 0 {
					t.container = upscalev1.Container_CONTAINER_MATROSKA
				}
			}
		}
		if changed {
			t.note = fmt.Sprintf("the result becomes %s: %s cannot be written with these settings", filepath.Ext(t.out), describeExtension(in.path))
		}
		if t.container == 0 {
			c, ok := client.ContainerOf(t.out)
			if !ok {
				return nil, usagef("the name %s does not say which container to write; end it with one of .%s, or use --format",
					t.out, strings.Join(client.Extensions(), ", ."))
			}
			t.container = c
		}
		if !t.toStream {
			key := filepath.Clean(t.out)
			if other, ok := taken[key]; ok {
				return nil, usagef("%s and %s would both become %s", other, t.in, t.out)
			}
			taken[key] = t.in
		}
		tasks = append(tasks, t)
	}
	return tasks, nil
}

// formatOf returns the container that --format names, unspecified when it is not given.
func formatOf(s *settings) upscalev1.Container {
	if s.format == "" {
		return upscalev1.Container_CONTAINER_UNSPECIFIED
	}
	c, _ := client.ContainerOf("." + s.format)
	return c
}

// defaultOutput returns the name of a result, with the extension of --format when that is given.
func defaultOutput(path string, s *settings) (name string, changed bool) {
	name, changed = client.OutputName(path, s.scale, s.codec)
	if s.format != "" {
		return strings.TrimSuffix(name, filepath.Ext(name)) + "." + strings.ToLower(s.format), false
	}
	return name, changed
}

func describeExtension(path string) string {
	if ext := filepath.Ext(path); ext != "" {
		return ext
	}
	return "a file without an extension"
}

// checkFiles finds what forbids a task: the output is the input, or exists and may not be overwritten.
func (t *task) checkFiles(overwrite bool) error {
	if t.toStream {
		return nil
	}
	if t.preview > 0 {
		for i := range t.preview {
			picture, clip := t.previewNames(i + 1)
			for _, name := range []string{picture, clip} {
				if exists(name) && !overwrite {
					return errExists(name)
				}
			}
		}
		return nil
	}
	if t.sequence {
		if first, _ := client.SequenceName(t.out, 1); exists(first) && !overwrite {
			return errExists(first)
		}
		return nil
	}
	out, err := os.Stat(t.out)
	if err != nil {
		return nil //nolint:nilerr // it does not exist yet, or creating it will say what is wrong
	}
	if t.in != standard {
		if in, err := os.Stat(t.in); err == nil && os.SameFile(in, out) {
			return fmt.Errorf("the output %s is the input itself; name another with --output", t.out)
		}
	}
	if out.IsDir() {
		return fmt.Errorf("the output %s is a folder", t.out)
	}
	if !overwrite {
		return errExists(t.out)
	}
	return nil
}

func errExists(path string) error {
	return fmt.Errorf("%s exists already; use --overwrite to replace it, or name another with --output", path)
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
