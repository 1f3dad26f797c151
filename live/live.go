// Package live brings live streams in and sends them out: SRT, RTSP, RTMP, UDP and HLS in, all but HLS out, always as the bytes of
// one MPEG transport stream (MPEG-TS) on the caller's side.
//
// All of it is Go; FFmpeg has no network and sees bytes alone. Every connection goes through one guard, which compares what is
// about to be dialled, after names are resolved and redirects followed, with what the operator allowed. So nothing that a peer
// sends, be it a redirect, a playlist or an SDP, leads to a place that the operator did not name.
//
// SRT and UDP carry an MPEG-TS as it is. From RTSP, RTMP and HLS come, and to RTSP and RTMP go, tracks of H.264, HEVC, AAC, Opus, MP3
// (to RTMP of 44.1 kHz only) and AC-3; of HLS in MPEG-TS segments only H.264 and AAC. RTSP runs within its one TCP connection. The
// parameters of an SRT address are mode (caller or listener), streamid, passphrase, pbkeylen and latency (in milliseconds); a
// multicast address may name an interface.
package live

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Limits, with the reasons for them.
const (
	// defaultSilence is how long an open connection may bring nothing. Live video comes many times a second; RTCP and SRT keep
	// dead connections open much longer.
	defaultSilence = 5 * time.Second
	// connectTimeout ends attempts to connect. RTMP needs two seconds of media to know its tracks, HLS a whole segment.
	connectTimeout = 20 * time.Second
	// defaultSinkBuffer holds about eight seconds at 8 Mbit/s: longer than a hiccup, shorter than viewers wait.
	defaultSinkBuffer = 8 << 20
	// sourceBuffer is what may wait for Read: about two frames of the largest video, and time enough for UDP, which cannot wait.
	sourceBuffer = 8 << 20
	// maxAddress is the longest address taken; RTMP keys and SRT stream ids of 512 characters fit well.
	maxAddress = 2048
	// maxDials ends redirections that lead in a circle.
	maxDials = 8
)

// Network is what a server may reach. The zero Network allows nothing. Its methods may be called from several goroutines.
type Network struct {
	Sources []Pattern // what may be read from
	Sinks   []Pattern // what may be sent to

	// Silence is how long an open connection may bring nothing, or take nothing, until it counts as gone. 5 seconds when zero.
	Silence time.Duration
	// SinkBuffer is how many bytes each sink holds for a slow peer before it drops groups of pictures. 8 MiB when zero.
	SinkBuffer int
	// Resolver looks up host names; Go's default one when nil.
	Resolver *net.Resolver
	// Log takes what is of interest when something is looked into. Nothing is logged when nil.
	Log *slog.Logger
}

// Source is an open live stream. Read gives the bytes of an MPEG-TS as they come, at the pace at which the sender made them.
//
// Read ends with io.EOF when the stream is over for good (the end of an HLS playlist), with a *SilentError when the connection
// stayed open and brought nothing, and else with the reason for which the connection ended; a new OpenSource may then succeed, and
// its bytes are a new MPEG-TS with times of its own. Close ends the connection, waits until that is done, and makes a waiting
// Read return. Read is for one goroutine; Close may be called from another.
type Source interface {
	io.ReadCloser
}

// Sink takes the bytes of one MPEG-TS and sends them on.
//
// Flush says that what was written ends with whole frames. Without it a frame is sent when the next one begins.
//
// Write takes time for a copy and no more: a goroutine connects, sends, and connects again when the peer is gone. What the peer
// does not take in time is dropped by whole groups of pictures, and sending goes on with a key frame. Write fails when sending
// can never succeed (the address is refused, no track can be sent), and after Close. Close gives what is waiting a moment to be
// sent, then ends the connection. Write and Flush are for one goroutine; Stats and Close may be called from others.
type Sink interface {
	io.WriteCloser
	Flush()
	Stats() SinkStats
}

// SinkStats is how a sink is doing.
type SinkStats struct {
	Connected     bool  // the peer takes the stream now
	Reconnects    int64 // connections made after the first one
	DroppedFrames int64 // video frames that were not sent
	QueuedBytes   int   // bytes waiting to be sent
}

// A SinkChange is a connection made, lost, or not made (with Err), or something that a user should know about one (with Notice, one
// sentence).
type SinkChange struct {
	Connected bool
	Err       error
	Notice    string
}

// RefusedError says that the operator did not allow an address.
type RefusedError struct {
	Address string // what was to be reached, without credentials
	From    string // the address that led there, when it is another
	Flag    string // the server's flag that would allow it
}

func (e *RefusedError) Error() string {
	if e.From != "" {
		return fmt.Sprintf("%s leads to %s, which this server's operator has not allowed (%s)", e.From, e.Address, e.Flag)
	}
	return fmt.Sprintf("%s is not allowed by this server's operator (%s)", e.Address, e.Flag)
}

// AddressError says that an address cannot be used at all.
type AddressError struct {
	Address string // as it was given, without credentials where it could be parsed
	Reason  string // one clause: what is wrong and what would be right
}

func (e *AddressError) Error() string { return fmt.Sprintf("address %s: %s", e.Address, e.Reason) }

// SilentError says that a connection stayed open and brought nothing.
type SilentError struct {
	Address string
	After   time.Duration
}

func (e *SilentError) Error() string {
	return fmt.Sprintf("%s has been silent for %s although it is connected", e.Address, e.After)
}

// Backoff is how long to wait between attempts to connect: half a second, then longer each time up to ten seconds, each a little
// random so that many do not come back at once. It never gives up; Reset it after a connection that held.
func Backoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 500 * time.Millisecond
	b.MaxInterval = 10 * time.Second
	b.Reset()
	return b
}

// CheckSource says whether a source may be opened, before anything is connected: nil, a *RefusedError or an *AddressError. An
// address whose host is a name may still be refused by OpenSource, for what the name stands for.
func (n *Network) CheckSource(addr string) error {
	_, err := n.source(addr)
	return err
}

// CheckSink is CheckSource for OpenSink.
func (n *Network) CheckSink(addr string) error {
	_, err := n.sink(addr)
	return err
}

func (n *Network) source(addr string) (address, error) {
	a, err := parseAddress(addr)
	if err != nil {
		return address{}, err
	}
	return a, n.guard(n.Sources, "--allow-source", a).check(a)
}

func (n *Network) sink(addr string) (address, error) {
	a, err := parseAddress(addr)
	if err != nil {
		return address{}, err
	}
	if a.scheme == "http" || a.scheme == "https" {
		return address{}, &AddressError{a.String(), "HLS can only be read; send to srt, rtsp, rtmp or udp"}
	}
	if a.scheme == "udp" && a.host == "" {
		return address{}, &AddressError{a.String(), "say which host to send to"}
	}
	return a, n.guard(n.Sinks, "--allow-sink", a).check(a)
}

func (n *Network) silence() time.Duration {
	if n.Silence > 0 {
		return n.Silence
	}
	return defaultSilence
}

func (n *Network) log() *slog.Logger {
	if n.Log != nil {
		return n.Log
	}
	return slog.New(slog.DiscardHandler)
}

// wait waits, or returns false because the context ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
