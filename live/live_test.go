package live_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"upscaler/live"
	"upscaler/test/mediamtx"
)

// patience is how long a test waits for what should come soon, on a machine that may be busy.
const patience = time.Minute

// folder holds what the tests share.
var folder string

func TestMain(m *testing.M) {
	// Nearly all that these tests do is wait.
	if flag.Parse(); flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = flag.Set("test.parallel", "8")
	}
	var err error
	if folder, err = os.MkdirTemp("", "live-test"); err != nil {
		panic(err)
	}
	if err := makeCertificate(); err != nil {
		panic(err)
	}
	os.Setenv("SSL_CERT_FILE", filepath.Join(folder, "cert.pem")) // what Go takes for the system's
	code := m.Run()
	// A call by SRT that was refused takes its time to end, see srtCall.
	for end := time.Now().Add(patience); code == 0; {
		if err = goleak.Find(); err == nil {
			break
		}
		if time.Now().After(end) {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.RemoveAll(folder)
	os.Exit(code)
}

// makeCertificate makes one for 127.0.0.1 that vouches for itself.
func makeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(folder, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(filepath.Join(folder, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

// startMediamtx runs a media server that knows TLS too, with the certificate of TestMain.
func startMediamtx(t *testing.T) *mediamtx.Server {
	t.Helper()
	return mediamtx.StartTLS(t, filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem"))
}

// loopback is a network that may reach everything on this machine, and is patient with programs that a busy machine starts late.
func loopback(t *testing.T) *live.Network {
	t.Helper()
	var all []live.Pattern
	for _, scheme := range []string{"rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "http", "https"} {
		all = append(all, pattern(t, scheme+"://127.0.0.1:*"))
	}
	return &live.Network{Sources: all, Sinks: all, Silence: patience / 3}
}

func pattern(t *testing.T, s string) live.Pattern {
	t.Helper()
	p, err := live.ParsePattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// clip is the path of an MP4 of thirty seconds and about 11 MB: H.264 with B-frames at 25 frames a second, a key frame each half
// second, and AAC. Every picture and every piece of sound is different, which tells where in the clip it is from.
var clip = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "clip.mp4")
	_, err := ffmpeg(nil, "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=30,noise=alls=20:allf=t", "-f", "lavfi", "-i", "anoisesrc=seed=1:sample_rate=48000:duration=30",
		"-c:v", "libx264", "-preset", "veryfast", "-g", "12", "-bf", "2", "-c:a", "aac", "-b:a", "64k", path)
	return path, err
})

func theClip(t *testing.T) string {
	t.Helper()
	path, err := clip()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func ffmpeg(stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.Command("ffmpeg", append([]string{"-v", "error", "-nostdin"}, args...)...)
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return out, err
}

// feed sends the clip to an address with ffmpeg, in real time and over and over, until the test ends or stop is called.
func feed(t *testing.T, address string) (stop func()) {
	t.Helper()
	args := []string{"-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", theClip(t), "-c", "copy"}
	switch scheme, _, _ := strings.Cut(address, ":"); scheme {
	case "rtsp":
		args = append(args, "-f", "rtsp", "-rtsp_transport", "tcp", address)
	case "rtmp":
		args = append(args, "-f", "flv", address)
	case "udp":
		args = append(args, "-f", "mpegts", "-pkt_size", "1316", address)
	default: // ffmpeg has the latency in microseconds
		args = append(args, "-f", "mpegts", strings.Replace(address, "latency=1000", "latency=1000000", 1))
	}
	cmd := exec.Command("ffmpeg", args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// piece is a decoded picture or a packet of sound: its time in 1/90000 s and a digest of what it holds.
type piece struct {
	pts    int64
	digest string
}

// inspect decodes the video of a file or of bytes, and takes its sound apart where there is any.
func inspect(t *testing.T, input string, data []byte) (video, audio []piece) {
	t.Helper()
	run := func(more ...string) ([]byte, error) {
		args := []string{"-copyts", "-i", input, "-map", "0:v:0?", "-fps_mode", "passthrough", "-enc_time_base", "1:90000", "-map", "0:a:0?", "-c:a", "copy"}
		return ffmpeg(bytes.NewReader(data), append(append(args, more...), "-f", "framemd5", "-")...)
	}
	out, err := run("-bsf:a", "aac_adtstoasc")
	if err != nil { // it is not AAC
		out, err = run()
	}
	if err != nil {
		t.Fatal(err)
	}
	streams := map[string]*[]piece{}
	rates := map[string]int64{}
	for line := range strings.Lines(string(out)) {
		if about, isHeader := strings.CutPrefix(line, "#"); isHeader {
			var what, stream, value string
			if n, _ := fmt.Sscanf(about, "%s %1s: %s", &what, &stream, &value); n < 3 {
				continue
			}
			switch what {
			case "tb":
				rates[stream], _ = strconv.ParseInt(strings.TrimPrefix(value, "1/"), 10, 64)
			case "media_type":
				streams[stream] = map[string]*[]piece{"video": &video, "audio": &audio}[value]
			}
			continue
		}
		fields := strings.Split(line, ",")
		if len(fields) < 6 {
			continue
		}
		pts, err := strconv.ParseInt(strings.TrimSpace(fields[2]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		list := streams[fields[0]]
		*list = append(*list, piece{pts * 90000 / rates[fields[0]], strings.TrimSpace(fields[5])})
	}
	return video, audio
}

var reference struct {
	once         sync.Once
	video, audio []piece
}

// expected is what a recording of the clip must be like.
type expected struct {
	frames    int   // at least so many
	tolerance int64 // by which times may be off, in 1/90000 s
	skew      int64 // by which the sound may be off against the video
	gaps      bool  // something may be left out
}

// compare checks that a recording has the pictures and the sound of the clip, which may have been sent several times in a row, all
// of them from the first one on, with the times that they have in the clip plus a constant. What was cut at the end of the
// recording is left out.
func compare(t *testing.T, recording []byte, want expected) {
	t.Helper()
	reference.once.Do(func() { reference.video, reference.audio = inspect(t, theClip(t), nil) })
	compareWith(t, reference.video, reference.audio, recording, want)
}

func compareWith(t *testing.T, clipVideo, clipAudio []piece, recording []byte, want expected) {
	t.Helper()
	video, audio := inspect(t, "pipe:0", recording)
	if len(video) < want.frames+4 || len(audio) < want.frames {
		t.Fatalf("%d frames and %d packets of sound in %d bytes", len(video), len(audio), len(recording))
	}
	v := offset(t, "video", video[:len(video)-4], clipVideo, want)
	a := offset(t, "sound", audio[:len(audio)-1], clipAudio, want)
	if d := a - v; d > want.skew || d < -want.skew {
		t.Errorf("the sound is %d ms late", d/90)
	}
	t.Logf("%d frames, %d packets of sound, which is %.1f ms late", len(video), len(audio), float64(a-v)/90)
}

// offset finds where in the clip a list begins and returns by how much its times differ.
func offset(t *testing.T, what string, got, clip []piece, want expected) (by int64) {
	t.Helper()
	length := clip[len(clip)-1].pts - clip[0].pts
	at, round, now := 0, 0, int64(0) // now is by in this round
	for i, g := range got {
		from := at
		for at < from+len(clip) && clip[at%len(clip)].digest != g.digest {
			at++
		}
		differ := g.pts - clip[at%len(clip)].pts
		switch {
		case at == from+len(clip):
			t.Fatalf("%s: piece %d of %d is not in the clip", what, i, len(got))
		case i == 0:
			by, now = differ, differ
		case at > from && !want.gaps:
			t.Fatalf("%s: after piece %d, %d are missing", what, i, at-from)
		case at/len(clip) > round: // ffmpeg begins the next round when the longer track has ended
			if gap := differ - now - length; gap < 0 || gap > 100*90 {
				t.Errorf("%s: at piece %d the clip begins again, %d after its end", what, i, gap)
			}
			now = differ
		}
		if round = at / len(clip); differ-now > want.tolerance || now-differ > want.tolerance {
			t.Errorf("%s: piece %d is at %d, %d from where it should be", what, i, g.pts, differ-now)
		}
		at++
	}
	return by
}

// record reads a source until so much time has passed since its first byte, and most of what it shows in this time has come. Then it
// closes it: comparing takes longer than a source that nobody reads holds what comes.
func record(t *testing.T, s live.Source, d time.Duration) []byte {
	t.Helper()
	got, err := tryRecord(s, d)
	s.Close()
	if err != nil {
		t.Fatalf("after %d bytes: %v", len(got), err)
	}
	return got
}

// countFrames returns how many video frames begin in an MPEG-TS.
func countFrames(ts []byte) (n int) {
	for i := 0; i+188 <= len(ts); i += 188 {
		if p := ts[i : i+188]; p[1]&0x40 != 0 && bytes.Contains(p, []byte{0, 0, 1, 0xe0}) {
			n++
		}
	}
	return n
}

// begins waits for the first bytes of a source.
func begins(t *testing.T, s live.Source) {
	t.Helper()
	if _, err := tryRecord(s, 0); err != nil {
		t.Fatal(err)
	}
}

func tryRecord(s io.Reader, d time.Duration) ([]byte, error) {
	var got bytes.Buffer
	buf := make([]byte, 64<<10)
	var first time.Time
	for first.IsZero() || time.Since(first) < d || countFrames(got.Bytes()) < int(18*d.Seconds()) {
		n, err := s.Read(buf)
		if err != nil {
			return got.Bytes(), err
		}
		if first.IsZero() {
			first = time.Now()
		}
		got.Write(buf[:n])
	}
	return got.Bytes(), nil
}

func open(t *testing.T, n *live.Network, address string) live.Source {
	t.Helper()
	s, err := n.OpenSource(context.Background(), address, func(text string) { t.Error("notice:", text) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestPull reads from a real server by every protocol it speaks.
func TestPull(t *testing.T) {
	t.Parallel()
	m := startMediamtx(t)
	feed(t, m.Address("srt", "by-srt", true))
	feed(t, m.Address("rtsp", "by-rtsp", true))
	m.Ready(t, "by-srt")
	m.Ready(t, "by-rtsp")
	for _, test := range []struct {
		scheme, path    string
		tolerance, skew int64
	}{
		{"srt", "by-srt", 0, 0},
		{"rtmp", "by-srt", 90, 90}, // has milliseconds
		{"rtmps", "by-srt", 90, 90},
		{"http", "by-srt", 0, 0},
		{"rtsps", "by-rtsp", 0, 500 * 90},
		// mediamtx itself counts the time of each RTP track from when it arrives, and ffmpeg sends the sound in large packets, late.
		// TestRTSPClocks has a server that knows better.
		{"rtsp", "by-rtsp", 0, 500 * 90},
	} {
		t.Run(test.scheme, func(t *testing.T) {
			t.Parallel()
			address := m.Address(test.scheme, test.path, false)
			if test.scheme == "http" {
				mediamtx.Until(t, "the playlist has segments", func() bool {
					s, err := loopback(t).OpenSource(context.Background(), address, nil)
					if err != nil {
						return false
					}
					return s.Close() == nil
				})
			}
			s := open(t, loopback(t), address)
			compare(t, record(t, s, 2*time.Second), expected{frames: 20, tolerance: test.tolerance, skew: test.skew})
		})
	}
}

// TestHTTPS reads a playlist over TLS, from a server with a certificate that is trusted and from one without.
func TestHTTPS(t *testing.T) {
	t.Parallel()
	m := startMediamtx(t)
	feed(t, m.Address("srt", "in", true))
	m.Ready(t, "in")
	origin, err := url.Parse(fmt.Sprintf("http://127.0.0.1:%d", m.HLS))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	trusted := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(origin))
	trusted.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	trusted.StartTLS()
	defer trusted.Close()
	var s live.Source
	mediamtx.Until(t, "the playlist has segments", func() bool {
		s, err = loopback(t).OpenSource(context.Background(), trusted.URL+"/in/index.m3u8", nil)
		return err == nil
	})
	defer s.Close()
	compare(t, record(t, s, time.Second), expected{frames: 10, tolerance: 90, skew: 90})

	unknown := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(origin))
	unknown.Config.ErrorLog = log.New(io.Discard, "", 0)
	unknown.StartTLS()
	defer unknown.Close()
	if _, err := loopback(t).OpenSource(context.Background(), unknown.URL+"/in/index.m3u8", nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("ended with %v", err)
	}
}
