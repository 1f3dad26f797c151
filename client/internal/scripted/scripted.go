// Package scripted is an upscaling server for tests of the client: over a real socket it says and does what a test wrote
// down, also what a sound server never would.
package scripted

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	upscalev1 "upscaler/gen/upscale/v1"
)

// Upscale is the server's end of a call's stream.
type Upscale = grpc.BidiStreamingServer[upscalev1.UpscaleRequest, upscalev1.UpscaleResponse]

// Probe is the server's end of a call's stream.
type Probe = grpc.ClientStreamingServer[upscalev1.ProbeRequest, upscalev1.ProbeResponse]

// Server is a running server. It implements upscale.v1 with the functions of its script.
type Server struct {
	upscalev1.UnimplementedUpscaleServiceServer
	Script
	// Health is what grpc.health.v1 answers from; SERVING at first.
	Health *health.Server

	grpc    *grpc.Server
	address string
	served  sync.WaitGroup
}

// Script is what a server does. A nil function is an unimplemented method.
type Script struct {
	OnUpscale func(Upscale) error
	OnProbe   func(Probe) error
	Models    []*upscalev1.Model
	Info      *upscalev1.GetServerInfoResponse
	// TLS, when set, encrypts the connections.
	TLS *tls.Config
	// Token, when set, is asked for in every job.
	Token string
}

// Start starts a server on a free port of this machine, or on the unix socket at path when that is not empty.
func Start(path string, script Script) (*Server, error) {
	network, address := "tcp", "127.0.0.1:0"
	if path != "" {
		network, address = "unix", path
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	options := []grpc.ServerOption{grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: 10 * time.Second, PermitWithoutStream: true,
	})}
	if script.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(script.TLS)))
	}
	s := &Server{
		Script:  script,
		Health:  health.NewServer(),
		grpc:    grpc.NewServer(options...),
		address: listener.Addr().String(),
	}
	if path != "" {
		s.address = "unix:" + path
	}
	upscalev1.RegisterUpscaleServiceServer(s.grpc, s)
	healthpb.RegisterHealthServer(s.grpc, s.Health)
	s.served.Go(func() { _ = s.grpc.Serve(listener) })
	return s, nil
}

// Address is where the server listens, as client.Dial takes it.
func (s *Server) Address() string { return s.address }

// Stop breaks off what is running and returns when nothing is.
func (s *Server) Stop() {
	s.grpc.Stop()
	s.served.Wait()
}

// Upscale implements upscale.v1.
func (s *Server) Upscale(stream Upscale) error {
	if s.Token != "" && !slices.Equal(metadata.ValueFromIncomingContext(stream.Context(), "authorization"), []string{"Bearer " + s.Token}) {
		return status.Error(codes.Unauthenticated, "a token is needed")
	}
	if s.OnUpscale == nil {
		return s.UnimplementedUpscaleServiceServer.Upscale(stream)
	}
	return s.OnUpscale(stream)
}

// Probe implements upscale.v1.
func (s *Server) Probe(stream Probe) error {
	if s.OnProbe == nil {
		return s.UnimplementedUpscaleServiceServer.Probe(stream)
	}
	return s.OnProbe(stream)
}

// ListModels implements upscale.v1.
func (s *Server) ListModels(context.Context, *upscalev1.ListModelsRequest) (*upscalev1.ListModelsResponse, error) {
	return &upscalev1.ListModelsResponse{Models: s.Models}, nil
}

// GetServerInfo implements upscale.v1.
func (s *Server) GetServerInfo(ctx context.Context, r *upscalev1.GetServerInfoRequest) (*upscalev1.GetServerInfoResponse, error) {
	if s.Info == nil {
		return s.UnimplementedUpscaleServiceServer.GetServerInfo(ctx, r)
	}
	return s.Info, nil
}

// Accept returns a plausible answer to the settings of a job.
func Accept(start *upscalev1.Start) *upscalev1.Accepted {
	scale := max(start.GetScale(), 2)
	info := func(container, codec string, factor uint32) *upscalev1.MediaInfo {
		return &upscalev1.MediaInfo{
			Container: container,
			Duration:  durationpb.New(4 * time.Second),
			Chapters:  1,
			Streams: []*upscalev1.StreamInfo{
				{
					Index: 0, Kind: upscalev1.StreamKind_STREAM_KIND_VIDEO, Codec: codec, IsDefault: true,
					Action: upscalev1.StreamAction_STREAM_ACTION_UPSCALE, Peer: proto.Uint32(0),
					Video: &upscalev1.VideoInfo{
						Width: 320 * factor, Height: 180 * factor, PixelFormat: "yuv420p",
						FrameRate: &upscalev1.Rational{Num: 25, Den: 1},
					},
				},
				{
					Index: 1, Kind: upscalev1.StreamKind_STREAM_KIND_AUDIO, Codec: "aac", Language: "eng",
					Action: upscalev1.StreamAction_STREAM_ACTION_COPY, Peer: proto.Uint32(1),
					Audio: &upscalev1.AudioInfo{SampleRate: 48000, Channels: 2},
				},
			},
		}
	}
	return &upscalev1.Accepted{
		JobId:           "job-1",
		Settings:        start,
		Input:           info("mov,mp4,m4a,3gp,3g2,mj2", "mpeg4", 1),
		Output:          info("mp4", "h264", scale),
		Model:           &upscalev1.Model{Name: "lmswn-s-x2-video", Scale: scale},
		EstimatedFrames: 100,
		EstimatedTime:   durationpb.New(9 * time.Second),
		Device:          upscalev1.Device_DEVICE_CPU,
	}
}

// Result is what Transform makes of an input: a header that holds the input's length modulo 256, then every byte twice.
func Result(input []byte) []byte {
	out := []byte{byte(len(input))}
	for _, b := range input {
		out = append(out, b, b)
	}
	return out
}

// Transform is a sound server's behaviour with a muxer that, given a seekable output, returns to its header at the end;
// otherwise it reads all before it writes. change, when not nil, may spoil each answer before it is sent; an answer it makes
// nil is left out.
func Transform(change func(*upscalev1.UpscaleResponse) *upscalev1.UpscaleResponse) func(Upscale) error {
	return func(stream Upscale) error {
		j := &job{stream: stream, change: change}
		return j.run()
	}
}

type job struct {
	stream Upscale
	change func(*upscalev1.UpscaleResponse) *upscalev1.UpscaleResponse
	sent   bytes.Buffer // chunk data in the order sent
}

func (j *job) send(r *upscalev1.UpscaleResponse) error {
	if c := r.GetChunk(); c != nil {
		j.sent.Write(c.GetData())
	}
	if j.change != nil {
		if r = j.change(r); r == nil {
			return nil
		}
	}
	return j.stream.Send(r)
}

func (j *job) write(offset int, data []byte) error {
	return j.send(&upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Chunk{
		Chunk: &upscalev1.Chunk{Data: data, Offset: uint64(offset)}, //nolint:gosec // small
	}})
}

func (j *job) run() error {
	first, err := j.stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if err := j.send(&upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Accepted{Accepted: Accept(start)}}); err != nil {
		return err
	}
	seekable := start.GetOutput().GetSeekable()
	length, end := 0, 1
	var held []byte
	if seekable {
		if err := j.write(0, []byte{0}); err != nil { // a header to be completed
			return err
		}
	}
	for {
		r, err := j.stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		data := r.GetChunk().GetData()
		doubled := Result(data)[1:]
		length += len(data)
		if !seekable {
			held = append(held, doubled...)
			continue
		}
		if err := j.write(end, doubled); err != nil {
			return err
		}
		end += len(doubled)
		if err := j.progress(length); err != nil {
			return err
		}
	}
	if err := j.write(0, append([]byte{byte(length)}, held...)); err != nil { //nolint:gosec // modulo 256 is meant
		return err
	}
	digest := sha256.Sum256(j.sent.Bytes())
	return j.send(&upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Summary{Summary: &upscalev1.Summary{
		FramesDecoded: 100, FramesEncoded: 100,
		BytesIn: uint64(length), BytesOut: uint64(j.sent.Len()), //nolint:gosec // small
		Sha256:  digest[:],
		Elapsed: durationpb.New(2 * time.Second),
	}}})
}

func (j *job) progress(length int) error {
	return j.send(&upscalev1.UpscaleResponse{Payload: &upscalev1.UpscaleResponse_Progress{Progress: &upscalev1.Progress{
		FramesDecoded: 50, FramesEncoded: 40, Fps: 12.5, Eta: durationpb.New(5 * time.Second),
		Fraction: proto.Float64(0.4), BytesIn: uint64(length), //nolint:gosec // small
	}}})
}
