package client

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// list returns the names in a folder.
func list(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, path string, overwrite bool, text string) *File {
	t.Helper()
	f, err := CreateFile(path, overwrite)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Abort)
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFileGetsItsNameAtTheEnd(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "video.x2.mp4")
	f := create(t, path, false, "whole")
	names := list(t, folder)
	if len(names) != 1 || !strings.HasPrefix(names[0], ".video.x2.mp4.part-") {
		t.Errorf("while it grows the folder holds %q", names)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	f.Abort() // does nothing any more
	if names := list(t, folder); len(names) != 1 || names[0] != "video.x2.mp4" {
		t.Errorf("the folder holds %q", names)
	}
	if got := content(t, path); got != "whole" {
		t.Errorf("the file holds %q", got)
	}
	// As any new file, it has what the umask leaves.
	other := filepath.Join(folder, "other")
	o, err := os.Create(other)
	if err != nil {
		t.Fatal(err)
	}
	_ = o.Close()
	want, _ := os.Stat(other)
	got, _ := os.Stat(path)
	if got.Mode() != want.Mode() {
		t.Errorf("the file has mode %v, a new file has %v", got.Mode(), want.Mode())
	}
}

func TestFileAbortLeavesNothing(t *testing.T) {
	folder := t.TempDir()
	f := create(t, filepath.Join(folder, "out.mp4"), false, "half")
	f.Abort()
	f.Abort()
	if names := list(t, folder); len(names) != 0 {
		t.Errorf("the folder holds %q", names)
	}
}

func TestFileDoesNotOverwrite(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "out.mp4")
	write(t, path, "precious")
	if _, err := CreateFile(path, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want that it exists", err)
	}
	f := create(t, path, true, "new")
	if got := content(t, path); got != "precious" {
		t.Errorf("before the end the file holds %q", got)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != "new" {
		t.Errorf("the file holds %q", got)
	}
}

func TestFileThatAppearsMeanwhileStays(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "out.mp4")
	f := create(t, path, false, "new")
	write(t, path, "precious")
	if err := f.Commit(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want that it exists", err)
	}
	if names := list(t, folder); len(names) != 1 || content(t, path) != "precious" {
		t.Errorf("the folder holds %q, the file %q", names, content(t, path))
	}
}

func TestFileFollowsLinks(t *testing.T) {
	folder := t.TempDir()
	target, link := filepath.Join(folder, "target.mp4"), filepath.Join(folder, "link.mp4")
	write(t, target, "old")
	if err := os.Symlink("target.mp4", link); err != nil {
		t.Fatal(err)
	}
	if err := create(t, link, true, "new").Commit(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	if got := content(t, target); got != "new" {
		t.Errorf("the link's target holds %q", got)
	}
}

func TestFileDoesNotReplaceDevices(t *testing.T) {
	if _, err := CreateFile(os.DevNull, true); err == nil {
		t.Errorf("%s would be replaced", os.DevNull)
	}
}

func TestFileWithLongName(t *testing.T) {
	folder := t.TempDir()
	name := strings.Repeat("ä", 120) + ".mp4" // 244 bytes; cut within a character it would be invalid
	if err := create(t, filepath.Join(folder, name), false, "x").Commit(); err != nil {
		t.Fatal(err)
	}
	if names := list(t, folder); len(names) != 1 || names[0] != name {
		t.Errorf("the folder holds %q", names)
	}
}
