package live_test

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	"upscaler/live"
	"upscaler/test/mediamtx"
)

// stream sends the clip as an MPEG-TS to a sink, in real time and over and over, until the test ends or stop is called.
func stream(t *testing.T, s live.Sink) (stop func()) {
	t.Helper()
	return streamFile(t, s, theClip(t))
}

func streamFile(t *testing.T, s live.Sink, file string) (stop func()) {
	t.Helper()
	cmd := exec.Command("ffmpeg", "-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", file, "-c", "copy", "-f", "mpegts", "-flush_packets", "1", "-")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := out.Read(buf)
			if err != nil {
				return
			}
			if _, err := s.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		done.Wait()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func sink(t *testing.T, n *live.Network, address string) live.Sink {
	t.Helper()
	s, err := n.OpenSink(context.Background(), address, func(c live.SinkChange) { t.Logf("%s: %+v", address, c) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// takes waits until a sink is connected, which it knows a little later than the server.
func takes(t *testing.T, s live.Sink) {
	t.Helper()
	mediamtx.Until(t, "the sink is connected", func() bool { return s.Stats().Connected })
}

// TestPush sends to a real server by every protocol and reads it back.
func TestPush(t *testing.T) {
	t.Parallel()
	m := startMediamtx(t)
	for _, test := range []struct {
		scheme, readBy  string
		tolerance, skew int64
	}{
		{"srt", "srt", 0, 0},
		{"rtmp", "srt", 90, 90},
		{"rtsp", "rtmp", 90, 250 * 90}, // mediamtx counts from when packets arrive, see TestPull; a few milliseconds when idle
	} {
		t.Run(test.scheme, func(t *testing.T) {
			t.Parallel()
			to := sink(t, loopback(t), m.Address(test.scheme, test.scheme, true))
			stream(t, to)
			m.Ready(t, test.scheme)
			from := open(t, loopback(t), m.Address(test.readBy, test.scheme, false))
			compare(t, record(t, from, 2*time.Second), expected{frames: 20, tolerance: test.tolerance, skew: test.skew})
			if stats := to.Stats(); !stats.Connected || stats.Reconnects != 0 {
				t.Errorf("%+v", stats)
			}
		})
	}
}

func TestUDP(t *testing.T) {
	t.Parallel()
	address := fmt.Sprintf("udp://127.0.0.1:%d", mediamtx.FreePort(t))
	from := open(t, loopback(t), address)
	stream(t, sink(t, loopback(t), address))
	compare(t, record(t, from, 2*time.Second), expected{frames: 20})
}

// TestMulticast receives what is sent to a group on the loopback interface.
func TestMulticast(t *testing.T) {
	t.Parallel()
	n := loopback(t)
	n.Sources = append(n.Sources, pattern(t, "udp://239.0.0.0/8:*"))
	port := mediamtx.FreePort(t)
	from := open(t, n, fmt.Sprintf("udp://@239.255.77.1:%d?interface=lo", port))
	feed(t, fmt.Sprintf("udp://239.255.77.1:%d?localaddr=127.0.0.1&ttl=0", port))
	compare(t, record(t, from, time.Second), expected{frames: 10})
}
