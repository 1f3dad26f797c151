package live

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// schemes are the protocols, each with the port of an address that names none. Those with 0 must name one.
var schemes = map[string]uint16{
	"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443, "srt": 0, "udp": 0,
}

// A Pattern is a set of addresses that an operator allows: scheme://host:port.
//
// The host is a name, *.example.org for all names below one, an IP address, a network (239.0.0.0/8, [fd00::/8]), or * for any.
// The port is a number, a range (9000-9010), or *; without one it is the scheme's own. Names and * stand for neither the server's
// own loopback addresses nor link-local ones, whatever they resolve to: those are allowed as IP address, as network, or as
// localhost.
type Pattern struct {
	scheme      string
	name        string // "*", "*.example.org" or a name in lower case; empty when it is a network
	network     netip.Prefix
	first, last uint16
}

// ParsePattern reads a pattern as an operator writes it. The error says in one sentence what is wrong.
func ParsePattern(s string) (Pattern, error) {
	fail := func(reason string) (Pattern, error) {
		return Pattern{}, fmt.Errorf("address pattern %q: %s, as in rtsp://cam.local:554, srt://*:9000-9010 or udp://239.0.0.0/8:*", s, reason)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	port, known := schemes[scheme]
	if !ok || !known {
		return fail("want scheme://host:port with a scheme of rtsp, rtsps, rtmp, rtmps, srt, udp, http or https")
	}
	p := Pattern{scheme: scheme, first: port, last: port}
	host := rest
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, ']') {
		host = rest[:i]
		if p.first, p.last, ok = parsePorts(rest[i+1:]); !ok {
			return fail("the port is a number, a range or *")
		}
	} else if port == 0 {
		return fail("this scheme has no port of its own, so name one, a range or *")
	}
	host = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if host == "" {
		return fail("the host is missing")
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
		p.network = netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen())
		return p, nil
	}
	if network, err := netip.ParsePrefix(host); err == nil && !network.Addr().Is4In6() {
		p.network = network.Masked()
		return p, nil
	}
	if host != "*" && !isName(strings.TrimPrefix(host, "*.")) {
		return fail("the host is a name, *.name, an IP address, a network or *, and nothing follows the port")
	}
	p.name = host
	return p, nil
}

func parsePorts(s string) (first, last uint16, ok bool) {
	if s == "*" {
		return 1, 65535, true
	}
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	a, err1 := strconv.ParseUint(low, 10, 16)
	b, err2 := strconv.ParseUint(high, 10, 16)
	return uint16(a), uint16(b), err1 == nil && err2 == nil && a > 0 && a <= b
}

// isName says whether a host could be a host name. What looks like a number is none: resolvers read some of them as addresses.
func isName(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range label {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	last := host[strings.LastIndexByte(strings.TrimSuffix(host, "."), '.')+1:]
	return last[0] < '0' || last[0] > '9'
}

// String gives the pattern as ParsePattern reads it.
func (p Pattern) String() string {
	host := p.name
	if host == "" {
		if host = p.network.String(); p.network.IsSingleIP() {
			host = p.network.Addr().String()
		}
		if p.network.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	ports := strconv.Itoa(int(p.first))
	if p.first == 1 && p.last == 65535 {
		ports = "*"
	} else if p.first != p.last {
		ports += "-" + strconv.Itoa(int(p.last))
	}
	return p.scheme + "://" + host + ":" + ports
}

// at says whether the pattern is about this scheme and port at all.
func (p Pattern) at(scheme string, port uint16) bool {
	return p.scheme == scheme && p.first <= port && port <= p.last
}

// coversName says whether the pattern names the host, leaving open what the host resolves to.
func (p Pattern) coversName(host string) bool {
	if strings.HasPrefix(p.name, "*.") {
		return strings.HasSuffix(host, p.name[1:])
	}
	return p.name == "*" || (p.name != "" && p.name == host)
}

// covers says whether the pattern allows an IP address that was given as such (host is empty) or that host resolved to.
func (p Pattern) covers(host string, ip netip.Addr) bool {
	if p.name == "" {
		return p.network.Contains(ip)
	}
	if p.name != "*" && !p.coversName(host) {
		return false
	}
	return !isOwn(ip) || (p.name == "localhost" && ip.IsLoopback())
}

// isOwn says whether an address means this machine or what is only seen from it, such as a cloud's metadata service.
func isOwn(ip netip.Addr) bool {
	return ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsInterfaceLocalMulticast() || ip.IsLinkLocalMulticast()
}

// address is a live address that was understood: scheme://[user:password@]host:port[/path][?query].
type address struct {
	url    *url.URL
	scheme string
	host   string // in lower case, without brackets; empty to listen on all addresses
	port   uint16
}

func parseAddress(s string) (address, error) {
	if len(s) > maxAddress {
		return address{}, &AddressError{s[:64] + "...", fmt.Sprintf("it is longer than %d characters", maxAddress)}
	}
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" {
		return address{}, &AddressError{strconv.Quote(withoutSecrets(s)), "it is not of the form scheme://host:port/path"}
	}
	return addressOf(u)
}

func addressOf(u *url.URL) (address, error) {
	a := address{url: u, scheme: strings.ToLower(u.Scheme), host: strings.ToLower(u.Hostname())}
	fail := func(reason string) (address, error) {
		return address{}, &AddressError{withoutSecrets(u.String()), reason}
	}
	port, known := schemes[a.scheme]
	if !known {
		return fail("want rtsp, rtsps, rtmp, rtmps, srt, udp, http or https before ://")
	}
	if s := u.Port(); s != "" {
		p, err := strconv.ParseUint(s, 10, 16)
		if err != nil || p == 0 {
			return fail("the port is a number from 1 to 65535")
		}
		port = uint16(p)
	}
	if port == 0 {
		return fail("the port is missing")
	}
	a.port = port
	a.host = strings.TrimPrefix(a.host, "@") // FFmpeg writes udp://@239.0.0.1:5000 for what is received
	if ip, err := netip.ParseAddr(a.host); err == nil {
		if ip.Zone() != "" {
			return fail("an address with a zone cannot be used")
		}
		a.host = ip.Unmap().String()
	} else if a.host != "" && !isName(a.host) {
		return fail("the host is neither a name nor an IP address")
	}
	if a.host == "" && a.scheme != "udp" && !a.listens() {
		return fail("the host is missing")
	}
	return a, nil
}

// listens says whether the address is to be listened on, not called.
func (a address) listens() bool {
	return a.scheme == "srt" && a.url.Query().Get("mode") == "listener"
}

// String gives the address without user, password and query, which may hold secrets.
func (a address) String() string {
	u := url.URL{Scheme: a.scheme, Host: a.url.Host, Path: a.url.Path}
	return u.String()
}

// withoutSecrets cuts the query and the credentials off an address that need not be one.
func withoutSecrets(s string) string {
	s, _, _ = strings.Cut(s, "?")
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		host, path, slash := strings.Cut(rest, "/")
		host = host[strings.LastIndexByte(host, '@')+1:]
		if s = scheme + "://" + host; slash {
			s += "/" + path
		}
	}
	return s
}
