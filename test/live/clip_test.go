package live

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The test picture: two rows of eight blocks that say the frame's number in binary, and below them a field that is white in the
// first two frames of each second, when there is a beep.
const (
	clipWidth, clipHeight = 160, 96
	clipRate              = 25
	blockSize             = 16
	clipSeconds           = 120
)

// clip is the path of an MP4 of two minutes with such pictures.
var clip = sync.OnceValues(func() (string, error) { return makeClip("clip.mp4", clipWidth, clipHeight, clipSeconds) })

func makeClip(name string, width, height, seconds int) (string, error) {
	path := filepath.Join(folder, name)
	cmd := exec.Command("ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "gray", "-s", fmt.Sprintf("%dx%d", width, height),
		"-r", strconv.Itoa(clipRate), "-i", "-",
		"-f", "lavfi", "-i", "aevalsrc=sin(2*PI*1000*t)*lt(mod(t\\,1)\\,0.08)+0.02*(random(0)-0.5):s=48000:d="+strconv.Itoa(seconds),
		"-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", strconv.Itoa(clipRate),
		"-c:a", "aac", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return "", err
	}
	scale := width / clipWidth
	picture := make([]byte, width*height)
	for n := range seconds * clipRate {
		for y := range height {
			for x := range width {
				picture[y*width+x] = pixel(n, x/scale, y/scale)
			}
		}
		if _, err := in.Write(picture); err != nil {
			break
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	return path, nil
}

func pixel(n, x, y int) byte {
	if y < 2*blockSize {
		bit := y/blockSize*8 + x/blockSize
		if x < 8*blockSize && n>>bit&1 == 1 {
			return 235
		}
		return 16
	}
	if n%clipRate < 2 {
		return 235
	}
	return byte(60 + (x+y+n)%20)
}

// recording is what can be seen and heard in a file.
type recording struct {
	numbers []int     // of the frames
	times   []float64 // of the frames, in seconds
	flashes []float64
	beeps   []float64
}

// watch decodes a recording whose pictures are scale times those of the clip.
func watch(t *testing.T, path string, scale int) recording {
	t.Helper()
	var r recording
	width, height := clipWidth*scale, clipHeight*scale
	for _, line := range lines(t, path, "v:0", "packet=pts_time") {
		r.times = append(r.times, number(t, line))
	}
	raw := program(t, nil, "ffmpeg", "-v", "error", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-pix_fmt", "gray", "-f", "rawvideo", "-")
	if len(raw) != len(r.times)*width*height {
		t.Fatalf("%s: %d bytes of pictures for %d frames of %dx%d", path, len(raw), len(r.times), width, height)
	}
	for i, at := range r.times {
		picture := raw[i*width*height:]
		look := func(x, y int) bool { return picture[y*scale*width+x*scale] > 128 }
		n := 0
		for bit := range 16 {
			if look(bit%8*blockSize+blockSize/2, bit/8*blockSize+blockSize/2) {
				n |= 1 << bit
			}
		}
		r.numbers = append(r.numbers, n)
		if n%clipRate == 0 && look(clipWidth/2, 3*blockSize) {
			r.flashes = append(r.flashes, at)
		}
	}
	r.beeps = beeps(t, path)
	return r
}

// beeps returns when beeps begin.
func beeps(t *testing.T, path string) []float64 {
	t.Helper()
	const rate = 8000
	first := lines(t, path, "a:0", "packet=pts_time")
	if len(first) == 0 {
		return nil
	}
	// Gaps in the sound's time are filled, so that a sample's place tells its time.
	raw := program(t, nil, "ffmpeg", "-v", "error", "-copyts", "-i", path, "-map", "0:a:0", "-af", "aresample=async=1:min_hard_comp=0.01:first_pts="+
		strconv.Itoa(int(number(t, first[0])*48000))+",aresample="+strconv.Itoa(rate), "-ac", "1", "-f", "s16le", "-")
	var all []float64
	quiet := 0 // a beep under way at the beginning does not count
	for i := 0; i+1 < len(raw); i += 2 {
		v := int16(binary.LittleEndian.Uint16(raw[i:]))
		if v > 3000 || v < -3000 {
			if quiet > rate/2 {
				all = append(all, number(t, first[0])+float64(i/2)/rate)
			}
			quiet = 0
		} else {
			quiet++
		}
	}
	return all
}

// skew returns by how many seconds beeps come later than flashes, the largest and the smallest.
func (r recording) skew() (most, least float64, pairs int) {
	most, least = -1, 1
	for _, f := range r.flashes {
		for _, b := range r.beeps {
			if d := b - f; d > -0.4 && d < 0.4 {
				most, least = max(most, d), min(least, d)
				pairs++
			}
		}
	}
	return most, least, pairs
}

func lines(t *testing.T, path, stream, entries string) []string {
	t.Helper()
	out := program(t, nil, "ffprobe", "-v", "error", "-select_streams", stream, "-show_entries", entries, "-of", "csv=p=0", path)
	var all []string
	for line := range strings.Lines(string(out)) {
		if line = strings.Trim(line, ",\n "); line != "" {
			all = append(all, line)
		}
	}
	return all
}

func number(t *testing.T, s string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func program(t *testing.T, stdin io.Reader, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return out
}
