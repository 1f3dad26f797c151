// Package mediamtx runs the media server of that name for tests.
package mediamtx

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience is how long to wait for what should come soon, on a machine that may be busy.
const patience = time.Minute

// program returns the path of the mediamtx program, which `make test` has built.
var program = sync.OnceValues(func() (string, error) {
	_, here, _, _ := runtime.Caller(0)
	out, err := exec.Command(filepath.Join(filepath.Dir(here), "../../scripts/mediamtx.sh")).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
})

// Server is a running mediamtx, with every protocol on a port of its own on 127.0.0.1. Anyone may publish and read any path.
type Server struct {
	RTSP, RTMP, SRT, HLS int // ports
	RTSPS, RTMPS         int // with TLS

	t       *testing.T
	config  string
	command *exec.Cmd
	api     int
}

// lastPort is the last port that FreePort gave. It begins somewhere below the ports that the system gives to connections, so that
// none of those is met, and differs between two runs at once.
var lastPort atomic.Int32

func init() { lastPort.Store(int32(20000 + os.Getpid()*41%10000)) }

// FreePort returns a port that nobody uses by TCP and UDP.
func FreePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := int(lastPort.Add(1))
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		u, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		u.Close()
		return port
	}
	t.Fatal("no free port")
	return 0
}

// Start runs a server until the test ends. The test is skipped where mediamtx cannot be built.
func Start(t *testing.T) *Server {
	t.Helper()
	return start(t, "")
}

// StartTLS is Start with RTSP and RTMP by TLS beside the rest, with a certificate and its key in these PEM files.
func StartTLS(t *testing.T, cert, key string) *Server {
	t.Helper()
	return start(t, fmt.Sprintf(`rtspEncryption: optional
rtspServerCert: %[1]s
rtspServerKey: %[2]s
rtmpEncryption: optional
rtmpServerCert: %[1]s
rtmpServerKey: %[2]s
`, cert, key))
}

func start(t *testing.T, tls string) *Server {
	t.Helper()
	if _, err := program(); err != nil {
		t.Skipf("mediamtx could not be built: %v", err)
	}
	m := &Server{t: t, config: filepath.Join(t.TempDir(), "mediamtx.yml")}
	for _, p := range []*int{&m.RTSP, &m.RTMP, &m.SRT, &m.HLS, &m.api, &m.RTSPS, &m.RTMPS} {
		*p = FreePort(t)
	}
	config := fmt.Sprintf(`logLevel: warn
writeQueueSize: 16384
api: yes
apiAddress: 127.0.0.1:%[1]d
rtspAddress: 127.0.0.1:%[2]d
rtspTransports: [tcp]
rtspsAddress: 127.0.0.1:%[6]d
rtmpAddress: 127.0.0.1:%[3]d
rtmpsAddress: 127.0.0.1:%[7]d
%[8]ssrtAddress: 127.0.0.1:%[4]d
hlsAddress: 127.0.0.1:%[5]d
hlsVariant: mpegts
hlsAlwaysRemux: yes
hlsSegmentDuration: 400ms
hlsSegmentCount: 20
webrtc: no
paths:
  all_others:
`, m.api, m.RTSP, m.RTMP, m.SRT, m.HLS, m.RTSPS, m.RTMPS, tls)
	if err := os.WriteFile(m.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Restart()
	t.Cleanup(m.Kill)
	return m
}

// Restart starts the server again after Kill, on the same ports.
func (m *Server) Restart() {
	m.t.Helper()
	path, _ := program()
	m.command = exec.Command(path, m.config)
	m.command.Stderr, m.command.Stdout = os.Stderr, os.Stderr
	if err := m.command.Start(); err != nil {
		m.t.Fatal(err)
	}
	Until(m.t, "mediamtx answers", func() bool { return m.get("paths/list", nil) })
}

// Pause makes the server fall silent with all its connections open, until Continue.
func (m *Server) Pause() { _ = m.command.Process.Signal(syscall.SIGSTOP) }

// Continue ends a Pause.
func (m *Server) Continue() { _ = m.command.Process.Signal(syscall.SIGCONT) }

// Kill ends the server at once.
func (m *Server) Kill() {
	m.Continue()
	_ = m.command.Process.Kill()
	_ = m.command.Wait()
}

func (m *Server) get(what string, into any) bool {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	res, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/v3/%s", m.api, what))
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK && (into == nil || json.NewDecoder(res.Body).Decode(into) == nil)
}

// Ready waits until somebody publishes a path.
func (m *Server) Ready(t *testing.T, path string) {
	t.Helper()
	Until(t, "path "+path+" is published", func() bool {
		var list struct {
			Items []struct {
				Name  string
				Ready bool
			}
		}
		if !m.get("paths/list", &list) {
			return false
		}
		for _, p := range list.Items {
			if p.Name == path && p.Ready {
				return true
			}
		}
		return false
	})
}

// Until waits until ok, and fails the test when that takes too long.
func Until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// Address returns the address of a path to read, or to publish: the scheme decides which port it names.
func (m *Server) Address(scheme, path string, publish bool) string {
	switch scheme {
	case "rtsps":
		return fmt.Sprintf("rtsps://127.0.0.1:%d/%s", m.RTSPS, path)
	case "rtmps":
		return fmt.Sprintf("rtmps://127.0.0.1:%d/%s", m.RTMPS, path)
	case "rtsp":
		return fmt.Sprintf("rtsp://127.0.0.1:%d/%s", m.RTSP, path)
	case "rtmp":
		return fmt.Sprintf("rtmp://127.0.0.1:%d/%s", m.RTMP, path)
	case "http":
		return fmt.Sprintf("http://127.0.0.1:%d/%s/index.m3u8", m.HLS, path)
	}
	action := "read"
	if publish {
		action = "publish"
	}
	// The latency, in milliseconds, is what SRT gives a busy machine to deliver.
	return fmt.Sprintf("srt://127.0.0.1:%d?streamid=%s:%s&latency=1000", m.SRT, action, path)
}
