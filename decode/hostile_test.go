package decode

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"upscaler/internal/av"
	"upscaler/internal/frame"
)

// A crash in C ends the whole process, so hostile inputs are decoded in a child: this test binary once more, which reads inputs
// from standard input and answers each with a line of JSON. The parent watches its time and its memory.

// hostileChild is the environment variable that makes the test binary such a child.
const hostileChild = "UPSCALER_TEST_DECODE_CHILD"

const (
	// hostileTime is how long the test runs by itself; hostileTimeVariable names another time, as `make fuzz` does.
	hostileTime         = 8 * time.Second
	hostileTimeVariable = "UPSCALER_FUZZ_TIME"
	// hostileSeedVariable names the seed of the random numbers of an earlier run.
	hostileSeedVariable = "UPSCALER_FUZZ_SEED"

	// hostileMemory is the most memory that an input may add to what the child holds, in bytes: 64 MiB of frames, as much again
	// for the decoder's own, and what the headers claim. The worst that was seen are 4 KB of MP4 whose tables claim so many samples
	// of sound that FFmpeg's index of them takes 280 MiB; av's bound of a single block holds for it.
	hostileMemory = 400 << 20

	// hostileResident is the most memory a child may hold after many inputs, in bytes: with what the allocator has not given back.
	hostileResident = 2 * hostileMemory

	hostileFailures = 10 // end the test: more would only flood its log
)

// answer is what the child says of one input.
type answer struct {
	Frames  int
	Kind    string // of the InputError, empty for none
	Untyped string // an error that is no InputError
	Left    int64  // contexts and bytes not given back
	Peak    int64  // the most memory held since the last answer, in bytes
}

// decodeForParent is the child: it decodes inputs, each preceded by its length in four bytes, until they end.
func decodeForParent(in io.Reader, out io.Writer) int {
	debug.SetGCPercent(20) // what is measured is not to be garbage of the input before
	reader, answers := bufio.NewReader(in), json.NewEncoder(out)
	for {
		var size uint32
		if err := binary.Read(reader, binary.BigEndian, &size); err != nil {
			return 0
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(reader, b); err != nil {
			return 1
		}
		// Linux forgets the highest memory use of a process when it is told this (proc(5), clear_refs).
		_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
		pool := frame.NewPool(fuzzMemory)
		var a answer
		var bad *InputError
		frames, err := decodeAny(context.Background(), b, pool)
		switch {
		case errors.As(err, &bad):
			a.Kind = bad.Kind.String()
		case err != nil:
			a.Untyped = err.Error()
		}
		a.Frames, a.Left, a.Peak = frames, int64(av.LiveContexts())+pool.InUse(), memory("self", "VmHWM:")
		if err := answers.Encode(a); err != nil {
			return 1
		}
	}
}

// memory returns a line of a process's status in bytes, 0 where there is none.
func memory(process, line string) int64 {
	b, _ := os.ReadFile(filepath.Join("/proc", process, "status"))
	_, rest, _ := strings.Cut(string(b), line)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(fields[0], 10, 64)
	return n << 10
}

// child is the parent's side of a child.
type child struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan answer // closed when the child has ended
	stderr  bytes.Buffer
}

func startChild(t *testing.T) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0]), answers: make(chan answer)}
	c.cmd.Env = append(os.Environ(), hostileChild+"=1")
	c.cmd.Stderr = &c.stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.in = in
	go func() {
		defer close(c.answers)
		d := json.NewDecoder(out)
		for {
			var a answer
			if d.Decode(&a) != nil {
				return
			}
			c.answers <- a
		}
	}()
	return c
}

// stop ends the child and returns what it wrote to standard error, shortened.
func (c *child) stop() string {
	c.in.Close()
	_ = c.cmd.Process.Kill()
	for range c.answers {
	}
	_ = c.cmd.Wait()
	text := c.stderr.String()
	return text[:min(len(text), 3000)]
}

// decode has the child decode an input; verdict is empty when all is well. After any other the child must be stopped.
func (c *child) decode(b []byte) (a answer, verdict string) {
	pid := strconv.Itoa(c.cmd.Process.Pid)
	before := memory(pid, "VmRSS:")
	go func() { // the child may die in the middle of it
		_ = binary.Write(c.in, binary.BigEndian, uint32(len(b)))
		_, _ = c.in.Write(b)
	}()
	deadline := time.After(fuzzTime)
	watch := time.NewTicker(20 * time.Millisecond)
	defer watch.Stop()
	for {
		select {
		case a, alive := <-c.answers:
			switch {
			case !alive:
				return a, "the decoder crashed"
			case a.Untyped != "":
				return a, "an error without a type: " + a.Untyped
			case a.Left != 0:
				return a, fmt.Sprintf("%d contexts and bytes are still held", a.Left)
			case a.Peak-before > hostileMemory || a.Peak > hostileResident:
				return a, fmt.Sprintf("took %d MiB, %d more than before", a.Peak>>20, (a.Peak-before)>>20)
			}
			return a, ""
		case <-deadline:
			return a, fmt.Sprintf("not done after %v", fuzzTime)
		case <-watch.C:
			if n := memory(pid, "VmRSS:"); n-before > hostileMemory || n > hostileResident {
				return a, fmt.Sprintf("takes %d MiB, %d more than before", n>>20, (n-before)>>20)
			}
		}
	}
}

// hostileSeeds are the files that are broken, beside fuzzSeeds: with sound, subtitles, several codecs, odd structure.
var hostileSeeds = []struct{ name, args string }{
	{"sound.mp4", "-f lavfi -i sine=d=0.2 -c:v libx264 -pix_fmt yuv420p -c:a aac -movflags +faststart"},
	{"fragments.mp4", "-f lavfi -i sine=d=0.2 -c:v libx264 -pix_fmt yuv420p -c:a aac -movflags +frag_keyframe+empty_moov"},
	{"pcm.mov", "-f lavfi -i sine=d=0.2 -c:v prores_ks -c:a pcm_s16le -timecode 01:00:00:00"},
	{"sound.mkv", "-f lavfi -i sine=d=0.2 -c:v ffv1 -level 3 -c:a flac"},
	{"vp8.webm", "-f lavfi -i sine=d=0.2 -c:v libvpx -c:a libopus"},
	{"sound.ts", "-f lavfi -i sine=d=0.2 -c:v libx264 -pix_fmt yuv420p -c:a aac"},
	{"sound.flv", "-f lavfi -i sine=d=0.2 -c:v flv -c:a mp3"},
	{"sound.avi", "-f lavfi -i sine=d=0.2 -c:v mjpeg -pix_fmt yuvj422p -c:a pcm_s16le"},
	{"theora.ogv", "-c:v libtheora"},
	{"sound.asf", "-f lavfi -i sine=d=0.2 -c:v msmpeg4v3 -c:a wmav2"},
	{"ps.mpg", "-f lavfi -i sine=d=0.2 -c:v mpeg2video -c:a mp2 -f vob"},
	{"dnx.mov", "-vf scale=256:120 -c:v dnxhd -profile:v dnxhr_lb -pix_fmt yuv422p"},
	{"raw.h264", "-c:v libx264 -pix_fmt yuv420p"},
	{"raw.y4m", "-pix_fmt yuv420p"},
	{"huff.avi", "-c:v huffyuv -pix_fmt yuv422p"},
	{"utvideo.mkv", "-c:v utvideo -pix_fmt yuv422p"},
	{"interlaced.ts", "-c:v mpeg2video -flags +ildct+ilme -top 1"},
	{"anim.apng", "-plays 0"},
	{"picture.jpg", "-frames:v 1"},
	{"picture.webp", "-frames:v 1"},
	{"picture.tiff", "-frames:v 1"},
	{"picture.bmp", "-frames:v 1"},
}

// hostileFiles makes all seeds.
func hostileFiles(t *testing.T) (files [][]byte) {
	t.Helper()
	for _, seed := range slices.Concat(fuzzSeeds, hostileSeeds) {
		args := "-f lavfi -i testsrc2=size=64x64:rate=25 " + seed.args + " -frames:v 4"
		if strings.Contains(seed.args, "-frames:v") {
			args = strings.TrimSuffix(args, " -frames:v 4")
		}
		files = append(files, readFile(t, generate(t, seed.name, args)))
	}
	return files
}

// spoil returns a damaged copy of one of the files: what networks, disks, players' downloads and attackers do.
func spoil(r *rand.Rand, files [][]byte) []byte {
	b := slices.Clone(files[r.IntN(len(files))])
	for n := 1 + r.IntN(3); n > 0 && len(b) > 16; n-- {
		at := r.IntN(len(b))
		if r.IntN(2) == 0 {
			at = r.IntN(min(len(b), 2000)) // headers are where sizes and counts are
		}
		switch r.IntN(9) {
		case 0: // the end is missing
			b = b[:at]
		case 1: // single bits
			for range 1 + r.IntN(20) {
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			}
		case 2: // bits of one place
			for i := at; i < min(at+8, len(b)); i++ {
				b[i] ^= 1 << r.IntN(8)
			}
		case 3: // the beginning of one and the rest of another file, mostly of another kind
			other := files[r.IntN(len(files))]
			b = append(b[:at:at], other[r.IntN(len(other)):]...)
		case 4: // a piece of another file in between
			other := files[r.IntN(len(files))]
			from := r.IntN(len(other))
			b = slices.Insert(b, at, other[from:min(len(other), from+1+r.IntN(4000))]...)
		case 5: // a piece is missing
			b = slices.Delete(b, at, min(len(b), at+1+r.IntN(1000)))
		case 6: // a piece comes again
			b = slices.Insert(b, at, b[at:min(len(b), at+1+r.IntN(1000))]...)
		case 7: // a size or a count lies
			lies := []uint32{0, 1, 2, 0xff, 0x7fff, 0xffff, 0x10000, 0x00ffffff, 0x01000000, 0x10000000, 0x7fffffff, 0x80000000,
				0xfffffffe, 0xffffffff, uint32(len(b)), r.Uint32()}
			if lie := lies[r.IntN(len(lies))]; at+4 <= len(b) && r.IntN(2) == 0 {
				binary.BigEndian.PutUint32(b[at:], lie)
			} else if at+4 <= len(b) {
				binary.LittleEndian.PutUint32(b[at:], lie)
			}
		case 8: // nothing but zeros or ones for a while
			for i := at; i < min(at+1+r.IntN(500), len(b)); i++ {
				b[i] = byte(-r.IntN(2))
			}
		}
	}
	return b
}

// TestHostileInputs decodes damaged files in a child process: whatever comes, it ends in time, within its memory, with frames or an
// error that has a type, and gives everything back.
func TestHostileInputs(t *testing.T) {
	limit := hostileTime
	if testing.Short() {
		limit /= 4
	}
	if s := os.Getenv(hostileTimeVariable); s != "" {
		var err error
		if limit, err = time.ParseDuration(s); err != nil {
			t.Fatalf("%s: %v", hostileTimeVariable, err)
		}
	}
	seed := uint64(1) // the short form is the same each time: a failure is someone's change
	if os.Getenv(hostileTimeVariable) != "" {
		seed = rand.Uint64()
	}
	if s := os.Getenv(hostileSeedVariable); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", hostileSeedVariable, err)
		}
	}
	t.Logf("%s=%d", hostileSeedVariable, seed)
	files := hostileFiles(t)

	c := startChild(t)
	defer func() { c.stop() }()
	failures := 0
	kinds, count, peak, slowest := map[string]int{}, 0, int64(0), time.Duration(0)
	try := func(b []byte, name string) answer {
		count++
		start := time.Now()
		a, verdict := c.decode(b)
		peak, slowest = max(peak, a.Peak), max(slowest, time.Since(start))
		if verdict == "" {
			return a
		}
		text := c.stop()
		c = startChild(t)
		path := filepath.Join(os.TempDir(), fmt.Sprintf("hostile-%d-%s", seed, name))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Error(err)
		}
		failures++
		t.Errorf("%s: %s\n%s", path, verdict, text)
		return a
	}
	for i, b := range files { // they are sound: each must have pictures, or the test would test nothing
		if a := try(b, fmt.Sprintf("sound-%d", i)); a.Frames == 0 {
			t.Errorf("file %d: no frames, kind %q", i, a.Kind)
		}
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for n, start := 0, time.Now(); time.Since(start) < limit && failures < hostileFailures; n++ {
		a := try(spoil(r, files), strconv.Itoa(n))
		switch {
		case a.Kind != "":
			kinds[a.Kind]++
		default:
			kinds["decoded"]++
		}
	}
	t.Logf("%d inputs: %v; the most memory %d MiB, the slowest %v", count, kinds, peak>>20, slowest)
	for _, kind := range []string{"decoded", Damaged.String(), NotVideo.String()} {
		if kinds[kind] == 0 && count > 500 {
			t.Errorf("none of %d inputs ended as %q: they are not damaged as they should be", count, kind)
		}
	}
}

// TestBombs: pictures far larger than allowed are refused before they take memory, even where streams show up late (FLV).
func TestBombs(t *testing.T) {
	const most = 48 << 20 // bytes; three pictures of this size take 72 MiB
	plain := generate(t, "bomb.mkv", "-f lavfi -i color=black:size=4096x4096:rate=25 -frames:v 4 -c:v libx264 -preset ultrafast -pix_fmt yuv420p")
	c := startChild(t)
	defer func() { c.stop() }()
	for _, name := range []string{"bomb.flv", "bomb.mkv", "bomb.ts", "bomb.mp4"} {
		path := plain
		if name != "bomb.mkv" {
			path = generate(t, name, "-i "+plain+" -c copy")
		}
		before := memory(strconv.Itoa(c.cmd.Process.Pid), "VmRSS:")
		a, verdict := c.decode(readFile(t, path))
		if verdict != "" || a.Kind != TooLarge.String() || a.Frames > 0 || a.Peak-before > most {
			t.Errorf("%s: %q %q, %d frames, took %d MiB", name, verdict, a.Kind, a.Frames, (a.Peak-before)>>20)
		}
	}
}
