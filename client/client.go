// Package client speaks to an upscaling server: it sends a video, takes the upscaled one, and checks that it arrived
// whole. It can also start a server of its own for a single job (StartPrivate).
//
// It is pure Go and knows nothing of codecs: whatever concerns media is the server's business.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	upscalev1 "upscaler/gen/upscale/v1"
)

const (
	// chunkSize is the payload of one message of the upload. With its framing it stays under the 32 KiB tier of gRPC's
	// buffer pool, above which every message costs a buffer of 1 MiB. BenchmarkChunkSize moves 130 to 250 MB/s with it on two
	// busy cores, less with 64 KiB, more with 256 KiB only through a unix socket; no video needs a tenth of that.
	chunkSize = 31 << 10

	// A server that vanished without a word (power, network) is noticed after keepaliveTime + keepaliveTimeout. The
	// server must allow pings this frequent in its enforcement policy.
	keepaliveTime    = time.Minute
	keepaliveTimeout = 20 * time.Second

	// connectDelayMin and connectDelayMax bound the pause between two attempts to connect. They are short because the
	// one who waits for a connection is a private server's starter; anyone else fails at the first refusal.
	connectDelayMin = 20 * time.Millisecond
	connectDelayMax = 250 * time.Millisecond
	// connectTimeout is the shortest time granted to one attempt, name lookup and TLS handshake included.
	connectTimeout = 10 * time.Second
)

// Options say how to reach a server. The zero value speaks plaintext.
type Options struct {
	// TLS encrypts the connection and authenticates the server. Nil means plaintext: what a server without a
	// certificate speaks, right for this machine and for networks whose every member may see the videos.
	TLS *tls.Config
	// Token, when set, is sent with every call as a bearer token. It does not travel in plaintext, except on this machine.
	Token string
}

// bearer is a token as gRPC sends it.
type bearer struct {
	token string
	plain bool
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (b bearer) RequireTransportSecurity() bool { return !b.plain }

// Client is a connection to one server. Its methods may be called by several goroutines; each Upscale is a job of its own.
type Client struct {
	address Address
	conn    *grpc.ClientConn
	api     upscalev1.UpscaleServiceClient
	health  healthpb.HealthClient
}

// Dial prepares a connection to the server at address (see ParseAddress). Nothing is sent yet: a server that is not there
// shows at the first call. The caller must Close the client.
func Dial(address string, o Options) (*Client, error) {
	a, err := ParseAddress(address)
	if err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: connectDelayMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: connectDelayMax,
			},
			MinConnectTimeout: connectTimeout,
		}),
		// An idle connection is kept: a job that waits for its turn is idle too.
		grpc.WithIdleTimeout(0),
	}
	if o.Token != "" {
		if o.TLS == nil && !a.Local() {
			return nil, &AddressError{Address: address, Text: "a token would travel to it in plaintext; encrypt the connection"}
		}
		options = append(options, grpc.WithPerRPCCredentials(bearer{token: o.Token, plain: o.TLS == nil}))
	}
	conn, err := grpc.NewClient(a.target(), options...)
	if err != nil {
		return nil, &AddressError{Address: address, Text: err.Error()}
	}
	return &Client{
		address: a,
		conn:    conn,
		api:     upscalev1.NewUpscaleServiceClient(conn),
		health:  healthpb.NewHealthClient(conn),
	}, nil
}

// Address returns the address the client was made for.
func (c *Client) Address() string { return c.address.String() }

// Close ends the connection and every call still running on it.
func (c *Client) Close() error { return c.conn.Close() }

// Models lists the server's networks, the default of each scale first.
func (c *Client) Models(ctx context.Context) ([]*upscalev1.Model, error) {
	r, err := c.api.ListModels(ctx, &upscalev1.ListModelsRequest{})
	if err != nil {
		return nil, c.translate(ctx, err)
	}
	return r.GetModels(), nil
}

// ServerInfo returns the server's version, devices and limits.
func (c *Client) ServerInfo(ctx context.Context) (*upscalev1.GetServerInfoResponse, error) {
	r, err := c.api.GetServerInfo(ctx, &upscalev1.GetServerInfoRequest{})
	if err != nil {
		return nil, c.translate(ctx, err)
	}
	return r, nil
}

// Serving reports whether a server answers and takes jobs right now.
func (c *Client) Serving(ctx context.Context) bool {
	r, err := c.health.Check(ctx, &healthpb.HealthCheckRequest{})
	return err == nil && r.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

// WaitServing returns once the server takes jobs. It keeps trying to connect until ctx ends.
func (c *Client) WaitServing(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the watch
	watch, err := c.health.Watch(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return c.translate(ctx, err)
	}
	for {
		r, err := watch.Recv()
		if err != nil {
			return c.translate(ctx, err)
		}
		if r.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return nil
		}
	}
}

// Probe asks what Upscale would do with the video in in: its streams, what happens to each, the model, notices. It reads
// only as much of in as the server needs to know. A Read of in that blocks when the server answers is left to itself
// unless in can seek.
func (c *Client) Probe(ctx context.Context, settings *upscalev1.Start, in io.Reader) (*upscalev1.ProbeResponse, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stream, err := c.api.Probe(ctx)
	if err != nil {
		cancel(nil)
		return nil, c.translate(ctx, err)
	}
	upload := startUpload(in, cancel, uploadStream{
		start: func() error {
			return stream.Send(&upscalev1.ProbeRequest{Payload: &upscalev1.ProbeRequest_Start{Start: settings}})
		},
		chunk: func(chunk *upscalev1.Chunk) error {
			return stream.Send(&upscalev1.ProbeRequest{Payload: &upscalev1.ProbeRequest_Chunk{Chunk: chunk}})
		},
		end: stream.CloseSend,
	})
	defer upload.stop()

	// Not CloseAndRecv: the answer may come while the upload goroutine still sends, and only that one may half-close.
	response := &upscalev1.ProbeResponse{}
	if err := stream.RecvMsg(response); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &ProtocolError{Text: "the server ended the call without an answer"}
		}
		return nil, c.translate(ctx, err)
	}
	return response, nil
}
