package serving

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"duet/schemas/duetv1"
	"duet/serving/reason"
)

// Metrics holds what /metrics exports, in a registry of its own. Its exported
// methods are hooks for packages that do not import Prometheus.
type Metrics struct {
	registry  *prometheus.Registry
	calls     *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	appends   *prometheus.CounterVec
	refusals  *prometheus.CounterVec
	folded    prometheus.Counter
	batches   prometheus.Histogram
	runs      *prometheus.CounterVec
	runTime   *prometheus.HistogramVec
	different prometheus.Counter
	switches  prometheus.Histogram
}

// NewMetrics returns metrics in a new registry.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_calls_total", Help: "Calls ended, by method and gRPC code."}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "duet_call_seconds", Help: "Duration of calls, by method.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 14)}, []string{"method"}),
		appends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_appended_events_total", Help: "Events stored (appended) or known by their producer number (duplicate), by stream."}, []string{"stream", "outcome"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_http_refused_total", Help: "HTTP requests refused before a method was called, by reason."}, []string{"reason"}),
		folded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "duet_live_events_total", Help: "Events that the live half has folded since the start."}),
		batches: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "duet_live_batch_seconds", Help: "Duration of a micro-batch of the live half.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duet_batch_runs_total", Help: "Runs of the batch half ended, by kind and outcome."}, []string{"kind", "outcome"}),
		runTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "duet_batch_run_seconds", Help: "Duration of runs of the batch half, by kind.",
			Buckets: prometheus.ExponentialBuckets(0.1, 2.5, 12)}, []string{"kind"}),
		different: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "duet_reconciliation_differences_total", Help: "Cells on which the halves differed beyond their bound."}),
		switches: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "duet_switch_seconds", Help: "Duration of a switch of generations.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 12)}),
	}
	m.registry.MustRegister(m.calls, m.seconds, m.appends, m.refusals, m.folded, m.batches, m.runs, m.runTime, m.different, m.switches,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// LiveBatch counts a micro-batch of the live half.
func (m *Metrics) LiveBatch(events int, took time.Duration) {
	m.folded.Add(float64(events))
	m.batches.Observe(took.Seconds())
}

// RunEnded counts a run of the batch half, and the cells that differed in it.
func (m *Metrics) RunEnded(full bool, outcome string, took time.Duration, cellsDifferent uint64) {
	kind := "incremental"
	if full {
		kind = "full"
	}
	m.runs.WithLabelValues(kind, outcome).Inc()
	m.runTime.WithLabelValues(kind).Observe(took.Seconds())
	m.different.Add(float64(cellsDifferent))
}

// Switched counts a switch of generations.
func (m *Metrics) Switched(took time.Duration) { m.switches.Observe(took.Seconds()) }

func (m *Metrics) call(method string, code codes.Code, took time.Duration) {
	if code == codes.Unimplemented {
		method = "unknown" // clients could create any number of label values
	}
	m.calls.WithLabelValues(method, code.String()).Inc()
	m.seconds.WithLabelValues(method).Observe(took.Seconds())
}

func (m *Metrics) appended(stream string, appended, duplicate int) {
	m.appends.WithLabelValues(stream, "appended").Add(float64(appended))
	m.appends.WithLabelValues(stream, "duplicate").Add(float64(duplicate))
}

func (m *Metrics) refusedHTTP(r reason.Reason) { m.refusals.WithLabelValues(string(r)).Inc() }

// handler serves the metrics, with the status as gauges.
func (m *Metrics) handler(a *api) http.Handler {
	m.registry.MustRegister(&statusCollector{a})
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// statusCollector reads the status once for each scrape.
type statusCollector struct{ api *api }

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descReady      = gauge("duet_ready", "1 when calls are answered.")
	descHealth     = gauge("duet_healthy", "1 when nothing needs an operator.")
	descLogUsed    = gauge("duet_log_used_bytes", "Bytes of the log.")
	descLogLimit   = gauge("duet_log_limit_bytes", "Bytes that the log may take.")
	descLiveLag    = gauge("duet_live_lag_messages", "Log messages that the live half has not folded.")
	descArchiveLag = gauge("duet_archive_lag_messages", "Log messages folded and not archived.")
	descGeneration = gauge("duet_generation", "Number of the generation that serves.")
	descGenAge     = gauge("duet_generation_age_seconds", "Age of the generation that serves.")
	descFiles      = gauge("duet_archive_files", "Files of the archive.")
	descArchive    = gauge("duet_archive_bytes", "Bytes of the archive.")
	descMemory     = gauge("duet_store_memory_bytes", "Memory that the store uses.")
	descMemLimit   = gauge("duet_store_memory_limit_bytes", "Memory that the store may use.")
	descAbandoned  = gauge("duet_abandoned_queries", "Statements that still run although their query has ended.")
	descEvents     = gauge("duet_events", "Events received, by stream and verdict.", "stream", "verdict")
	descNewest     = gauge("duet_newest_event_seconds", "The largest event time counted, Unix seconds, by stream.", "stream")
	descRows       = gauge("duet_view_rows", "Partial rows of a view, both halves.", "view")
	descSick       = gauge("duet_view_problem", "1 when a view cannot answer.", "view")
	descEqual      = gauge("duet_reconciliation_equal", "1 when the last reconciliation found no difference beyond its bound.")
	descPaused     = gauge("duet_batch_paused", "1 when the schedule is paused.")
)

// Describe sends nothing: the gauges depend on the project.
func (c *statusCollector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the status.
func (c *statusCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var s *duetv1.GetStatusResponse
	if refused := c.api.gate.pass(ctx, metricsStatus, func(ctx context.Context) (err error) {
		s, err = c.api.GetStatus(ctx, &duetv1.GetStatusRequest{})
		return err
	}); refused != nil {
		ch <- prometheus.NewInvalidMetric(descHealth, refused)
		return
	}
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	send(descReady, oneIf(s.Health == duetv1.Health_HEALTH_OK || s.Health == duetv1.Health_HEALTH_DEGRADED))
	send(descHealth, oneIf(s.Health == duetv1.Health_HEALTH_OK))
	send(descLogUsed, float64(s.GetLog().GetUsedBytes()))
	send(descLogLimit, float64(s.GetLog().GetLimitBytes()))
	send(descLiveLag, float64(s.GetLive().GetLagMessages()))
	send(descArchiveLag, float64(s.GetArchive().GetLagMessages()))
	send(descGeneration, float64(s.GetBatch().GetCurrent().GetNumber()))
	if t := s.GetBatch().GetCurrent().GetPublishTime(); t != nil {
		send(descGenAge, time.Since(t.AsTime()).Seconds())
	}
	send(descFiles, float64(s.GetArchive().GetFiles()))
	send(descArchive, float64(s.GetArchive().GetBytes()))
	send(descMemory, float64(s.StoreMemoryBytes))
	send(descMemLimit, float64(s.StoreMemoryLimitBytes))
	send(descAbandoned, float64(s.AbandonedQueries))
	send(descPaused, oneIf(s.GetBatch().GetPaused()))
	if s.GetBatch().GetLastVerdict() != "" {
		send(descEqual, oneIf(s.GetBatch().GetLastEqual()))
	}
	for _, st := range s.Streams {
		send(descEvents, float64(st.GetAccount().GetAccepted()), st.Name, "accepted")
		send(descEvents, float64(st.GetAccount().GetDuplicate()), st.Name, "duplicate")
		send(descEvents, float64(st.GetAccount().GetRejected()), st.Name, "rejected")
		if st.NewestEventTime != nil {
			send(descNewest, float64(st.NewestEventTime.AsTime().UnixMicro())/1e6, st.Name)
		}
	}
	for _, v := range s.Views {
		send(descRows, float64(v.PartialRows), v.Name)
		send(descSick, oneIf(v.Problem != ""), v.Name)
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// httpLog receives net/http's own messages, such as failed handshakes.
func httpLog(l *slog.Logger) *log.Logger {
	if l == nil {
		return log.New(io.Discard, "", 0)
	}
	return slog.NewLogLogger(l.Handler(), slog.LevelDebug)
}
