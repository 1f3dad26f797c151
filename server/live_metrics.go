package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"upscaler/server/pipeline"
)

// The figures of live jobs, read from them when they are asked for. A job's series end with it.
var (
	liveLatency = prometheus.NewDesc("upscale_live_latency_seconds",
		"From the arrival of a frame's first byte to its encoded packet, over the last frames.", []string{"job", "quantile"}, nil)
	liveLevel = prometheus.NewDesc("upscale_live_level",
		"Always 1; the label level says what upscales the job's frames now.", []string{"job", "level"}, nil)
	liveFrames = prometheus.NewDesc("upscale_live_frames_total",
		"Frames of a live job: in (decoded), out (encoded), held (of these, the last picture once more).", []string{"job", "what"}, nil)
	liveDropped = prometheus.NewDesc("upscale_live_dropped_frames_total",
		"Frames that a live job dropped, by cause: late, undecoded, sink.", []string{"job", "cause"}, nil)
	liveQueued = prometheus.NewDesc("upscale_live_queued_frames",
		"Frames of a live job between decoding and encoding.", []string{"job"}, nil)
	liveQueuedBytes = prometheus.NewDesc("upscale_live_sink_queued_bytes",
		"Bytes that wait for a live job's sink.", []string{"job"}, nil)
	liveReconnects = prometheus.NewDesc("upscale_live_reconnects_total",
		"Connections made again, by end: source, sink.", []string{"job", "end"}, nil)
)

type liveCollector struct{ server *Server }

// Describe implements prometheus.Collector.
func (liveCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{liveLatency, liveLevel, liveFrames, liveDropped, liveQueued, liveQueuedBytes, liveReconnects} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c liveCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.server.liveSessions() {
		job := s.job.Load()
		if job == nil {
			continue
		}
		pr := job.job.Progress()
		if pr.Live != nil {
			s.collectLive(ch, pr)
		}
	}
}

func (s *session) collectLive(ch chan<- prometheus.Metric, pr pipeline.Progress) {
	l := pr.Live
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{s.id}, labels...)...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{s.id}, labels...)...)
	}
	gauge(liveLatency, l.P50.Seconds(), "0.5")
	gauge(liveLatency, l.P95.Seconds(), "0.95")
	gauge(liveLatency, l.P99.Seconds(), "0.99")
	gauge(liveLevel, 1, l.Level)
	gauge(liveQueued, float64(l.QueuedFrames))
	count(liveFrames, pr.Decoded, "in")
	count(liveFrames, pr.Encoded, "out")
	count(liveFrames, l.Held, "held")
	count(liveDropped, l.DroppedLate, "late")
	count(liveDropped, l.DroppedUndecoded, "undecoded")
	count(liveReconnects, l.SourceReconnects, "source")
	if remote := s.remote.Load(); remote != nil {
		st := remote.Stats()
		count(liveDropped, uint64(st.DroppedFrames), "sink")
		count(liveReconnects, uint64(st.Reconnects), "sink")
		gauge(liveQueuedBytes, float64(st.QueuedBytes))
	}
}

// liveSessions returns the sessions that are running now.
func (s *Server) liveSessions() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*session
	for job := range s.sessions {
		if sess, ok := job.(*session); ok {
			all = append(all, sess)
		}
	}
	return all
}
