package live

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"upscaler/test/mediamtx"
)

const (
	// soakTime is how long the soak lasts when UPSCALER_SOAK does not say (`make soak` says ten minutes).
	soakTime = time.Minute
	// settling is when the buffers have reached their size.
	settling = 15 * time.Second
)

// TestSoak runs a job between two protocols for long and finds the server's memory, goroutines and descriptors flat, and what it
// tells Prometheus in step with what it tells its client.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	t.Parallel()
	length := soakTime
	if s := os.Getenv("UPSCALER_SOAK"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	m := mediamtx.Start(t)
	start(t, exec.Command("ffmpeg", "-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", theClip(t), "-c", "copy", "-f", "flv", m.Address("rtmp", "in", true)))
	m.Ready(t, "in")
	address, metrics := "unix:"+filepath.Join(t.TempDir(), "socket"), fmt.Sprintf("127.0.0.1:%d", mediamtx.FreePort(t))
	server := start(t, exec.Command(filepath.Join(folder, "sr-server"), "--listen", address, "--metrics-listen", metrics,
		"--allow-source", "rtsp://127.0.0.1:*", "--allow-sink", "srt://127.0.0.1:*"))
	mediamtx.Until(t, "the server answers", func() bool { _, err := scrape(metrics); return err == nil })
	j := live(t, nil, "--server", address, m.Address("rtsp", "in", false), m.Address("srt", "out", true))
	m.Ready(t, "out")
	time.Sleep(settling) // this and the next are the soak itself

	var memory, goroutines, files []float64
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(time.Second) {
		text, err := scrape(metrics)
		if err != nil {
			t.Fatal(err)
		}
		memory = append(memory, value(t, text, "process_resident_memory_bytes"))
		goroutines = append(goroutines, value(t, text, "go_goroutines"))
		files = append(files, value(t, text, "process_open_fds"))
	}
	flat := func(what string, v []float64, may float64) {
		third := len(v) / 3
		early, late := median(v[:third]), median(v[len(v)-third:])
		t.Logf("%s: %.0f at first, %.0f at last", what, early, late)
		if late > early+may {
			t.Errorf("%s grows from %.0f to %.0f", what, early, late)
		}
	}
	flat("bytes of memory", memory, 16<<20)
	flat("goroutines", goroutines, 3)
	flat("open files", files, 3)

	p := j.now()
	text, err := scrape(metrics)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d frames in, %d out, latency %v, level %s", p.GetFramesDecoded(), p.GetFramesEncoded(), p.GetLive().GetLatencyP50().AsDuration(), p.GetLive().GetLevel())
	want := float64(p.GetFramesEncoded())
	if out := value(t, text, `upscale_live_frames_total\{job="\w+",what="out"\}`); out < want || out > want+3*clipRate {
		t.Errorf("Prometheus says %.0f frames, the client knew of %.0f", out, want)
	}
	// Others end a connection when the machine stands still for seconds, which it does when pictures do not come either.
	if n := p.GetLive().GetSourceReconnects() + p.GetLive().GetSinkReconnects(); n > 0 && !j.said("No picture has come") {
		t.Errorf("%d reconnects", n)
	}
	if frames := float64(p.GetFramesDecoded()); frames < (length+settling).Seconds()*clipRate*0.9 {
		t.Errorf("%.0f frames in %v", frames, length+settling)
	}
	j.stop()
	mediamtx.Until(t, "the job's figures are gone", func() bool {
		text, err := scrape(metrics)
		return err == nil && !regexp.MustCompile(`(?m)^upscale_live_`).MatchString(text)
	})
	select {
	case <-server.done:
		t.Errorf("the server ended: %s", server.log.String())
	default:
	}
}

func scrape(address string) (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	res, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}

func value(t *testing.T, text, pattern string) float64 {
	t.Helper()
	match := regexp.MustCompile(`(?m)^` + pattern + ` (\S+)$`).FindStringSubmatch(text)
	if match == nil {
		t.Fatalf("no figure %s", pattern)
	}
	v, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}
