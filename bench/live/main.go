// Live finds out what this machine holds live: for each model and frame rate, the largest of the usual picture sizes that a live
// job upscales without dropping a frame, everything included (decoding, the network, encoding by x264).
//
//	make bench-live
//	go run ./bench/live -models lmswn-s-x2-video-int8,bicubic -rates 25,50
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	upscalev1 "upscaler/gen/upscale/v1"
)

// sizes are those that video comes in, the smallest first. A machine that does not hold one holds none above.
var sizes = []string{"256x144", "320x180", "426x240", "640x360", "854x480", "1280x720", "1920x1080", "3840x2160"}

const (
	// seconds of each try: the ladder and the buffers have settled by then.
	seconds = 6
	// maxLost is the share of frames that may be dropped at the start, when the stream's first second comes at once.
	maxLost = 0.02
)

func main() {
	log.SetFlags(0)
	clip := flag.String("clip", "testdata/big-buck-bunny-3s.mp4", "video to measure with")
	names := flag.String("models", "", "models, separated by commas (default: the preferred one of each tier at scale 2)")
	rates := flag.String("rates", "25,50", "frame rates, separated by commas")
	flag.Parse()
	if err := run(*clip, *names, *rates); err != nil {
		log.Fatal("bench: ", err)
	}
}

func run(clip, names, rates string) error {
	dir, err := os.MkdirTemp("", "upscaler-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	models := strings.Split(names, ",")
	if names == "" {
		if models, err = tiers(); err != nil {
			return err
		}
	}
	fmt.Printf("What %d cores of this machine hold live, at scale 2 and a latency of 500 ms:\n\n", runtime.NumCPU())
	fmt.Printf("%-28s %6s  %-10s %s\n", "model", "fps", "input", "median latency")
	for _, rate := range strings.Split(rates, ",") {
		for _, model := range models {
			best, latency := "none", ""
			for _, size := range sizes {
				held, l, err := try(dir, clip, model, size, rate)
				if err != nil {
					return err
				}
				if !held {
					break
				}
				best, latency = size, fmt.Sprintf("%d ms", l)
			}
			fmt.Printf("%-28s %6s  %-10s %s\n", model, rate, best, latency)
		}
	}
	return nil
}

// tiers returns the preferred model of each tier.
func tiers() ([]string, error) {
	out, err := exec.Command("bin/sr-client", "models", "--json").Output()
	if err != nil {
		return nil, fmt.Errorf("sr-client models: %w", err)
	}
	var list upscalev1.ListModelsResponse
	if err := protojson.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("sr-client models: %w", err)
	}
	var names []string
	seen := map[string]bool{}
	for _, m := range list.GetModels() {
		if m.GetScale() == 2 && !seen[m.GetTier()] {
			seen[m.GetTier()] = true
			names = append(names, m.GetName())
		}
	}
	return names, nil
}

// try runs a live job and tells whether it kept up, and its median latency in milliseconds.
func try(dir, clip, model, size, rate string) (held bool, latency int64, err error) {
	in := filepath.Join(dir, size+"-"+rate+".mp4")
	if _, err := os.Stat(in); err != nil {
		cmd := exec.Command("ffmpeg", "-v", "error", "-y", "-stream_loop", "-1", "-i", clip, "-t", strconv.Itoa(seconds), "-an",
			"-vf", "fps="+rate+",scale="+strings.Replace(size, "x", ":", 1)+":flags=bicubic", "-c:v", "libx264", "-crf", "20",
			"-bf", "0", "-movflags", "+faststart", in)
		if out, err := cmd.CombinedOutput(); err != nil {
			return false, 0, fmt.Errorf("prepare the clip: %w: %s", err, out)
		}
	}
	cmd := exec.Command("bin/sr-client", "live", in, filepath.Join(dir, "out.ts"), "--overwrite", "--json", "--model", model)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return false, 0, fmt.Errorf("sr-client live: %w: %s", err, stderr.String())
	}
	var summary upscalev1.Summary
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var e struct{ Summary, Progress json.RawMessage }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		if e.Progress != nil {
			var p upscalev1.Progress
			if protojson.Unmarshal(e.Progress, &p) == nil {
				latency = p.GetLive().GetLatencyP50().AsDuration().Milliseconds()
			}
		}
		if e.Summary != nil {
			if err := protojson.Unmarshal(e.Summary, &summary); err != nil {
				return false, 0, err
			}
		}
	}
	lost := float64(summary.GetFramesDecoded()) - float64(summary.GetFramesEncoded())
	return lost <= maxLost*float64(summary.GetFramesDecoded()), latency, nil
}
