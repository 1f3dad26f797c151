package decode

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
)

func TestSpool(t *testing.T) {
	dir := t.TempDir()
	s, err := NewSpool(dir, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the spool has a name: %v %v", left, err)
	}
	if n, err := io.Copy(s, bytes.NewReader([]byte("0123456789"))); n != 10 || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
	var full *SpoolLimitError
	if n, err := s.Write([]byte("x")); n != 0 || !errors.As(err, &full) || full.Limit != 10 {
		t.Errorf("beyond the limit: %d %v", n, err)
	}
	if n, err := io.Copy(s, bytes.NewReader([]byte("more"))); n != 0 || !errors.As(err, &full) {
		t.Errorf("beyond the limit by io.Copy: %d %v", n, err)
	}
	if _, err := s.Seek(3, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); string(got) != "3456789" || err != nil {
		t.Errorf("read %q: %v", got, err)
	}
}

func TestSpoolInAFolderThatIsNot(t *testing.T) {
	if s, err := NewSpool(t.TempDir()+"/none", 10); err == nil {
		s.Close()
		t.Error("no error")
	}
}
