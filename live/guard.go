package live

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// A guard makes the connections of one job: the only place of this package from which anything is dialled or listened on.
type guard struct {
	allowed  []Pattern
	flag     string // of the server, for the sentence to the user
	from     string // the job's own address
	resolver *net.Resolver
}

func (n *Network) guard(allowed []Pattern, flag string, a address) *guard {
	resolver := n.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	return &guard{allowed: allowed, flag: flag, from: a.String(), resolver: resolver}
}

func (g *guard) refused(address string) error {
	e := &RefusedError{Address: address, Flag: g.flag}
	if address != g.from {
		e.From = g.from
	}
	return e
}

// check says whether an address may be allowed, without looking names up: a name that no pattern names may yet resolve to an
// address of an allowed network.
func (g *guard) check(a address) error {
	ip, ipErr := netip.ParseAddr(a.host)
	if a.host == "" {
		ip, ipErr = netip.IPv4Unspecified(), nil
	}
	for _, p := range g.allowed {
		if !p.at(a.scheme, a.port) {
			continue
		}
		if ipErr != nil && (p.coversName(a.host) || p.network.IsValid()) {
			return nil
		}
		// Listening on all addresses is what * allows; calling the unspecified address is what nothing allows, see resolve.
		if ipErr == nil && (p.covers("", ip) || (p.name == "*" && ip.IsUnspecified())) {
			return nil
		}
	}
	return g.refused(a.String())
}

// resolve returns the addresses that a host stands for and that are allowed, for the caller to use as they are and without
// looking the name up again.
func (g *guard) resolve(ctx context.Context, scheme, host string, port uint16) ([]netip.AddrPort, error) {
	name, ips := host, []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		name, ips = "", append(ips, ip)
	} else if ips, err = g.resolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, fmt.Errorf("the host %s cannot be found: %w", host, err)
	}
	var allowed []netip.AddrPort
	for _, ip := range ips {
		ip = ip.Unmap().WithZone("")
		for _, p := range g.allowed {
			if p.at(scheme, port) && p.covers(name, ip) && !ip.IsUnspecified() { // which would be this machine
				allowed = append(allowed, netip.AddrPortFrom(ip, port))
				break
			}
		}
	}
	if len(allowed) == 0 {
		what := scheme + "://" + net.JoinHostPort(host, strconv.Itoa(int(port)))
		if name != "" && len(ips) > 0 {
			what += fmt.Sprintf(" (%s)", ips[0])
		}
		return nil, g.refused(what)
	}
	return allowed, nil
}

// dial connects to host:port for a scheme, when the operator allows it.
func (g *guard) dial(ctx context.Context, scheme, network, hostport string) (net.Conn, error) {
	host, p, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil, err
	}
	addrs, err := g.resolve(ctx, scheme, host, uint16(port))
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: connectTimeout / time.Duration(1+len(addrs))}
	var failed []error
	for _, a := range addrs {
		conn, err := dialer.DialContext(ctx, network, a.String())
		if err == nil {
			return conn, nil
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}
