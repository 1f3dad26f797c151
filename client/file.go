package client

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// File is a result on its way to its name: it grows under a temporary one beside it and gets its own in Commit, so that a
// file with the final name is always whole.
type File struct {
	file      *os.File // nil after Commit or Abort
	temp      string
	path      string
	overwrite bool
	length    int64        // of what has been written
	kept      int64        // bytes that the journal tells of; see Keep
	before    *Interrupted // what an earlier job has left, until this one has more
}

// maxTempBase bounds how much of the final name goes into the temporary one, in bytes: with what is added it must stay
// under the 255 that file systems allow.
const maxTempBase = 200

// CreateFile begins a file that will be called path. It fails with fs.ErrExist when there is one and overwrite is false; a
// symbolic link is followed. The caller must call Commit or Abort.
func CreateFile(path string, overwrite bool) (*File, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if info, err := os.Lstat(path); err == nil {
		if !overwrite {
			return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
		}
		if !info.Mode().IsRegular() {
			return nil, &fs.PathError{Op: "overwrite", Path: path, Err: errors.New("not a regular file")}
		}
	}
	dir, base := filepath.Split(path)
	temp := filepath.Join(dir, "."+shorten(base)+".part-"+strings.ToLower(rand.Text()[:8]))
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666) //nolint:gosec // the umask decides, as for any new file
	if err != nil {
		return nil, err
	}
	return &File{file: f, temp: temp, path: path, overwrite: overwrite, before: FindInterrupted(path)}, nil
}

// shorten cuts a name to maxTempBase bytes, between two characters.
func shorten(base string) string {
	if len(base) <= maxTempBase {
		return base
	}
	base = base[:maxTempBase]
	for !utf8.ValidString(base) && len(base) > maxTempBase-utf8.UTFMax {
		base = base[:len(base)-1]
	}
	return base
}

// WriteAt implements io.WriterAt.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.file.WriteAt(p, off)
	f.length = max(f.length, off+int64(n))
	return n, err
}

// Path returns the final name.
func (f *File) Path() string { return f.path }

// Commit makes the content durable and gives the file its name. After a failure nothing is left behind; after success nothing
// of an earlier, interrupted job either. Without overwrite
// a file that has got the name in the meantime stays, and the error is fs.ErrExist.
func (f *File) Commit() error {
	err := f.file.Sync()
	if e := f.file.Close(); err == nil {
		err = e
	}
	f.file = nil
	if err == nil {
		err = f.rename()
	}
	if err != nil {
		_ = os.Remove(f.temp)
		return fmt.Errorf("finish %s: %w", f.path, err)
	}
	syncDir(filepath.Dir(f.path))
	_ = os.Remove(journalPath(f.path))
	f.forgetBefore()
	return nil
}

func (f *File) rename() error {
	if f.overwrite {
		return os.Rename(f.temp, f.path)
	}
	// A rename would replace what has appeared under the name since CreateFile looked; a link does not.
	err := os.Link(f.temp, f.path)
	switch {
	case err == nil:
		return os.Remove(f.temp)
	case errors.Is(err, fs.ErrExist):
		return fs.ErrExist
	}
	// A file system without hard links.
	if _, err := os.Lstat(f.path); err == nil {
		return fs.ErrExist
	}
	return os.Rename(f.temp, f.path)
}

// Abort removes what was written, not what an earlier job has left. It does nothing after Commit and Leave.
func (f *File) Abort() {
	if f.file == nil {
		return
	}
	_ = f.file.Close()
	f.file = nil
	_ = os.Remove(f.temp)
	if f.kept > 0 {
		_ = os.Remove(journalPath(f.path))
	}
}

// syncDir makes a rename durable where directories can be synced; elsewhere the file system sees to it.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil { //nolint:gosec // the user's own folder
		_ = d.Sync()
		_ = d.Close()
	}
}
