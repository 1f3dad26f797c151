package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"upscaler/internal/version"
	"upscaler/live"
	"upscaler/models"
	"upscaler/server"
	"upscaler/sr"
	"upscaler/sr/native"
	"upscaler/sr/onnx"
)

// metricsTimeout bounds how long a scraper may take for its request.
const metricsTimeout = 10 * time.Second

// flags are the command line as it was given.
type flags struct {
	listen       string
	metrics      string
	logFormat    string
	logLevel     string
	engine       string
	onnxruntime  string
	cpuWorkers   int
	cudaID       int
	cudaMemory   int64
	codecThreads int
	spoolDir     string
	limits       server.Limits
	exitOnEOF    bool
	security     security
	network      live.Network
}

func command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "sr-server",
		Short: "Upscale videos for clients over gRPC",
		Long: `sr-server receives videos as streams of bytes, upscales every frame with an LMSWN super-resolution network, and streams
the results back. It runs until it gets SIGTERM or SIGINT, then finishes the running jobs within the grace time.`,
		Example: `  sr-server                                              on 127.0.0.1:50051, for this machine alone
  sr-server --listen :50051 --tls-cert c.pem --tls-key k.pem --token-file tokens
                                                         for others, encrypted, to those who hold a token
  sr-server --listen unix:/run/sr.sock --max-jobs 2
  sr-server --metrics-listen 127.0.0.1:9090              Prometheus figures at /metrics
  sr-server --allow-source rtsp://*.cameras.lan:554 --allow-sink srt://10.0.0.5:9000-9010
                                                         live streams, from and to nowhere else`,
		Args:          cobra.NoArgs,
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context()) },
	}
	p := cmd.Flags()
	p.SortFlags = false
	p.StringVar(&f.listen, "listen", "127.0.0.1:50051", "address to serve on: host:port, or unix:/path/to/socket")
	p.StringVar(&f.metrics, "metrics-listen", "", "address to serve Prometheus metrics on (off when empty)")
	p.IntVar(&f.limits.MaxJobs, "max-jobs", 0, "videos worked on at once (default twice the cores)")
	p.Int64Var(&f.limits.MaxInputPixels, "max-input-pixels", 0, "largest accepted frame, width x height (default 4096 x 2304)")
	p.Int64Var(&f.limits.FrameMemory, "frame-memory", 0, "bytes of decoded frames a job may hold (default 128 MiB)")
	p.Int64Var(&f.limits.PlaneMemory, "plane-memory", 0, "bytes of upscaled planes a job may hold (default 256 MiB)")
	p.StringVar(&f.spoolDir, "spool-dir", "", "folder for uploads that cannot be read as a stream (default the system's temporary folder)")
	p.Int64Var(&f.limits.MaxSpool, "max-spool", 0, "bytes of the largest such upload (default 16 GiB)")
	p.Int64Var(&f.limits.MaxUpload, "max-upload", 0, "bytes of the largest upload (default no bound)")
	p.DurationVar(&f.limits.MaxJobTime, "max-job-time", 0, "longest time a job may take (default 24h)")
	p.DurationVar(&f.limits.StallTimeout, "stall-timeout", 0, "end jobs that make no progress for so long (default 5m)")
	p.DurationVar(&f.limits.Grace, "grace", 0, "time running jobs get to finish after SIGTERM (default 30s)")
	p.IntVar(&f.cpuWorkers, "cpu-workers", 0, "frames upscaled side by side on the CPU (default one per core)")
	p.IntVar(&f.cudaID, "cuda-device", 0, "number of the GPU to use")
	p.Int64Var(&f.cudaMemory, "cuda-memory", 0, "bytes of its memory to take at most (default 4 GiB)")
	p.IntVar(&f.codecThreads, "codec-threads", 0, "threads of each decoder and encoder (default one per core)")
	p.StringVar(&f.engine, "engine", "auto", "what computes on the CPU: native (our kernels, int8 models only), onnx, or auto (native where it can)")
	p.StringVar(&f.onnxruntime, "onnxruntime", "", "path of libonnxruntime.so (default: $UPSCALER_ONNXRUNTIME, lib/ beside the program, the system's)")
	f.security.register(p)
	allowed := func(patterns *[]live.Pattern) func(string) error {
		return func(s string) error {
			pattern, err := live.ParsePattern(s)
			*patterns = append(*patterns, pattern)
			return err
		}
	}
	p.Func("allow-source", "`scheme://host:port` that live jobs may read; host: name, *.name, IP, network or *; port: number, range or * (repeatable; default none)",
		allowed(&f.network.Sources))
	p.Func("allow-sink", "`scheme://host:port` that live jobs may send to, likewise (repeatable; default none)", allowed(&f.network.Sinks))
	p.StringVar(&f.logFormat, "log-format", "text", "text or json")
	p.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	p.BoolVar(&f.exitOnEOF, "exit-on-stdin-close", false, "stop when standard input ends, as when the program that started this one died")
	return cmd
}

func (f *flags) run(ctx context.Context) error {
	log, err := f.logger()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	if f.exitOnEOF {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		go func() {
			defer cancel()
			_, _ = io.Copy(io.Discard, os.Stdin)
		}()
	}
	scheduler, err := f.scheduler(log)
	if err != nil {
		return err
	}
	defer scheduler.Close()
	options, err := f.security.serverOptions(f.listen, log)
	if err != nil {
		return err
	}

	f.network.Log = log
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	srv, err := server.New(server.Config{
		Scheduler: scheduler, Limits: f.limits, Log: log, SpoolDir: f.spoolDir, CodecThreads: f.codecThreads,
		Options: options, Metrics: registry, EngineVersion: onnx.Version(), Network: &f.network,
	})
	if err != nil {
		return err
	}
	if f.metrics != "" {
		closeMetrics, err := serveMetrics(f.metrics, registry, log)
		if err != nil {
			return err
		}
		defer closeMetrics()
	}
	lis, err := listen(f.listen)
	if err != nil {
		return err
	}
	log.Info("listening", "addr", lis.Addr().String(), "version", version.Version)
	return srv.Serve(ctx, lis)
}

// scheduler finds the models and the devices they can run on. The CPU must work; CUDA may be missing.
func (f *flags) scheduler(log *slog.Logger) (*sr.Scheduler, error) {
	files, err := onnx.Catalog(models.FS)
	if err != nil {
		return nil, err
	}
	cpu, err := f.cpuEngine(log)
	if err != nil {
		return nil, err
	}
	config := sr.Config{Models: files, Engines: []sr.Engine{cpu}, Missing: map[sr.Device]error{}}
	if cuda, err := onnx.OpenCUDA(onnx.CUDAOptions{Library: f.onnxruntime, ID: f.cudaID, Memory: f.cudaMemory}); err == nil {
		config.Engines = append(config.Engines, cuda)
	} else {
		config.Missing[sr.CUDA] = err
		log.Debug("no CUDA", "why", err)
		if f.engine == "native" { // nothing here runs the others: better not offered than refused when a job has begun
			config.Models = slices.DeleteFunc(files, func(m sr.File) bool { return !native.Supports(m) })
		}
	}
	for _, e := range config.Engines {
		log.Info("engine", "device", e.Device().String(), "name", e.Name())
	}
	return sr.New(config)
}

// cpuEngine returns the engine that --engine names. The native kernels know int8 models only and leave others to ONNX Runtime.
func (f *flags) cpuEngine(log *slog.Logger) (sr.Engine, error) {
	kernels := native.Options{Workers: f.cpuWorkers, Loaded: func(m sr.File, path string, refused []string) {
		log.Info("model loaded", "model", m.Name, "kernels", path)
		if len(refused) > 0 {
			log.Warn("kernels compute something else on this CPU than they should, slower ones are used; please report it",
				"model", m.Name, "refused", refused)
		}
	}}
	if f.engine == "native" {
		return native.NewEngine(kernels), nil
	}
	portable, err := onnx.OpenCPU(onnx.CPUOptions{Library: f.onnxruntime, Workers: f.cpuWorkers})
	if err != nil {
		return nil, err
	}
	switch f.engine {
	case "auto":
		kernels.Other, kernels.Refused = portable, func(m sr.File, why error) {
			log.Info("model left to another engine", "model", m.Name, "engine", portable.Name(), "why", why)
		}
		return native.NewEngine(kernels), nil
	case "onnx":
		return portable, nil
	}
	return nil, fmt.Errorf("--engine %s: want auto, native or onnx", f.engine)
}

func (f *flags) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %s: want debug, info, warn or error", f.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, fmt.Errorf("--log-format %s: want text or json", f.logFormat)
}

// listen opens host:port or unix:/path. A socket file that a dead server left behind is removed.
func listen(addr string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(addr, "unix:")
	if !isUnix {
		lis, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("--listen %s: %w", addr, err)
		}
		return lis, nil
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("--listen %s: another server is using this socket", addr)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path)
	}
	lis, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w", addr, err)
	}
	return lis, nil
}

// serveMetrics answers /metrics on addr until the returned function is called.
func serveMetrics(addr string, registry *prometheus.Registry, log *slog.Logger) (func(), error) {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--metrics-listen %s: %w", addr, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics", "err", err)
		}
	}()
	log.Info("serving metrics", "addr", lis.Addr().String())
	return func() {
		srv.Close()
		<-done
	}, nil
}
