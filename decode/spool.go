package decode

import (
	"fmt"
	"io"
	"os"
)

// Spool is storage for one input that cannot be read front to back. Closing it frees the storage.
type Spool interface {
	io.ReadWriteSeeker
	io.Closer
}

// SpoolLimitError says that an input does not fit into its spool.
type SpoolLimitError struct{ Limit int64 }

func (e *SpoolLimitError) Error() string {
	return fmt.Sprintf("the input is larger than the %d bytes that may be stored of one input", e.Limit)
}

// NewSpool returns a spool in a temporary file of folder dir (the system's default when empty) that takes at most limit bytes;
// writing more fails with *SpoolLimitError. The file has no name any more when NewSpool returns: nothing is left behind when
// the process dies, and nobody else can open it.
func NewSpool(dir string, limit int64) (Spool, error) {
	f, err := os.CreateTemp(dir, "upscaler-spool-*")
	if err != nil {
		return nil, fmt.Errorf("creating a spool file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("removing the spool file's name: %w", err)
	}
	return &fileSpool{File: f, limit: limit}, nil
}

type fileSpool struct {
	*os.File
	limit   int64
	written int64
}

func (s *fileSpool) Write(p []byte) (int, error) {
	if int64(len(p)) > s.limit-s.written {
		return 0, &SpoolLimitError{Limit: s.limit}
	}
	n, err := s.File.Write(p)
	s.written += int64(n)
	return n, err
}

// ReadFrom hides the file's own, which would copy past the limit.
func (s *fileSpool) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{s}, r, make([]byte, spoolBuffer))
}

// WriteTo hides the file's own for the same reason as ReadFrom: one way in, one way out.
func (s *fileSpool) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(w, struct{ io.Reader }{s.File}, make([]byte, spoolBuffer))
}

// spoolBuffer is the size of a write into the spool in bytes.
const spoolBuffer = 256 << 10
