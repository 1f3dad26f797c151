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
	"syscall"
	"testing"
	"time"
)

// patience is how long to wait for what should come soon, on a machine that may be busy.
const patience = 20 * time.Second

// program is the path of mediamtx, which `make test` has built.
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
	t                         *testing.T
	config                    string
	command                   *exec.Cmd
	rtsp, rtmp, srt, hls, api int
}

// Start runs a server until the test ends. The test is skipped where mediamtx cannot be built.
func Start(t *testing.T) *Server {
	t.Helper()
	if _, err := program(); err != nil {
		t.Skipf("mediamtx could not be built: %v", err)
	}
	m := &Server{t: t, config: filepath.Join(t.TempDir(), "mediamtx.yml")}
	for _, p := range []*int{&m.rtsp, &m.rtmp, &m.srt, &m.hls, &m.api} {
		*p = FreePort(t)
	}
	config := fmt.Sprintf(`logLevel: warn
api: yes
apiAddress: 127.0.0.1:%d
rtspAddress: 127.0.0.1:%d
rtspTransports: [tcp]
rtmpAddress: 127.0.0.1:%d
srtAddress: 127.0.0.1:%d
hlsAddress: 127.0.0.1:%d
hlsVariant: mpegts
hlsAlwaysRemux: yes
hlsSegmentDuration: 400ms
hlsSegmentCount: 5
webrtc: no
paths:
  all_others:
`, m.api, m.rtsp, m.rtmp, m.srt, m.hls)
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

// Kill ends the server at once.
func (m *Server) Kill() {
	m.Continue()
	_ = m.command.Process.Kill()
	_ = m.command.Wait()
}

// Pause makes the server fall silent with all its connections open, until Continue.
func (m *Server) Pause() { _ = m.command.Process.Signal(syscall.SIGSTOP) }

// Continue ends a Pause.
func (m *Server) Continue() { _ = m.command.Process.Signal(syscall.SIGCONT) }

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
func (m *Server) Ready(path string) {
	m.t.Helper()
	Until(m.t, "path "+path+" is published", func() bool {
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

// Address returns the address of a path to read, or to publish, by the scheme: rtsp, rtmp, srt, or http for HLS.
func (m *Server) Address(scheme, path string, publish bool) string {
	switch scheme {
	case "rtsp":
		return fmt.Sprintf("rtsp://127.0.0.1:%d/%s", m.rtsp, path)
	case "rtmp":
		return fmt.Sprintf("rtmp://127.0.0.1:%d/%s", m.rtmp, path)
	case "http":
		return fmt.Sprintf("http://127.0.0.1:%d/%s/index.m3u8", m.hls, path)
	}
	action := "read"
	if publish {
		action = "publish"
	}
	return fmt.Sprintf("srt://127.0.0.1:%d?streamid=%s:%s", m.srt, action, path)
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

// FreePort returns a port that nobody uses by TCP and UDP.
func FreePort(t *testing.T) int {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		if u, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			u.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}
