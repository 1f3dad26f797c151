package live_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bluenviron/gortsplib/v5"
	"github.com/bluenviron/gortsplib/v5/pkg/base"
	"github.com/bluenviron/gortsplib/v5/pkg/description"
	"github.com/bluenviron/gortsplib/v5/pkg/format"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/mpegts"
	"github.com/pion/rtp"

	"upscaler/live"
	"upscaler/test/mediamtx"
)

// tracksOf returns the codecs that an MPEG-TS has.
func tracksOf(t *testing.T, ts []byte) string {
	t.Helper()
	probe := exec.Command("ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", "-")
	probe.Stdin = bytes.NewReader(ts)
	out, err := probe.Output()
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(out))
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " ")
}

// TestCodecs sends every codec that is carried, by the protocols that take it apart, and reads it back by the same.
func TestCodecs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	m := startMediamtx(t)
	for _, test := range []struct {
		name   string
		encode []string
		tracks string
	}{
		{"hevc-ac3", []string{"-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:keyint=12", "-c:a", "ac3"}, "ac3 hevc"},
		{"h264-opus", []string{"-c:v", "copy", "-c:a", "libopus"}, "h264 opus"},
		{"h264-mp3", []string{"-c:v", "copy", "-c:a", "libmp3lame", "-ar", "44100"}, "h264 mp3"},
	} {
		file := filepath.Join(folder, test.name+".ts")
		if _, err := ffmpeg(nil, append(append([]string{"-y", "-i", theClip(t), "-t", "9"}, test.encode...), file)...); err != nil {
			t.Fatal(err)
		}
		video, audio := inspect(t, file, nil)
		for _, scheme := range []string{"rtsp", "rtmp"} {
			t.Run(test.name+" by "+scheme, func(t *testing.T) {
				t.Parallel()
				path := test.name + "-" + scheme
				streamFile(t, sink(t, loopback(t), m.Address(scheme, path, true)), file)
				m.Ready(t, path)
				var got []byte
				// By RTMP, sound other than AAC is not announced. gortmplib ends the connection when it comes after two seconds of
				// video, which it may where a server begins a connection's times at zero and goes on with those of the stream.
				mediamtx.Until(t, "it can be read", func() bool {
					s, err := loopback(t).OpenSource(context.Background(), m.Address(scheme, path, false), nil)
					if err != nil {
						return false
					}
					defer s.Close()
					got, err = tryRecord(s, 1500*time.Millisecond)
					return err == nil
				})
				if tracks := tracksOf(t, got); tracks != test.tracks {
					t.Errorf("it has %s, not %s", tracks, test.tracks)
				}
				compareWith(t, video, audio, got, expected{frames: 10, tolerance: 90, skew: 1000 * 90})
			})
		}
	}
}

// TestLeftOut reads a stream with sound that an MPEG-TS cannot hold, and says so.
func TestLeftOut(t *testing.T) {
	t.Parallel()
	m := startMediamtx(t)
	cmd := exec.Command("ffmpeg", "-v", "error", "-nostdin", "-re", "-i", theClip(t), "-c:v", "copy", "-c:a", "pcm_mulaw", "-ar", "8000", "-ac", "1",
		"-f", "rtsp", "-rtsp_transport", "tcp", m.Address("rtsp", "in", true))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	m.Ready(t, "in")
	var notices []string
	s, err := loopback(t).OpenSource(context.Background(), m.Address("rtsp", "in", false), func(text string) { notices = append(notices, text) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if tracks := tracksOf(t, record(t, s, time.Second)); tracks != "h264" {
		t.Errorf("it has %s", tracks)
	}
	if len(notices) != 1 || !strings.Contains(notices[0], "G711") {
		t.Errorf("notices: %q", notices)
	}
	// What goes wrong meanwhile ends the connection and nothing else.
	if _, err := loopback(t).OpenSource(context.Background(), m.Address("rtsp", "in", false), func(string) { panic("a bug") }); err == nil {
		t.Error("no error")
	}
}

// TestSilentTrack sends a stream whose tables promise sound that never comes.
func TestSilentTrack(t *testing.T) {
	t.Parallel()
	ts := transportStream(t, "-i", theClip(t), "-t", "10", "-c", "copy")
	var mute []byte
	for i := 0; i+188 <= len(ts); i += 188 {
		if pid := int(ts[i+1]&0x1f)<<8 | int(ts[i+2]); pid != 0x101 {
			mute = append(mute, ts[i:i+188]...)
		}
	}
	m := startMediamtx(t)
	for _, scheme := range []string{"rtmp", "rtsp"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var notice string
			s, err := loopback(t).OpenSink(context.Background(), m.Address(scheme, "mute-"+scheme, true), func(c live.SinkChange) {
				mu.Lock()
				defer mu.Unlock()
				notice += c.Notice
			})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Write(mute); err != nil {
				t.Fatal(err)
			}
			m.Ready(t, "mute-"+scheme)
			// The server knows of the stream before its answer, and with it the notice, is here.
			mediamtx.Until(t, "the sink says what it leaves out", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return strings.Contains(notice, "had nothing to send: 1")
			})
		})
	}
}

// TestSRTListener waits for a caller, who must know the passphrase and the stream id.
func TestSRTListener(t *testing.T) {
	t.Parallel()
	n := only(t, "srt://127.0.0.1:*", "srt://*:*")
	n.Silence = patience
	port := mediamtx.FreePort(t)
	to := sink(t, n, fmt.Sprintf("srt://127.0.0.1:%d?mode=listener&passphrase=correct-horse&streamid=a", port))
	for wrong, why := range map[string]string{
		"passphrase=correct-house&streamid=a": "passphrase", "streamid=a": "passphrase", "passphrase=correct-horse&streamid=b": "stream id",
	} {
		var err error
		mediamtx.Until(t, "somebody listens", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			var s live.Source
			if s, err = n.OpenSource(ctx, fmt.Sprintf("srt://127.0.0.1:%d?%s", port, wrong), nil); err == nil {
				s.Close()
				return true
			}
			return strings.Contains(err.Error(), "refuses")
		})
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s ended with %v", wrong, err)
		}
	}
	var from live.Source
	mediamtx.Until(t, "the right one is let in", func() bool {
		s, err := n.OpenSource(context.Background(), fmt.Sprintf("srt://127.0.0.1:%d?passphrase=correct-horse&streamid=a", port), nil)
		from = s
		return err == nil
	})
	defer from.Close()
	stream(t, to)
	compare(t, record(t, from, time.Second), expected{frames: 10})
	for _, address := range []string{"srt://10.0.0.1:9000?fc=1", "srt://10.0.0.1:9000?latency=99999", "srt://10.0.0.1:9000?passphrase=short", "srt://10.0.0.1:9000?mode=rendezvous"} {
		var wrong *live.AddressError
		if _, err := n.OpenSource(context.Background(), address, nil); !errors.As(err, &wrong) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// rtspServer is a server that knows when what it sends is due.
type rtspServer struct{ stream *gortsplib.ServerStream }

func (s *rtspServer) OnDescribe(*gortsplib.ServerHandlerOnDescribeCtx) (*base.Response, *gortsplib.ServerStream, error) {
	return &base.Response{StatusCode: base.StatusOK}, s.stream, nil
}

func (s *rtspServer) OnSetup(*gortsplib.ServerHandlerOnSetupCtx) (*base.Response, *gortsplib.ServerStream, error) {
	return &base.Response{StatusCode: base.StatusOK}, s.stream, nil
}

func (s *rtspServer) OnPlay(*gortsplib.ServerHandlerOnPlayCtx) (*base.Response, error) {
	return &base.Response{StatusCode: base.StatusOK}, nil
}

// TestRTSPClocks has a server whose sound comes 300 ms late, and which says in RTP-Info what belongs together.
func TestRTSPClocks(t *testing.T) {
	t.Parallel()
	type packet struct {
		due   time.Duration
		media *description.Media
		pts   time.Duration
		rtp   *rtp.Packet
	}
	var packets []packet
	r := &mpegts.Reader{R: bytes.NewReader(transportStream(t, "-i", theClip(t), "-c", "copy"))}
	if err := r.Initialize(); err != nil {
		t.Fatal(err)
	}
	var medias []*description.Media
	for _, track := range r.Tracks() {
		switch codec := track.Codec.(type) {
		case *mpegts.CodecH264:
			f := &format.H264{PayloadTyp: 96, PacketizationMode: 1}
			media := &description.Media{Type: description.MediaTypeVideo, Formats: []format.Format{f}}
			medias = append(medias, media)
			e, err := f.CreateEncoder()
			if err != nil {
				t.Fatal(err)
			}
			r.OnDataH264(track, func(pts, dts int64, au [][]byte) error {
				encoded, err := e.Encode(au)
				for _, p := range encoded {
					p.Timestamp += uint32(pts)
					packets = append(packets, packet{time.Duration(dts) * time.Second / 90000, media, time.Duration(pts) * time.Second / 90000, p})
				}
				return err
			})
		case *mpegts.CodecMPEG4Audio:
			f := &format.MPEG4Audio{PayloadTyp: 97, Config: &codec.Config, SizeLength: 13, IndexLength: 3, IndexDeltaLength: 3}
			media := &description.Media{Type: description.MediaTypeAudio, Formats: []format.Format{f}}
			medias = append(medias, media)
			e, err := f.CreateEncoder()
			if err != nil {
				t.Fatal(err)
			}
			r.OnDataMPEG4Audio(track, func(pts int64, aus [][]byte) error {
				encoded, err := e.Encode(aus)
				for _, p := range encoded {
					late := p.Timestamp // within the packet of the MPEG-TS
					p.Timestamp += uint32(pts * 48000 / 90000)
					at := time.Duration(pts)*time.Second/90000 + time.Duration(late)*time.Second/48000
					packets = append(packets, packet{at + 300*time.Millisecond, media, at, p})
				}
				return err
			})
		}
	}
	for {
		if err := r.Read(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	slices.SortStableFunc(packets, func(a, b packet) int { return int(a.due - b.due) })

	handler := &rtspServer{}
	server := &gortsplib.Server{Handler: handler, RTSPAddress: fmt.Sprintf("127.0.0.1:%d", mediamtx.FreePort(t))}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	handler.stream = &gortsplib.ServerStream{Server: server, Desc: &description.Session{Medias: medias}}
	if err := handler.stream.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer handler.stream.Close()
	stop := make(chan struct{})
	begun := make(chan struct{})
	var done sync.WaitGroup
	defer done.Wait()
	defer close(stop)
	done.Go(func() {
		start := time.Now().Add(-packets[0].due)
		for i, p := range packets {
			if i == 200 {
				close(begun)
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Until(start.Add(p.due))):
			}
			_ = handler.stream.WritePacketRTPWithNTP(p.media, p.rtp, start.Add(p.pts))
		}
	})
	<-begun
	s := open(t, loopback(t), "rtsp://"+server.RTSPAddress+"/x")
	compare(t, record(t, s, 1500*time.Millisecond), expected{frames: 15, skew: 2 * 90})
}
