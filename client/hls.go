package client

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bluenviron/gohlslib/v2/pkg/playlist"
)

const (
	// PlaylistName is the name of the playlist that an HLSFolder keeps.
	PlaylistName = "index.m3u8"

	// hlsVersion is the version of HLS that knows durations of fractions of a second; nothing newer is used.
	hlsVersion = 3

	// keptSegments is how many segments stay in the folder after they have left the playlist: players may still be reading them.
	keptSegments = 3
)

// HLSFolder is a LiveOutput that stores the segments of a live job in a folder, with a playlist of the last ones. A web server that
// serves the folder is all that players need.
type HLSFolder struct {
	folder string
	length int

	current  *os.File
	number   int
	segments []*playlist.MediaSegment
	longest  time.Duration
}

// NewHLSFolder makes the folder if there is none. The playlist names the last length segments, all when that is 0; older ones are
// removed. The caller calls Close.
func NewHLSFolder(folder string, length int) (*HLSFolder, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	return &HLSFolder{folder: folder, length: length}, nil
}

func (h *HLSFolder) name(number int) string { return fmt.Sprintf("segment-%06d.ts", number) }

// Write implements io.Writer.
func (h *HLSFolder) Write(p []byte) (int, error) {
	if h.current == nil {
		f, err := os.Create(filepath.Join(h.folder, h.name(h.number)))
		if err != nil {
			return 0, err
		}
		h.current = f
	}
	return h.current.Write(p)
}

// EndFile implements LiveOutput: the segment is complete, and the playlist names it.
func (h *HLSFolder) EndFile(duration time.Duration) error {
	if h.current == nil {
		return nil
	}
	err := h.current.Close()
	h.current = nil
	if err != nil {
		return err
	}
	h.segments = append(h.segments, &playlist.MediaSegment{Duration: duration, URI: h.name(h.number)})
	h.longest = max(h.longest, duration)
	h.number++
	if h.length > 0 && len(h.segments) > h.length {
		h.segments = h.segments[1:]
		if old := h.number - h.length - keptSegments - 1; old >= 0 {
			_ = os.Remove(filepath.Join(h.folder, h.name(old))) // what stays behind does no harm
		}
	}
	return h.writePlaylist(false)
}

// Close ends the playlist. A segment that is not complete is left out of it.
func (h *HLSFolder) Close() error {
	if h.current != nil {
		_ = h.current.Close()
		_ = os.Remove(h.current.Name())
		h.current = nil
	}
	if len(h.segments) == 0 {
		return nil
	}
	return h.writePlaylist(true)
}

// writePlaylist replaces the playlist at once: players read it at any time.
func (h *HLSFolder) writePlaylist(ended bool) error {
	p := playlist.Media{
		Version:        hlsVersion,
		TargetDuration: int((h.longest + time.Second - 1) / time.Second),
		MediaSequence:  h.number - len(h.segments),
		Segments:       h.segments,
		Endlist:        ended,
	}
	data, err := p.Marshal()
	if err != nil {
		return fmt.Errorf("writing the playlist: %w", err)
	}
	path := filepath.Join(h.folder, PlaylistName)
	if err := os.WriteFile(path+".new", data, 0o644); err != nil { //nolint:gosec // for a web server to read
		return err
	}
	return os.Rename(path+".new", path)
}
