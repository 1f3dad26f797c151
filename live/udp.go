package live

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

const (
	// datagram is seven packets of an MPEG-TS, the most that fits an Ethernet frame.
	datagram = 7 * 188
	// maxDatagram is the largest UDP datagram there can be.
	maxDatagram = 64 << 10
	// udpBuffer is what is asked of the system for what comes in a burst, as key frames do. It may give less.
	udpBuffer = 4 << 20
	// burst is what is sent at once by UDP and SRT, neither of which waits for the receiver: half of the receive buffer that Linux
	// gives by default. After it the receiver has burstPause, which allows 64 MB/s.
	burst      = 64 << 10
	burstPause = time.Millisecond
)

// listenAddr returns the address to listen on for the job's own address.
func (g *guard) listenAddr(ctx context.Context, a address) (netip.AddrPort, error) {
	if err := g.check(a); err != nil {
		return netip.AddrPort{}, err
	}
	if a.host == "" {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), a.port), nil
	}
	if ip, err := netip.ParseAddr(a.host); err == nil {
		return netip.AddrPortFrom(ip, a.port), nil
	}
	addrs, err := g.resolve(ctx, a.scheme, a.host, a.port)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addrs[0], nil
}

// pullUDP receives an MPEG-TS sent to a port of this machine, or to a multicast group.
func pullUDP(ctx context.Context, c *conn) error {
	at, err := c.guard.listenAddr(ctx, c.address)
	if err != nil {
		return err
	}
	var socket *net.UDPConn
	if at.Addr().IsMulticast() {
		var on *net.Interface
		if name := c.url.Query().Get("interface"); name != "" {
			if on, err = net.InterfaceByName(name); err != nil {
				return &AddressError{c.String(), fmt.Sprintf("there is no network interface %q", name)}
			}
		}
		socket, err = net.ListenMulticastUDP("udp", on, net.UDPAddrFromAddrPort(at))
	} else {
		socket, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	}
	if err != nil {
		return err
	}
	defer socket.Close()
	defer context.AfterFunc(ctx, func() { _ = socket.Close() })()
	_ = socket.SetReadBuffer(udpBuffer)
	c.ready()
	return c.pump(ctx, socket.Read)
}

// pump feeds what a datagram protocol receives. What nobody reads in time is dropped here, as the system would.
func (c *conn) pump(ctx context.Context, read func([]byte) (int, error)) error {
	buf := make([]byte, maxDatagram)
	told := false
	for {
		n, err := read(buf)
		if err != nil || ctx.Err() != nil {
			return err
		}
		if n == 0 {
			continue
		}
		taken, err := c.feed.offer(append([]byte(nil), buf[:n]...))
		if err != nil {
			return err
		}
		if !taken && !told {
			told = true
			c.notice("datagrams are dropped when they come faster than they are read")
		}
	}
}

// pushUDP sends an MPEG-TS in datagrams. Nobody says whether they arrive.
func pushUDP(ctx context.Context, c *conn, q *gops, connected func()) error {
	socket, err := c.guard.dial(ctx, c.scheme, "udp", c.hostport())
	if err != nil {
		return err
	}
	defer socket.Close()
	connected()
	return q.sendDatagrams(ctx, func(p []byte) error {
		_, _ = socket.Write(p) // that nobody listens there (yet) does not matter here
		return nil
	})
}
