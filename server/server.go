// Package server is the gRPC service: it takes calls, admits jobs within the limits, and connects each call's stream to a
// pipeline. It is the only room beside client that knows the generated stubs, and the only one that makes gRPC statuses.
package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	upscalev1 "upscaler/gen/upscale/v1"
	"upscaler/live"
	"upscaler/sr"
)

// Config is what a server is made of.
type Config struct {
	Scheduler *sr.Scheduler // the caller closes it after Serve has returned
	Limits    Limits
	Log       *slog.Logger
	// SpoolDir is where uploads that cannot be read as a stream are stored while their job lasts. Empty means the system's
	// folder for temporary files.
	SpoolDir string
	// CodecThreads is how many threads a job's decoder and its encoder may use, each; 0 means one per core.
	CodecThreads int
	// Options are added to the gRPC server's: credentials, interceptors.
	Options []grpc.ServerOption
	// Metrics is where the server's metrics are registered; nil means nowhere.
	Metrics prometheus.Registerer
	// EngineVersion is ONNX Runtime's version, for GetServerInfo.
	EngineVersion string
	// Network is what live jobs may reach; nil means nothing.
	Network *live.Network
}

// Server serves upscale.v1.UpscaleService, grpc.health.v1.Health and reflection.
type Server struct {
	upscalev1.UnimplementedUpscaleServiceServer

	cfg     Config
	limits  Limits
	log     *slog.Logger
	grpc    *grpc.Server
	health  *health.Server
	metrics *metrics

	mu       sync.Mutex
	draining bool
	running  int
	sessions map[holder]struct{}
	idle     chan struct{} // closed when draining and the last job has ended
	leaked   int64         // bytes of frames that ended jobs did not give back; anything but 0 is a bug

	stop      context.Context // ends when the grace time is over; its cause is errShutdown
	stopJobs  context.CancelCauseFunc
	recvLoops atomic.Int64 // receive goroutines alive, for the leak test
}

// New returns a server that is ready to Serve.
func New(cfg Config) (*Server, error) {
	if cfg.Scheduler == nil {
		return nil, fmt.Errorf("server: Config.Scheduler is missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Server{
		cfg:    cfg,
		limits: cfg.Limits.withDefaults(),
		log:    cfg.Log,
		health: health.NewServer(),
		idle:   make(chan struct{}), sessions: map[holder]struct{}{},
	}
	s.stop, s.stopJobs = context.WithCancelCause(context.Background())
	var err error
	if s.metrics, err = newMetrics(cfg.Metrics, s); err != nil {
		return nil, fmt.Errorf("server: register metrics: %w", err)
	}
	s.grpc = grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(s.limits.maxMessage()),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveAfter, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMin, PermitWithoutStream: true}),
		grpc.StatsHandler(connections{}),
		grpc.ChainStreamInterceptor(limitReads),
	}, cfg.Options...)...)
	s.grpc.RegisterService(asStreams(upscalev1.UpscaleService_ServiceDesc), s)
	s.grpc.RegisterService(asStreams(healthgrpc.Health_ServiceDesc), s.health)
	reflection.Register(s.grpc)
	s.health.SetServingStatus(upscalev1.UpscaleService_ServiceDesc.ServiceName, healthgrpc.HealthCheckResponse_SERVING)
	return s, nil
}

// Serve answers calls on lis until ctx ends, then stops taking jobs (health says NOT_SERVING), lets the running ones finish
// within the grace time, ends the rest, and returns nil. It returns an error only when lis fails.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	served := make(chan struct{})
	var failed error
	go func() {
		defer close(served)
		failed = s.grpc.Serve(lis)
	}()
	select {
	case <-served:
		return fmt.Errorf("serve %s: %w", lis.Addr(), failed)
	case <-ctx.Done():
	}
	s.drain()
	<-served
	return nil
}

func (s *Server) drain() {
	s.health.Shutdown()
	s.mu.Lock()
	s.draining = true
	running := s.running
	if running == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	s.log.Info("stopping", "jobs", running, "grace", s.limits.Grace)

	grace := time.NewTimer(s.limits.Grace)
	defer grace.Stop()
	select {
	case <-s.idle:
	case <-grace.C:
		s.stopJobs(errShutdown)
		<-s.idle // a cancelled job ends within a frame
	}
	// The jobs are done, and their last messages are on the way. What hangs on after that are calls like health.Watch, which
	// end only with their connection.
	cut := time.AfterFunc(flushTimeout, s.grpc.Stop)
	defer cut.Stop()
	s.grpc.GracefulStop()
	s.stopJobs(errShutdown)
}

func (s *Server) runningJobs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// holder is a job that holds frames.
type holder interface {
	heldBytes() int64
	logger() *slog.Logger
}

// open and end keep the list of jobs for the metrics.
func (s *Server) open(job holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[job] = struct{}{}
}

func (s *Server) end(job holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, job)
	if held := job.heldBytes(); held != 0 {
		s.leaked += held
		job.logger().Error("the job ended without giving back its frames", "bytes", held)
	}
}

// frameBytes is the frame memory that all jobs hold.
func (s *Server) frameBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.leaked
	for job := range s.sessions {
		n += job.heldBytes()
	}
	return n
}
