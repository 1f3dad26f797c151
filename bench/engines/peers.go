package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"upscaler/internal/frame"
	"upscaler/sr"
)

// peers are engines that run in peers.py, one at a time, when they are told to.
type peers struct {
	Engines []struct {
		Engine string `json:"engine"`
		Model  string `json:"model"`
		Output string `json:"output"` // file with the luma it made of the picture
	} `json:"engines"`
	Missing []string `json:"missing"` // what could not be measured, and why

	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	folder string
}

// startPeers starts peers.py with a Python that has the packages of requirements.txt.
func startPeers(python string, src frame.Plane, files []sr.File) (p *peers, err error) {
	p = &peers{}
	if p.folder, err = os.MkdirTemp("", "engines-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	picture := filepath.Join(p.folder, "picture.raw")
	if err := os.WriteFile(picture, src.Data, 0o600); err != nil {
		return nil, err
	}
	args := []string{"bench/engines/peers.py", strconv.Itoa(src.Width), strconv.Itoa(src.Height), picture, p.folder}
	for _, f := range files {
		path := filepath.Join(p.folder, f.Name+".onnx")
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			return nil, err
		}
		args = append(args, path)
	}
	p.cmd = exec.Command(python, args...)
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("peers.py: %w", err)
	}
	return p, json.Unmarshal(line, p)
}

// run lets an engine upscale the picture once and returns the processor time it took.
func (p *peers) run(i int) (time.Duration, error) {
	if _, err := fmt.Fprintln(p.in, i); err != nil {
		return 0, err
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("peers.py: %w", err)
	}
	seconds, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	return time.Duration(seconds * float64(time.Second)), err
}

// close ends the program.
func (p *peers) close() {
	if p.in != nil {
		p.in.Close()
		_ = p.cmd.Wait()
	}
	os.RemoveAll(p.folder)
}
