package client

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	upscalev1 "upscaler/gen/upscale/v1"
)

// fingerprint returns one that has read n bytes of text.
func fingerprint(t *testing.T, text string, n int64) *Fingerprint {
	t.Helper()
	f := NewFingerprint(strings.NewReader(text), int64(len(text)))
	if _, err := io.CopyN(io.Discard, f, n); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestInterruptedFile(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "out.mp4")
	if FindInterrupted(path) != nil {
		t.Fatal("something is found in an empty folder")
	}
	settings := &upscalev1.Start{Scale: 3}
	first := create(t, path, false, "0123456789")
	if err := first.Keep(fingerprint(t, "the input", 5), settings); err != nil {
		t.Fatal(err)
	}
	if _, err := first.WriteAt([]byte("not certain"), 10); err != nil {
		t.Fatal(err)
	}
	first.Leave()

	i := FindInterrupted(path)
	if i == nil || i.Size() != 10 || i.Settings().GetScale() != 3 {
		t.Fatalf("found %+v, want 10 bytes", i)
	}
	for _, c := range []struct {
		input string
		same  bool
	}{{"the input", true}, {"the inpuT", true}, {"The input", false}, {"the input!", false}, {"the", false}} {
		var changed *InputChangedError
		if err := i.CheckInput(t.Context(), strings.NewReader(c.input), int64(len(c.input)), nil); (err == nil) != c.same || err != nil && !errors.As(err, &changed) {
			t.Errorf("%q in place of the input, of which 5 bytes were read: %v", c.input, err)
		}
	}

	// What is there stays until the next run has more.
	second := create(t, path, false, "01234")
	if err := second.Keep(fingerprint(t, "the input", 3), settings); err != nil {
		t.Fatal(err)
	}
	second.Leave()
	if i = FindInterrupted(path); i == nil || i.Size() != 10 {
		t.Fatalf("found %+v, want the first run's 10 bytes", i)
	}
	third := create(t, path, false, "0123456789ab")
	if err := third.Keep(fingerprint(t, "the input", 9), settings); err != nil {
		t.Fatal(err)
	}
	if i = FindInterrupted(path); i == nil || i.Size() != 12 {
		t.Fatalf("found %+v, want the third run's 12 bytes", i)
	}
	file, err := i.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if content, _ := io.ReadAll(file); !bytes.Equal(content, []byte("0123456789ab")) {
		t.Errorf("it holds %q", content)
	}
	if err := third.Commit(); err != nil {
		t.Fatal(err)
	}
	if names := list(t, folder); !slices.Equal(names, []string{"out.mp4"}) {
		t.Errorf("the folder holds %q", names)
	}
}

func TestInterruptedIsNotBelieved(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "out.mp4")
	f := create(t, path, false, "0123456789")
	if err := f.Keep(fingerprint(t, "input", 5), &upscalev1.Start{}); err != nil {
		t.Fatal(err)
	}
	f.Leave()
	good := content(t, journalPath(path))
	partial := FindInterrupted(path).Partial
	for _, bad := range []string{"", "{}", good[:len(good)/2], strings.Replace(good, partial, "../"+partial, 1), strings.Replace(good, partial, "/etc/passwd", 1),
		strings.Replace(good, `"length":10`, `"length":11`, 1), strings.Replace(good, `"length":10`, `"length":-1`, 1)} {
		if err := os.WriteFile(journalPath(path), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if i := FindInterrupted(path); i != nil {
			t.Errorf("%q is believed", bad)
		}
	}
}
