package live_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bluenviron/gortmplib/pkg/handshake"
	"go.uber.org/goleak"

	"upscaler/live"
	"upscaler/test/mediamtx"
)

var serverSchemes = []string{"srt", "rtsp", "rtmp"}

// ends reads a source until it ends and returns why. It fails when that takes longer than patience.
func ends(t *testing.T, s live.Source) error {
	t.Helper()
	late := time.AfterFunc(patience, func() { s.Close() })
	_, err := io.Copy(io.Discard, s)
	if !late.Stop() {
		t.Errorf("still open after %s", patience)
	}
	return err
}

// TestServerDies kills a server, which sources notice and which sinks survive.
func TestServerDies(t *testing.T) {
	t.Parallel()
	m := startMediamtx(t)
	feed(t, m.Address("rtsp", "in", true))
	m.Ready(t, "in")
	var sources sync.WaitGroup
	sinks := map[string]live.Sink{}
	n := loopback(t)
	n.Silence = 5 * time.Second // by SRT nobody says that the server is gone
	for _, scheme := range serverSchemes {
		s := open(t, n, m.Address(scheme, "in", false))
		begins(t, s)
		sources.Go(func() {
			var silent *live.SilentError
			// By UDP, which SRT runs over, the system may say that the port is gone, or nothing.
			if err := ends(t, s); err == nil || (errors.As(err, &silent) && scheme != "srt") {
				t.Errorf("%s ended with %v", scheme, err)
			}
			if _, err := s.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s can be read after its end", scheme)
			}
		})
		sinks[scheme] = sink(t, n, m.Address(scheme, "out-"+scheme, true))
		stream(t, sinks[scheme])
	}
	for _, scheme := range serverSchemes {
		m.Ready(t, "out-"+scheme)
		takes(t, sinks[scheme])
	}
	m.Kill()
	for _, scheme := range serverSchemes {
		mediamtx.Until(t, scheme+" sink notices", func() bool { return !sinks[scheme].Stats().Connected })
	}
	sources.Wait()
	m.Restart()
	for _, scheme := range serverSchemes {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			m.Ready(t, "out-"+scheme)
			takes(t, sinks[scheme])
			from := open(t, loopback(t), m.Address("srt", "out-"+scheme, false))
			compare(t, record(t, from, time.Second), expected{frames: 10, tolerance: 90, skew: 1000 * 90})
			if stats := sinks[scheme].Stats(); stats.Reconnects != 1 {
				t.Errorf("%+v", stats)
			}
		})
	}
}

// TestSilentServer stops a server in a way that leaves its connections open.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	m := startMediamtx(t)
	feed(t, m.Address("srt", "in", true))
	m.Ready(t, "in")
	n := loopback(t)
	n.Silence = 3 * time.Second
	var all sync.WaitGroup
	for _, scheme := range serverSchemes {
		s := open(t, n, m.Address(scheme, "in", false))
		begins(t, s)
		all.Go(func() {
			var silent *live.SilentError
			if err := ends(t, s); !errors.As(err, &silent) || silent.After != n.Silence {
				t.Errorf("%s ended with %v", scheme, err)
			}
		})
	}
	m.Pause()
	all.Wait()
}

func TestSilentUDP(t *testing.T) {
	t.Parallel()
	n := loopback(t)
	n.Silence = 50 * time.Millisecond
	var silent *live.SilentError
	if err := ends(t, open(t, n, fmt.Sprintf("udp://127.0.0.1:%d", mediamtx.FreePort(t)))); !errors.As(err, &silent) {
		t.Errorf("ended with %v", err)
	}
}

// valve passes TCP connections on to a port of this machine, until it is shut and nothing is read any more.
type valve struct {
	port   int
	mu     sync.Mutex // held while shut
	isShut bool
}

func (v *valve) shut() {
	v.mu.Lock()
	v.isShut = true
}

func (v *valve) open() {
	if v.isShut {
		v.isShut = false
		v.mu.Unlock()
	}
}

func startValve(t *testing.T, to int) *valve {
	t.Helper()
	// Left alone, Linux would hold some megabytes on this side.
	small := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10) })
	}}
	l, err := small.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{port: l.Addr().(*net.TCPAddr).Port}
	var done sync.WaitGroup
	pass := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 16<<10)
		for {
			n, err := from.Read(buf)
			v.mu.Lock()
			v.mu.Unlock() //nolint:staticcheck // only waits
			if err != nil {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	done.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to))
			if err != nil {
				in.Close()
				continue
			}
			done.Go(func() { pass(out, in) })
			done.Go(func() { pass(in, out) })
		}
	})
	t.Cleanup(func() {
		v.open()
		l.Close()
		done.Wait()
	})
	return v
}

// TestSlowSink has a connection that takes nothing for a while and then goes on.
func TestSlowSink(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	const length = 60 // seconds of ts
	ts := transportStream(t, "-stream_loop", "1", "-i", theClip(t), "-c", "copy")
	for _, scheme := range []string{"rtmp", "rtsp"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			m := startMediamtx(t)
			direct := map[string]int{"rtmp": m.RTMP, "rtsp": m.RTSP}[scheme]
			v := startValve(t, direct)
			n := loopback(t)
			n.SinkBuffer = 1 << 20
			n.Silence = time.Minute // what is slow is not gone
			to := sink(t, n, fmt.Sprintf("%s://127.0.0.1:%d/live/out", scheme, v.port))
			// send writes what is to be shown from one second until another, so many times as fast, or until enough is closed.
			send := func(from, until, speed int, enough <-chan struct{}) {
				const step = 20 // a second
				for i := from * step; i < until*step; i++ {
					start := time.Now()
					if _, err := to.Write(ts[i*len(ts)/(length*step) : (i+1)*len(ts)/(length*step)]); err != nil {
						t.Fatal(err)
					}
					if d := time.Since(start); d > n.Silence/2 {
						t.Errorf("writing took %s: it waits for the server", d)
					}
					if stats := to.Stats(); stats.QueuedBytes > n.SinkBuffer {
						t.Fatalf("%+v", stats)
					}
					select {
					case <-enough:
						return
					case <-time.After(time.Second / time.Duration(step*speed)):
					}
				}
			}
			send(0, 3, 4, nil)
			m.Ready(t, "live/out")
			takes(t, to)
			v.shut()
			send(3, 24, 40, nil)
			blocked := to.Stats()
			if blocked.DroppedFrames == 0 || !blocked.Connected {
				t.Errorf("while nothing is taken: %+v", blocked)
			}
			v.open()
			mediamtx.Until(t, "what was held up is sent", func() bool { return to.Stats().QueuedBytes == 0 })
			recorded := make(chan struct{})
			var recording []byte
			var err error
			go func() {
				defer close(recorded)
				var from live.Source
				if from, err = loopback(t).OpenSource(context.Background(), m.Address("rtmp", "live/out", false), nil); err != nil {
					return
				}
				defer from.Close()
				recording, err = tryRecord(from, time.Second)
			}()
			send(24, length, 1, recorded)
			<-recorded
			if err != nil {
				t.Fatal(err)
			}
			compare(t, recording, expected{frames: 10, tolerance: 90, skew: 1000 * 90, gaps: true})
			after := to.Stats()
			if after.Reconnects != 0 || after.DroppedFrames != blocked.DroppedFrames {
				t.Errorf("after it went on: %+v", after)
			}
			t.Logf("while blocked %+v, then %+v", blocked, after)
		})
	}
}

// TestStuckSink has a connection that takes nothing for so long that it counts as gone.
func TestStuckSink(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	ts := transportStream(t, "-i", theClip(t), "-c", "copy")
	for _, scheme := range []string{"rtmp", "rtsp"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			m := startMediamtx(t)
			v := startValve(t, map[string]int{"rtmp": m.RTMP, "rtsp": m.RTSP}[scheme])
			n := loopback(t)
			n.Silence = 500 * time.Millisecond
			to := sink(t, n, fmt.Sprintf("%s://127.0.0.1:%d/live/out", scheme, v.port))
			written := 0
			write := func() {
				part := ts[written%100*len(ts)/100 : (written%100+1)*len(ts)/100]
				if _, err := to.Write(part); err != nil {
					t.Fatal(err)
				}
				written++
			}
			for written < 10 {
				write()
			}
			m.Ready(t, "live/out")
			takes(t, to)
			v.shut()
			mediamtx.Until(t, "it counts as gone", func() bool {
				write()
				return !to.Stats().Connected
			})
			v.open()
			stop := stream(t, to)
			defer stop()
			takes(t, to)
			if stats := to.Stats(); stats.Reconnects == 0 {
				t.Errorf("%+v", stats)
			}
		})
	}
}

// TestClose interrupts whatever a source and a sink are doing.
func TestClose(t *testing.T) {
	t.Parallel()
	m := startMediamtx(t)
	feed(t, m.Address("rtsp", "in", true))
	m.Ready(t, "in")
	for _, scheme := range serverSchemes {
		s := open(t, loopback(t), m.Address(scheme, "in", false))
		time.AfterFunc(50*time.Millisecond, func() { s.Close() })
		if _, err := io.Copy(io.Discard, s); err == nil {
			t.Errorf("%s: no error after Close", scheme)
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		s, err := loopback(t).OpenSource(ctx, m.Address(scheme, "in", false), nil)
		if err != nil {
			t.Fatal(err)
		}
		why := errors.New("enough")
		time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
		if _, err := io.Copy(io.Discard, s); !errors.Is(err, why) {
			t.Errorf("%s: %v after the context ended", scheme, err)
		}
		s.Close()
		to := sink(t, loopback(t), m.Address(scheme, "out-"+scheme, true))
		stop := stream(t, to)
		m.Ready(t, "out-"+scheme)
		to.Close()
		stop()
		if _, err := to.Write([]byte("x")); err == nil {
			t.Errorf("%s: written after Close", scheme)
		}
	}
}

// TestRTMPEndsEarly connects to servers that end the connection before a stream is agreed on.
func TestRTMPEndsEarly(t *testing.T) {
	t.Parallel()
	for name, talk := range map[string]func(net.Conn){
		"at once":             func(net.Conn) {},
		"with another answer": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"after the handshake": func(c net.Conn) { _, _, _ = handshake.DoServer(c, false) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					talk(c)
					c.Close()
				}
			}()
			address := fmt.Sprintf("rtmp://%s/live/x", l.Addr())
			if s, err := loopback(t).OpenSource(context.Background(), address, nil); err == nil {
				s.Close()
				t.Error("it could be read")
			}
			changes := make(chan live.SinkChange, 100)
			to, err := loopback(t).OpenSink(context.Background(), address, func(c live.SinkChange) { changes <- c })
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			stop := stream(t, to)
			defer stop()
			for range 2 { // it is tried again
				if c := <-changes; c.Connected || c.Err == nil {
					t.Errorf("%+v", c)
				}
			}
		})
	}
}

// TestNobody connects to where nobody answers, one way or the other.
func TestNobody(t *testing.T) {
	before := goleak.IgnoreCurrent()
	deaf, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	addresses := []string{fmt.Sprintf("srt://%s?streamid=x", deaf.LocalAddr())}
	for _, scheme := range []string{"rtsp", "rtmp", "srt", "http"} {
		addresses = append(addresses, fmt.Sprintf("%s://127.0.0.1:%d/x", scheme, mediamtx.FreePort(t)))
	}
	var all sync.WaitGroup
	for _, a := range addresses {
		all.Go(func() {
			start := time.Now()
			if _, err := loopback(t).OpenSource(context.Background(), a, nil); err == nil {
				t.Errorf("%s: no error", a)
			} else {
				t.Logf("%s: %s: %v", time.Since(start).Round(time.Millisecond), a, err)
			}
		})
		all.Go(func() {
			s, err := loopback(t).OpenSink(context.Background(), a, nil)
			if err == nil {
				s.Close()
			}
		})
	}
	all.Wait()
	mediamtx.Until(t, "nothing is left running", func() bool { return goleak.Find(before) == nil })
}
