package live_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"upscaler/live"
	"upscaler/test/mediamtx"
)

// forbidden is an address of this machine that counts who comes, by TCP and by UDP.
type forbidden struct {
	port  int
	comes atomic.Int32
}

func forbid(t *testing.T) *forbidden {
	t.Helper()
	f := &forbidden{port: mediamtx.FreePort(t)}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", f.port))
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", f.port))
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.comes.Add(1)
			c.Close()
		}
	})
	done.Go(func() {
		for {
			if _, _, err := u.ReadFrom(make([]byte, 1)); err != nil {
				return
			}
			f.comes.Add(1)
		}
	})
	t.Cleanup(func() {
		l.Close()
		u.Close()
		done.Wait()
		if n := f.comes.Load(); n > 0 {
			t.Errorf("%d connections were made to where none is allowed", n)
		}
	})
	return f
}

func (f *forbidden) address(scheme, path string) string {
	return fmt.Sprintf("%s://127.0.0.1:%d/%s", scheme, f.port, path)
}

// refuses opens a source that is allowed itself, and wants it refused for where it leads.
func refuses(t *testing.T, n *live.Network, address, leadsTo string) {
	t.Helper()
	s, err := n.OpenSource(context.Background(), address, nil)
	if err == nil {
		_, err = io.Copy(io.Discard, s)
		s.Close()
	}
	var refused *live.RefusedError
	if !errors.As(err, &refused) || refused.From == "" || !strings.Contains(refused.Address, leadsTo) {
		t.Errorf("ended with %v, want it refused because it leads to %s", err, leadsTo)
	}
}

// rtspTalk is a server that gives every RTSP request the answer that answer makes of its method, and counts connections.
func rtspTalk(t *testing.T, answer func(method, url string) (status, body string)) (port int, requests func() []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var seen []string
	var done sync.WaitGroup
	talk := func(c net.Conn) {
		defer c.Close()
		r := bufio.NewReader(c)
		for {
			var lines []string
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line = strings.TrimSpace(line); line == "" {
					break
				}
				lines = append(lines, line)
			}
			mu.Lock()
			seen = append(seen, strings.Join(lines, "\n"))
			mu.Unlock()
			words := strings.Fields(lines[0])
			cseq := ""
			for _, line := range lines {
				if strings.HasPrefix(line, "CSeq:") {
					cseq = line
				}
			}
			status, body := answer(words[0], words[1])
			status, headers, _ := strings.Cut(status, "\n")
			fmt.Fprintf(c, "RTSP/1.0 %s\r\n%s\r\nContent-Length: %d\r\n", status, cseq, len(body))
			if headers != "" {
				fmt.Fprintf(c, "%s\r\n", strings.ReplaceAll(headers, "\n", "\r\n"))
			}
			fmt.Fprintf(c, "\r\n%s", body)
		}
	}
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() { talk(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		done.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

func only(t *testing.T, patterns ...string) *live.Network {
	t.Helper()
	n := &live.Network{Silence: time.Second}
	for _, p := range patterns {
		n.Sources = append(n.Sources, pattern(t, p))
		n.Sinks = append(n.Sinks, pattern(t, p))
	}
	return n
}

func TestRTSPRedirect(t *testing.T) {
	away := forbid(t)
	port, _ := rtspTalk(t, func(method, _ string) (string, string) {
		if method == "DESCRIBE" {
			return "302 Found\nLocation: " + away.address("rtsp", "secret"), ""
		}
		return "200 OK\nPublic: DESCRIBE", ""
	})
	here := fmt.Sprintf("rtsp://127.0.0.1:%d", port)
	refuses(t, only(t, here), here+"/cam", fmt.Sprint(away.port))
}

// TestRTSPRedirectAllowed shows that the test before is about permission and not about redirects being ignored.
func TestRTSPRedirectAllowed(t *testing.T) {
	there, requests := rtspTalk(t, func(string, string) (string, string) { return "404 Not Found", "" })
	port, _ := rtspTalk(t, func(method, _ string) (string, string) {
		if method == "DESCRIBE" {
			return fmt.Sprintf("302 Found\nLocation: rtsp://127.0.0.1:%d/x", there), ""
		}
		return "200 OK", ""
	})
	_, err := only(t, "rtsp://127.0.0.1:*").OpenSource(context.Background(), fmt.Sprintf("rtsp://127.0.0.1:%d/cam", port), nil)
	if err == nil || len(requests()) == 0 {
		t.Errorf("%v after %d requests", err, len(requests()))
	}
}

func TestRTSPRedirectInCircles(t *testing.T) {
	var here string
	port, requests := rtspTalk(t, func(method, _ string) (string, string) {
		if method == "DESCRIBE" {
			return "302 Found\nLocation: " + here + "/again", ""
		}
		return "200 OK", ""
	})
	here = fmt.Sprintf("rtsp://127.0.0.1:%d", port)
	if _, err := only(t, here).OpenSource(context.Background(), here+"/cam", nil); err == nil || !strings.Contains(err.Error(), "redirections") {
		t.Errorf("ended with %v", err)
	}
	if n := len(requests()); n > 40 {
		t.Errorf("%d requests were made", n)
	}
}

// TestSDP has a session whose description names other hosts wherever it can, and a transport that does too.
func TestSDP(t *testing.T) {
	away := forbid(t)
	sdp := strings.ReplaceAll(fmt.Sprintf(`v=0
o=- 0 0 IN IP4 127.0.0.1
s=x
c=IN IP4 127.0.0.1
t=0 0
a=control:%[1]s
m=video %[2]d RTP/AVP 96
c=IN IP4 127.0.0.1
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:%[1]s/trackID=0
`, away.address("rtsp", "secret"), away.port), "\n", "\r\n")
	port, requests := rtspTalk(t, func(method, _ string) (string, string) {
		switch method {
		case "DESCRIBE":
			return "200 OK\nContent-Type: application/sdp\nContent-Base: " + away.address("rtsp", "base/"), sdp
		case "SETUP":
			return fmt.Sprintf("200 OK\nSession: 1\nTransport: RTP/AVP;unicast;destination=127.0.0.1;source=127.0.0.1;client_port=%[1]d-%[2]d;server_port=%[1]d-%[2]d",
				away.port, away.port+1), ""
		}
		return "200 OK\nPublic: DESCRIBE, SETUP, PLAY", ""
	})
	here := fmt.Sprintf("rtsp://127.0.0.1:%d", port)
	s, err := only(t, here).OpenSource(context.Background(), here+"/cam", nil)
	if err == nil {
		_, err = io.Copy(io.Discard, s)
		s.Close()
	}
	if err == nil {
		t.Error("media by UDP from elsewhere were taken")
	}
	for _, r := range requests() {
		if strings.HasPrefix(r, "SETUP") && !strings.Contains(r, "RTP/AVP/TCP") {
			t.Errorf("UDP was asked for:\n%s", r)
		}
	}
}

// hlsServer serves texts by path; a text that begins with "->" is a redirect, and an empty one never comes.
func hlsServer(t *testing.T, texts map[string]string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := texts[r.URL.Path]
		switch to, isRedirect := strings.CutPrefix(text, "->"); {
		case !ok:
			http.NotFound(w, r)
		case text == "":
			<-r.Context().Done()
		case isRedirect:
			http.Redirect(w, r, to, http.StatusFound)
		default:
			fmt.Fprint(w, text)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func media(segment string) string {
	return "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXTINF:2,\n" + segment + "\n#EXT-X-ENDLIST\n"
}

func TestPlaylists(t *testing.T) {
	away := forbid(t)
	there := away.address("http", "secret.ts")
	for name, test := range map[string]struct {
		texts   map[string]string
		leadsTo string
	}{
		"segment":          {map[string]string{"/a.m3u8": media(there)}, there},
		"segment by https": {map[string]string{"/a.m3u8": media(away.address("https", "x"))}, away.address("https", "x")},
		"first segment redirects": {map[string]string{
			"/a.m3u8": media("s.ts"), "/s.ts": "->" + there,
		}, there},
		"playlist redirects": {map[string]string{"/a.m3u8": "->" + there}, there},
		"two redirects":      {map[string]string{"/a.m3u8": "->/b.m3u8", "/b.m3u8": "->" + there}, there},
		"variant": {map[string]string{
			"/a.m3u8": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000,CODECS=\"avc1.42c01e\"\n" + there + "\n",
		}, there},
		"rendition": {map[string]string{
			"/a.m3u8": "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"a\",URI=\"" + there + "\"\n" +
				"#EXT-X-STREAM-INF:BANDWIDTH=1000,CODECS=\"avc1.42c01e\",AUDIO=\"a\"\nv.m3u8\n",
			"/v.m3u8": media("s.ts"),
			"/s.ts":   "",
		}, there},
		"init segment": {map[string]string{
			"/a.m3u8": "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n#EXT-X-MAP:URI=\"" + there + "\"\n#EXTINF:2,\ns.mp4\n#EXT-X-ENDLIST\n",
		}, there},
	} {
		t.Run(name, func(t *testing.T) {
			here := hlsServer(t, test.texts)
			refuses(t, only(t, here, "https://127.0.0.1:443"), here+"/a.m3u8", test.leadsTo)
		})
	}
	for name, uri := range map[string]string{
		"file": "file:///etc/passwd", "ftp": "ftp://127.0.0.1/x", "data": "data:text/plain,x", "rtsp": away.address("rtsp", "x"),
	} {
		t.Run(name, func(t *testing.T) {
			here := hlsServer(t, map[string]string{"/a.m3u8": media(uri)})
			_, err := only(t, here, "rtsp://127.0.0.1:*").OpenSource(context.Background(), here+"/a.m3u8", nil)
			var wrong *live.AddressError
			if !errors.As(err, &wrong) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestPlaylistWithoutEnd(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "#EXTM3U\n")
		for line := strings.Repeat("#", 1<<16) + "\n"; ; {
			if _, err := fmt.Fprint(w, line); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	if _, err := only(t, s.URL).OpenSource(context.Background(), s.URL, nil); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("ended with %v", err)
	}
}

// nameServer answers every question about IPv4 with what next returns.
func nameServer(t *testing.T, next func() netip.Addr) *net.Resolver {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if q.Unpack(buf[:n]) != nil || len(q.Questions) != 1 {
				continue
			}
			q.Response, q.Additionals = true, nil
			if question := q.Questions[0]; question.Type == dnsmessage.TypeA {
				q.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class},
					Body:   &dnsmessage.AResource{A: next().As4()},
				}}
			}
			if answer, err := q.Pack(); err == nil {
				_, _ = c.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() {
		c.Close()
		done.Wait()
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
}

// TestNames has names that turn out to be this machine.
func TestNames(t *testing.T) {
	away := forbid(t)
	address := func(scheme string) string { return fmt.Sprintf("%s://cam.example.org:%d/x", scheme, away.port) }
	for _, p := range []string{"*", "*.example.org", "cam.example.org", "10.0.0.0/8"} {
		for _, scheme := range []string{"rtsp", "rtmp", "srt", "http"} {
			n := only(t, scheme+"://"+p+":*")
			n.Resolver = nameServer(t, func() netip.Addr { return netip.MustParseAddr("127.0.0.1") })
			if err := n.CheckSource(address(scheme)); err != nil {
				t.Errorf("%s: refused before it is looked up: %v", p, err)
			}
			var refused *live.RefusedError
			if _, err := n.OpenSource(context.Background(), address(scheme), nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "127.0.0.1") {
				t.Errorf("%s by %s: %v", p, scheme, err)
			}
			if scheme == "http" {
				continue
			}
			fails := make(chan error, 1)
			s, err := n.OpenSink(context.Background(), address(scheme), func(c live.SinkChange) { fails <- c.Err })
			if err != nil {
				t.Fatal(err)
			}
			if scheme == "srt" {
				if err := <-fails; !errors.As(err, &refused) {
					t.Errorf("%s by %s: %v", p, scheme, err)
				}
				if _, err := s.Write(make([]byte, 188)); !errors.As(err, &refused) {
					t.Errorf("%s by %s: writing goes on: %v", p, scheme, err)
				}
			}
			s.Close()
		}
	}
}

// TestNameThatChanges has a name that is harmless when it is first asked for and this machine from then on.
func TestNameThatChanges(t *testing.T) {
	away := forbid(t)
	var asked atomic.Int32
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := only(t, "rtsp://*:*")
	n.Resolver = nameServer(t, func() netip.Addr {
		if asked.Add(1) == 1 {
			time.AfterFunc(300*time.Millisecond, cancel)
			return netip.MustParseAddr("192.0.2.1") // nobody
		}
		return netip.MustParseAddr("127.0.0.1")
	})
	_, err := n.OpenSource(ctx, fmt.Sprintf("rtsp://cam.example.org:%d/x", away.port), nil)
	if err == nil || asked.Load() != 1 {
		t.Errorf("%v after %d questions", err, asked.Load())
	}
}

// TestNameOfAllowedNetwork shows that a network allows the names of its addresses.
func TestNameOfAllowedNetwork(t *testing.T) {
	port, requests := rtspTalk(t, func(string, string) (string, string) { return "404 Not Found", "" })
	n := only(t, "rtsp://127.0.0.0/8:*")
	n.Resolver = nameServer(t, func() netip.Addr { return netip.MustParseAddr("127.0.0.1") })
	if _, err := n.OpenSource(context.Background(), fmt.Sprintf("rtsp://cam.example.org:%d/x", port), nil); err == nil || len(requests()) == 0 {
		t.Errorf("%v after %d requests", err, len(requests()))
	}
}
