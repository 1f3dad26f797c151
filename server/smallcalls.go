package server

import (
	"context"
	"slices"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	upscalev1 "upscaler/gen/upscale/v1"
)

// Calls that take no payload (lists, health, reflection) need no place among MaxJobs, but gRPC has one limit on the size of
// messages for all methods, and it is that of pictures. So that a stranger cannot make the server hold a hundred such messages
// a connection, only smallReads of a connection's calls receive at the same time; the others wait, and hold up nobody else's.

// smallReads is enough for a client that lists this and that while a tool with an open reflection stream looks on.
const smallReads = 4

// admittedCalls are the calls that have a place among MaxJobs before they receive.
var admittedCalls = []string{
	upscalev1.UpscaleService_Upscale_FullMethodName,
	upscalev1.UpscaleService_Probe_FullMethodName,
	upscalev1.UpscaleService_UpscaleFrames_FullMethodName,
}

// asStreams returns a service whose unary methods are served as streams of one message each way, which is the same on the wire.
// gRPC receives a unary call's message before anything of ours has a say, but a stream's when its handler asks.
func asStreams(service grpc.ServiceDesc) *grpc.ServiceDesc {
	service.Streams = slices.Clone(service.Streams)
	for _, m := range service.Methods {
		service.Streams = append(service.Streams, grpc.StreamDesc{
			StreamName:    m.MethodName,
			ServerStreams: true, // else gRPC leaves out stream interceptors, and with them the check of tokens
			Handler: func(srv any, stream grpc.ServerStream) error {
				answer, err := m.Handler(srv, stream.Context(), stream.RecvMsg, nil)
				if err != nil {
					return err
				}
				return stream.SendMsg(answer)
			},
		})
	}
	service.Methods = nil
	return &service
}

// limitReads is a stream interceptor that lets a call that was not admitted receive only in its connection's turn.
func limitReads(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	reads, ok := stream.Context().Value(connectionKey{}).(*semaphore.Weighted)
	if !ok || slices.Contains(admittedCalls, info.FullMethod) {
		return handler(srv, stream)
	}
	return handler(srv, &limitedStream{stream, reads})
}

type limitedStream struct {
	grpc.ServerStream
	reads *semaphore.Weighted
}

// RecvMsg implements grpc.ServerStream.
func (s *limitedStream) RecvMsg(m any) error {
	if err := s.reads.Acquire(s.Context(), 1); err != nil {
		return err
	}
	defer s.reads.Release(1)
	return s.ServerStream.RecvMsg(m)
}

// connections gives every connection a semaphore, found in the contexts of its calls.
type connections struct{}

type connectionKey struct{}

// TagConn implements stats.Handler.
func (connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, connectionKey{}, semaphore.NewWeighted(smallReads))
}

// HandleConn implements stats.Handler.
func (connections) HandleConn(context.Context, stats.ConnStats) {}

// TagRPC implements stats.Handler.
func (connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (connections) HandleRPC(context.Context, stats.RPCStats) {}
