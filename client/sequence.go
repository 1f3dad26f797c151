package client

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
)

// Sequence writes numbered pictures. Each gets its name when it is whole; those that are stay, whatever happens later.
type Sequence struct {
	pattern   string
	overwrite bool
	file      *File // the current one; nil before the first
	at        int64
}

// NewSequence returns a Sequence of files named by pattern (see SequenceName). Its Next is for ToFiles. The caller must call
// Commit or Abort.
func NewSequence(pattern string, overwrite bool) (*Sequence, error) {
	if _, ok := SequenceName(pattern, 1); !ok {
		return nil, &fs.PathError{Op: "create", Path: pattern, Err: errors.New("not the name of a sequence, such as " + filepath.Join("folder", "frame-%06d.png"))}
	}
	return &Sequence{pattern: pattern, overwrite: overwrite}, nil
}

// Next completes the current file and begins another. It fails with fs.ErrExist when there is one of that name.
func (s *Sequence) Next(number uint32) (io.Writer, error) {
	if err := s.Commit(); err != nil {
		return nil, err
	}
	name, _ := SequenceName(s.pattern, number+1)
	file, err := CreateFile(name, s.overwrite)
	if err != nil {
		return nil, err
	}
	s.file, s.at = file, 0
	return s, nil
}

// Write implements io.Writer: it adds to the current file.
func (s *Sequence) Write(p []byte) (int, error) {
	n, err := s.file.WriteAt(p, s.at)
	s.at += int64(n)
	return n, err
}

// Commit completes the last file.
func (s *Sequence) Commit() error {
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	return file.Commit()
}

// Abort removes a file that is not whole. It does nothing after Commit.
func (s *Sequence) Abort() {
	if s.file != nil {
		s.file.Abort()
		s.file = nil
	}
}
