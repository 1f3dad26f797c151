package server

import (
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"

	"upscaler/internal/av"
	"upscaler/server/pipeline"
	"upscaler/sr"
)

// metrics are the server's figures for Prometheus.
type metrics struct {
	jobs   *prometheus.CounterVec // by the gRPC code they ended with
	frames prometheus.Counter
	bytes  *prometheus.CounterVec // by direction
	stages *prometheus.CounterVec // seconds, by stage
}

func newMetrics(reg prometheus.Registerer, s *Server) (*metrics, error) {
	m := &metrics{
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "upscale_jobs_total", Help: "Jobs ended, by the gRPC code they ended with."}, []string{"code"}),
		frames: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "upscale_frames_total", Help: "Frames upscaled and encoded."}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "upscale_bytes_total", Help: "Bytes of media, by direction (in, out)."}, []string{"direction"}),
		stages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "upscale_stage_seconds_total", Help: "Time the stages of ended jobs were busy (decode, upscale, encode)."}, []string{"stage"}),
	}
	if reg == nil {
		return m, nil
	}
	collectors := []prometheus.Collector{m.jobs, m.frames, m.bytes, m.stages,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "upscale_jobs_running", Help: "Jobs being worked on."}, func() float64 { return float64(s.runningJobs()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "upscale_jobs_limit", Help: "Jobs the server works on at once at most."}, func() float64 { return float64(s.limits.MaxJobs) }),
	}
	collectors = append(collectors,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "upscale_ffmpeg_contexts", Help: "FFmpeg contexts, packets and frames held."}, func() float64 { return float64(av.LiveContexts()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "upscale_frame_bytes", Help: "Bytes of frames and planes held by jobs."}, func() float64 { return float64(s.frameBytes()) }),
	)
	collectors = append(collectors, engineCollector{s.cfg.Scheduler}, liveCollector{s})
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// The engines' figures, read from the scheduler when they are asked for.
var (
	engineFrames = prometheus.NewDesc("upscale_engine_frames_total", "Frames upscaled.", []string{"device"}, nil)
	engineReused = prometheus.NewDesc("upscale_engine_reused_tiles_total", "Tiles copied because they equal the frame before.", []string{"device"}, nil)
	enginePixels = prometheus.NewDesc("upscale_engine_pixels_total", "Input pixels of the frames.", []string{"device"}, nil)
	engineKept   = prometheus.NewDesc("upscale_engine_reused_pixels_total", "Of these, pixels that were not computed, as nothing that they depend on had changed since the frame before.", []string{"device"}, nil)
	engineBusy   = prometheus.NewDesc("upscale_engine_busy_seconds_total", "Inference time, summed over the device's lanes.", []string{"device"}, nil)
	engineQueued = prometheus.NewDesc("upscale_engine_queued_tiles", "Tiles waiting for the device.", []string{"device"}, nil)
)

type engineCollector struct{ scheduler *sr.Scheduler }

func (engineCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- engineFrames
	ch <- engineReused
	ch <- enginePixels
	ch <- engineKept
	ch <- engineBusy
	ch <- engineQueued
}

func (c engineCollector) Collect(ch chan<- prometheus.Metric) {
	for _, e := range c.scheduler.Stats().Engines {
		device := e.Device.String()
		ch <- prometheus.MustNewConstMetric(engineFrames, prometheus.CounterValue, float64(e.Frames), device)
		ch <- prometheus.MustNewConstMetric(engineReused, prometheus.CounterValue, float64(e.TilesReused), device)
		ch <- prometheus.MustNewConstMetric(enginePixels, prometheus.CounterValue, float64(e.Pixels), device)
		ch <- prometheus.MustNewConstMetric(engineKept, prometheus.CounterValue, float64(e.PixelsReused), device)
		ch <- prometheus.MustNewConstMetric(engineBusy, prometheus.CounterValue, e.Busy.Seconds(), device)
		ch <- prometheus.MustNewConstMetric(engineQueued, prometheus.GaugeValue, float64(e.Queued), device)
	}
}

func (m *metrics) jobEnded(err error) { m.jobs.WithLabelValues(status.Code(err).String()).Inc() }

func (m *metrics) jobDone(p pipeline.Progress) {
	m.frames.Add(float64(p.Encoded))
	m.bytes.WithLabelValues("in").Add(float64(p.BytesIn))
	m.bytes.WithLabelValues("out").Add(float64(p.BytesOut))
	m.stages.WithLabelValues("decode").Add(p.Stages.Decode.Seconds())
	m.stages.WithLabelValues("upscale").Add(p.Stages.Upscale.Seconds())
	m.stages.WithLabelValues("encode").Add(p.Stages.Encode.Seconds())
}
