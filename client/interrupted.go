package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"

	upscalev1 "upscaler/gen/upscale/v1"
)

// journal is what lies beside an output that grows, so that another process can go on with it after this one has died.
type journal struct {
	Version int    `json:"version"`
	Partial string `json:"partial"` // the growing file's name, in the journal's folder
	// Length is how many of its bytes are certain to be on the disk. What lies behind them may be lost or of an earlier file
	// after a power failure.
	Length int64 `json:"length"`
	// The input: its size, and the SHA-256 of what of it the output's bytes can depend on.
	InputSize int64           `json:"input_size"`
	InputRead int64           `json:"input_read"`
	InputHash string          `json:"input_sha256"`
	Settings  json.RawMessage `json:"settings"` // upscale.v1.Start as the server accepted it
}

const (
	journalVersion = 1
	// maxJournal is far more than a journal has, in bytes.
	maxJournal = 1 << 20
)

// journalPath returns where the journal of an output lies.
func journalPath(path string) string {
	dir, base := filepath.Split(path)
	return filepath.Join(dir, "."+shorten(base)+".resume.json")
}

// Interrupted is what an earlier job has left of an output.
type Interrupted struct {
	journal
	path     string // of the journal
	settings *upscalev1.Start
}

// FindInterrupted returns what an interrupted job has left of the output that was to be called path, nil when there is
// nothing that can be gone on with.
func FindInterrupted(path string) *Interrupted {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	i := &Interrupted{path: journalPath(path), settings: &upscalev1.Start{}}
	info, err := os.Stat(i.path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxJournal {
		return nil
	}
	text, err := os.ReadFile(i.path)
	if err != nil || json.Unmarshal(text, &i.journal) != nil || i.Version != journalVersion ||
		(protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(i.journal.Settings, i.settings) != nil {
		return nil
	}
	if i.Partial != filepath.Base(i.Partial) || !strings.HasPrefix(i.Partial, ".") || i.InputRead < 0 {
		return nil
	}
	if info, err = os.Lstat(i.partial()); err != nil || !info.Mode().IsRegular() || info.Size() < i.Length || i.Length <= 0 {
		return nil
	}
	return i
}

func (i *Interrupted) partial() string { return filepath.Join(filepath.Dir(i.path), i.Partial) }

// Size returns how many bytes of the output are there.
func (i *Interrupted) Size() int64 { return i.Length }

// Settings returns the settings of the interrupted job as its server accepted them, all defaults filled in.
func (i *Interrupted) Settings() *upscalev1.Start { return i.settings }

// Open opens the incomplete output, of which the first Size bytes count. The caller closes it.
func (i *Interrupted) Open() (*os.File, error) {
	return os.Open(i.partial())
}

// CheckInput reads as much of an input of size bytes as the interrupted job had, and fails with *InputChangedError unless it is the
// same. checked, which may be nil, is told of how many bytes of how many have been read.
func (i *Interrupted) CheckInput(ctx context.Context, in io.Reader, size int64, checked func(done, total int64)) error {
	if size != i.InputSize {
		return &InputChangedError{fmt.Sprintf("it has %d bytes, and had %d", size, i.InputSize)}
	}
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	for done := int64(0); done < i.InputRead; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := in.Read(buf[:min(int64(len(buf)), i.InputRead-done)])
		sum.Write(buf[:n])
		if done += int64(n); checked != nil {
			checked(done, i.InputRead)
		}
		if errors.Is(err, io.EOF) && done < i.InputRead {
			return &InputChangedError{"it has become shorter"}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return &InputError{Err: err}
		}
	}
	if hex.EncodeToString(sum.Sum(nil)) != i.InputHash {
		return &InputChangedError{fmt.Sprintf("its first %d bytes are not those they were", i.InputRead)}
	}
	return nil
}

// InputChangedError says that an input is not the one that the interrupted job had.
type InputChangedError struct{ Text string }

func (e *InputChangedError) Error() string {
	return "the input is not the one that was interrupted: " + e.Text
}

// Fingerprint reads an input for a job and keeps the digest of what has been read.
type Fingerprint struct {
	in   io.ReadSeeker
	size int64

	mu   sync.Mutex // the job reads in a goroutine of its own
	hash hash.Hash
	read int64
}

// NewFingerprint returns a reader of in, which has size bytes and stands at its beginning.
func NewFingerprint(in io.ReadSeeker, size int64) *Fingerprint {
	return &Fingerprint{in: in, size: size, hash: sha256.New()}
}

// Read implements io.Reader.
func (f *Fingerprint) Read(p []byte) (int, error) {
	n, err := f.in.Read(p)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hash.Write(p[:n])
	f.read += int64(n)
	return n, err
}

// Seek implements io.Seeker. It goes to the beginning, for another attempt, or tells the position.
func (f *Fingerprint) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence == io.SeekEnd {
		return 0, errors.New("client: a Fingerprint is read from its beginning")
	}
	if whence == io.SeekStart {
		f.mu.Lock()
		f.hash.Reset()
		f.read = 0
		f.mu.Unlock()
	}
	return f.in.Seek(offset, whence)
}

// sum returns the digest of the bytes read so far and their number.
func (f *Fingerprint) sum() (string, int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return hex.EncodeToString(f.hash.Sum(nil)), f.read
}

// Keep makes sure that what the file holds survives this process, and the power, so that Resume can go on with it. It may
// be called as often as that is worth the time the disk takes. input has given what the file was made of, and settings are
// those that the server has accepted. As long as an earlier job has left more than that, what it left stays instead.
func (f *File) Keep(input *Fingerprint, settings *upscalev1.Start) error {
	length := f.length
	if length <= f.kept || f.before != nil && length <= f.before.Length {
		return nil
	}
	if err := f.file.Sync(); err != nil {
		return err
	}
	text, err := protojson.Marshal(settings)
	if err != nil {
		return err
	}
	j := journal{Version: journalVersion, Partial: filepath.Base(f.temp), Length: length, InputSize: input.size, Settings: text}
	j.InputHash, j.InputRead = input.sum() // after the length: what was written has been made of no more than this
	if text, err = json.Marshal(j); err != nil {
		return err
	}
	if err := replaceFile(journalPath(f.path), text); err != nil {
		return err
	}
	f.kept = length
	f.forgetBefore()
	return nil
}

// Kept returns how many bytes Leave would leave.
func (f *File) Kept() int64 { return f.kept }

// Leave ends the file as it is, for another job to go on with, when Keep has kept anything of it. Else it does what Abort does.
func (f *File) Leave() {
	if f.file == nil {
		return
	}
	if f.kept == 0 {
		f.Abort()
		return
	}
	_ = f.file.Close()
	f.file = nil
}

// forgetBefore removes what an earlier job has left: this one has more, or is done.
func (f *File) forgetBefore() {
	if f.before != nil {
		_ = os.Remove(f.before.partial())
		f.before = nil
	}
}

// replaceFile makes path hold text, or leaves it as it was, whatever happens meanwhile.
func replaceFile(path string, text []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = temp.Write(text)
	if err == nil {
		err = temp.Sync()
	}
	if e := temp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return err
	}
	syncDir(filepath.Dir(path))
	return nil
}
