package client

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// DefaultAddress is where a server listens unless told otherwise, and where a client looks for one.
	DefaultAddress = "127.0.0.1:50051"
	defaultPort    = "50051"
)

// Address is where a server listens: a TCP host and port, or the path of a unix socket.
type Address struct {
	Network string // "tcp" or "unix"
	Host    string // host:port, or the socket's path
}

// AddressError says that a server's address cannot be understood, or not be used as it is meant.
type AddressError struct {
	Address string
	Text    string
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("the server address %q cannot be used: %s", e.Address, e.Text)
}

// ParseAddress understands HOST:PORT, HOST alone (port 50051), :PORT (this machine), [IPv6]:PORT and unix:PATH. On failure
// the error is an *AddressError.
func ParseAddress(s string) (Address, error) {
	fail := func(text string) (Address, error) { return Address{}, &AddressError{Address: s, Text: text} }
	for _, r := range s {
		if r <= ' ' || r == 0x7f {
			return fail("it holds a space or a control character")
		}
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = strings.TrimPrefix(path, "//") // unix:///run/x is common, too
		if path == "" {
			return fail("the socket's path is missing")
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return fail(err.Error())
		}
		return Address{Network: "unix", Host: abs}, nil
	}
	if strings.Contains(s, "/") {
		return fail("it looks like a URL or a path; write HOST:PORT or unix:/path/to/socket")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		// No port: a name, an IPv4 address, or an IPv6 address with or without brackets.
		host, port = s, defaultPort
		if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
			host = s[1 : len(s)-1]
		}
		if strings.ContainsAny(host, "[]") || (strings.Contains(host, ":") && net.ParseIP(host) == nil) {
			return fail("host and port cannot be told apart; write HOST:PORT or [IPv6]:PORT")
		}
		if host == "" {
			return fail("the host is missing")
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fail("the port is not a number from 1 to 65535")
	}
	switch host {
	case "":
		host = "localhost"
	case "unix":
		return fail("a socket's path must follow unix:") // as a host's name it could not be written back
	}
	return Address{Network: "tcp", Host: net.JoinHostPort(host, port)}, nil
}

// String returns the address as ParseAddress reads it.
func (a Address) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Host
	}
	return a.Host
}

// Local reports whether what is sent to the address stays on this machine.
func (a Address) Local() bool {
	if a.Network == "unix" {
		return true
	}
	host, _, _ := net.SplitHostPort(a.Host) // ParseAddress has joined them
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// target returns the address in gRPC's naming.
func (a Address) target() string {
	u := url.URL{Scheme: "dns", Path: "/" + a.Host}
	if a.Network == "unix" {
		u = url.URL{Scheme: "unix", Path: a.Host}
	}
	return u.String() // which escapes what a path may hold
}
