package live_test

import (
	"errors"
	"strings"
	"testing"

	"upscaler/live"
)

func TestParsePattern(t *testing.T) {
	for in, want := range map[string]string{
		"rtsp://cam.local":            "rtsp://cam.local:554",
		"RTSP://Cam.Local:554":        "rtsp://cam.local:554",
		"https://*.example.org":       "https://*.example.org:443",
		"srt://*:9000-9010":           "srt://*:9000-9010",
		"udp://239.0.0.0/8:*":         "udp://239.0.0.0/8:*",
		"udp://239.1.2.3/8:5000":      "udp://239.0.0.0/8:5000",
		"rtmps://10.0.0.5:1-65535":    "rtmps://10.0.0.5:*",
		"rtmp://[::1]:1935":           "rtmp://[::1]:1935",
		"rtmp://[fd00::/8]:1935":      "rtmp://[fd00::/8]:1935",
		"srt://[::ffff:10.0.0.1]:900": "srt://10.0.0.1:900",
	} {
		p, err := live.ParsePattern(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if p.String() != want {
			t.Errorf("%s is %s, want %s", in, p, want)
		}
		if again, err := live.ParsePattern(p.String()); err != nil || again != p {
			t.Errorf("%s read again is %s (%v)", p, again, err)
		}
	}
	for _, in := range []string{
		"", "*", "cam.local", "rtsp://", "rtsp://:554", "file:///etc/passwd", "ftp://a:1", "srt://a", "udp://239.0.0.0/8",
		"rtsp://a:0", "rtsp://a:70000", "rtsp://a:2-1", "rtsp://a:1-", "rtsp://a:-1", "rtsp://a:x", "rtsp://a:554/path", "rtsp://u@a:554",
		"rtsp://a..b", "rtsp://*.*.b", "rtsp://a*.b", "rtsp://10.0.0.256", "rtsp://0x7f.1", "rtsp://2130706433", "rtsp://fe80::1%eth0:1",
		"rtsp://10.0.0.0/33:1", "rtsp://a?b:1", "rtsp://" + strings.Repeat("a", 300),
	} {
		if p, err := live.ParsePattern(in); err == nil {
			t.Errorf("%q was read as %s", in, p)
		}
	}
}

func TestCheckSource(t *testing.T) {
	n := &live.Network{}
	for _, s := range []string{"rtsp://cam.local", "https://*.example.org", "srt://*:9000-9010", "udp://239.0.0.0/8:*", "rtmp://10.0.0.0/24:1935", "rtsp://localhost:8554"} {
		n.Sources = append(n.Sources, pattern(t, s))
	}
	for _, addr := range []string{
		"rtsp://cam.local/x", "rtsp://user:secret@CAM.local:554/x", "https://cdn.example.org/a.m3u8?token=1", "https://a.b.example.org:443/",
		"srt://far.example.com:9000?streamid=x", "srt://10.1.1.1:9010", "srt://:9000?mode=listener", "srt://0.0.0.0:9000?mode=listener",
		"udp://239.1.2.3:1234", "udp://@239.1.2.3:1234", "rtmp://10.0.0.77/app/key", "rtmp://named.by.nobody/app/key", "rtsp://localhost:8554/x",
	} {
		if err := n.CheckSource(addr); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, addr := range []string{
		"rtsp://cam.local:8554/x", "rtsps://cam.local/x", "rtsp://cam.local.evil.org/x", "rtsp://evilcam.local/x", "https://example.org/", "http://cdn.example.org/",
		"srt://far.example.com:9011", "udp://10.0.0.1:1234", "udp://:1234", "rtmp://10.0.1.1/app/key", "rtmp://10.0.0.1:1936/app/key",
		"rtsp://10.0.0.5/x", "https://notexample.org/",
		// * is anyone but this machine itself.
		"srt://127.0.0.1:9000", "srt://[::1]:9000", "srt://169.254.169.254:9000", "srt://[::ffff:127.0.0.1]:9000", "srt://[fe80::1]:9000",
	} {
		var refused *live.RefusedError
		if err := n.CheckSource(addr); !errors.As(err, &refused) {
			t.Errorf("%s: %v, want it refused", addr, err)
		} else if strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "--allow-source") {
			t.Errorf("%s: unhelpful: %v", addr, err)
		}
	}
	for _, addr := range []string{
		"", "x", "file:///etc/passwd", "/etc/passwd", "concat:a|b", "rtsp:cam", "rtsp://", "rtsp://cam.local:0/", "rtsp://cam.local:99999/", "srt://far.example.com",
		"gopher://cam.local:554", "rtsp://0x7f.1/", "rtsp://[fe80::1%25eth0]/", "rtsp://a b/", "rtsp://" + strings.Repeat("a", 3000), "rtsp://cam.local:554\r\nX: y/",
	} {
		var wrong *live.AddressError
		if err := n.CheckSource(addr); !errors.As(err, &wrong) {
			t.Errorf("%q: %v, want it called wrong", addr, err)
		}
	}
	if err := n.CheckSource("ftp://user:secret@a:1/x?key=secret"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("tells a secret: %v", err)
	}
}

func TestCheckSink(t *testing.T) {
	n := &live.Network{Sources: []live.Pattern{pattern(t, "rtmp://*:*")}}
	var refused *live.RefusedError
	if err := n.CheckSink("rtmp://a.example.org/x/y"); !errors.As(err, &refused) || !strings.Contains(err.Error(), "--allow-sink") {
		t.Errorf("what sources allow counts for sinks: %v", err)
	}
	if err := new(live.Network).CheckSource("rtmp://a.example.org/x/y"); !errors.As(err, &refused) {
		t.Errorf("the zero network allows something: %v", err)
	}
	n.Sinks = []live.Pattern{pattern(t, "https://*:*"), pattern(t, "udp://*:*")}
	for _, addr := range []string{"https://a.example.org/x.m3u8", "udp://:5000"} {
		var wrong *live.AddressError
		if err := n.CheckSink(addr); !errors.As(err, &wrong) {
			t.Errorf("%s: %v, want it called wrong", addr, err)
		}
	}
}
