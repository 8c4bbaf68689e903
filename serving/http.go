package serving

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	"duet/schemas/duetv1"
	"duet/schemas/duetv1/duetv1connect"
	"duet/serving/reason"
)

// How long one side of an HTTP call may take. Streams have no limit of theirs.
const (
	readTimeout  = 30 * time.Second
	writeTimeout = 90 * time.Second
)

// newHTTP makes the HTTP server: RPCs as JSON, gRPC-web and gRPC, the page,
// metrics and health.
func newHTTP(cfg Config, a *api) *http.Server {
	opts := []connect.HandlerOption{
		connect.WithInterceptors(a.gate),
		connect.WithCodec(jsonCodec{"json"}),
		connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
		connect.WithReadMaxBytes(cfg.MaxMessage),
		connect.WithCompressMinBytes(1024),
		connect.WithCompression("gzip",
			func() connect.Decompressor { return &boundedGzip{limit: int64(cfg.MaxMessage) + 1} },
			func() connect.Compressor { return gzip.NewWriter(io.Discard) }),
	}
	mux := http.NewServeMux()
	mux.Handle(duetv1connect.NewIngestServiceHandler(a, opts...))
	mux.Handle(duetv1connect.NewViewServiceHandler(a, opts...))
	mux.Handle(duetv1connect.NewBatchServiceHandler(a, opts...))
	mux.Handle(duetv1connect.NewOperateServiceHandler(a, opts...))
	mux.HandleFunc("POST "+appendPath+"/{stream}", a.appendLines)
	mux.Handle("GET /metrics", cfg.Metrics.handler(a))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.readyz)
	p := newPages(cfg, a)
	mux.HandleFunc("GET /{$}", p.home)
	mux.HandleFunc("GET /views/{name}", p.view)
	mux.HandleFunc("GET /style.css", p.style)

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           a.guard(mux),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 256},
		ErrorLog:          httpLog(cfg.Log),
	}
}

// boundedGzip ends one byte beyond the largest message. Connect's own goes on to
// the end of what is too large, to tell its size: 8 MB of zeros well compressed
// are ten seconds of work.
type boundedGzip struct {
	gzip.Reader
	limit, left int64
}

// Reset begins a new message.
func (z *boundedGzip) Reset(r io.Reader) error {
	z.left = z.limit
	return z.Reader.Reset(r)
}

// Read reads up to the limit.
func (z *boundedGzip) Read(p []byte) (int, error) {
	if z.left <= 0 {
		return 0, io.EOF
	}
	n, err := z.Reader.Read(p[:min(int64(len(p)), z.left)])
	z.left -= int64(n)
	return n, err
}

// guard is what every HTTP request passes: a Host that is this machine's (a
// page that has its own name point here is of another site), no writing from
// another origin, time limits, and a panic that ends one request only.
func (a *api) guard(next http.Handler) http.Handler {
	loopback := checkAddr("", a.cfg.HTTP, false) == nil
	origin := http.NewCrossOriginProtection()
	errs := connect.NewErrorWriter()
	refuse := func(w http.ResponseWriter, r *http.Request, e *reason.Error) {
		a.cfg.Metrics.refusedHTTP(e.Reason)
		a.cfg.Log.Debug("request refused", "path", r.URL.Path, "host", r.Host, "reason", string(e.Reason))
		_ = errs.Write(w, r, connectError(e)) // the client may be gone
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if loopback && !loopbackHost(r.Host) {
			refuse(w, r, reason.New(reason.OriginRefused, "the Host header names %q, but this server answers to localhost only; use http://localhost or http://127.0.0.1", clip(r.Host)))
			return
		}
		if err := origin.Check(r); err != nil {
			refuse(w, r, reason.New(reason.OriginRefused, "a web page of another origin may not send this; send it without a browser, or from this server's own pages").Because(err))
			return
		}
		if r.URL.Path != duetv1connect.IngestServiceAppendStreamProcedure {
			rc := http.NewResponseController(w)
			now := time.Now()
			// Neither error matters: a writer without deadlines is a test's.
			_ = rc.SetReadDeadline(now.Add(readTimeout))
			_ = rc.SetWriteDeadline(now.Add(writeTimeout))
		}
		defer func() {
			if p := recover(); p != nil {
				if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(p)
				}
				refuse(w, r, refusal(fmt.Errorf("panic: %v\n%s", p, debug.Stack()), a.cfg.Log, r.URL.Path))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// loopbackHost says whether a Host header names this machine by its loopback.
func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// readyz is 200 only when calls are answered.
func (a *api) readyz(w http.ResponseWriter, _ *http.Request) {
	if err := a.ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// appendLines appends the body's JSON lines to a stream: Append for curl. The
// producer, producer_sequence and session come from the URL's query.
func (a *api) appendLines(w http.ResponseWriter, r *http.Request) {
	var resp *duetv1.AppendResponse
	refused := a.gate.pass(r.Context(), appendPath, func(ctx context.Context) error {
		if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
			return reason.New(reason.ArgumentInvalid, "the body has Content-Encoding %q; send the lines as they are, or compressed to IngestService/Append", clip(coding))
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(a.cfg.MaxMessage)))
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			return reason.New(reason.MessageTooLarge, "the body is larger than %d bytes; send fewer lines at once", large.Limit)
		case err != nil:
			return reason.New(reason.Cancelled, "the body did not arrive whole").Because(err)
		}
		req := &duetv1.AppendRequest{
			Stream:   r.PathValue("stream"),
			Payload:  &duetv1.AppendRequest_JsonLines{JsonLines: body},
			Producer: r.URL.Query().Get("producer"),
			Session:  r.URL.Query().Get("session"),
		}
		if n := r.URL.Query().Get("producer_sequence"); n != "" {
			if req.ProducerSequence, err = strconv.ParseUint(n, 10, 64); err != nil {
				return reason.Field(reason.ArgumentInvalid, "producer_sequence", "%q is not a number", clip(n))
			}
		}
		resp, err = a.Append(ctx, req)
		return err
	})
	if refused != nil {
		_ = connect.NewErrorWriter().Write(w, r, connectError(refused)) // the client may be gone
		return
	}
	text, err := protojson.Marshal(resp)
	if err != nil {
		http.Error(w, "the answer cannot be written as JSON", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, "%s\n", text)
}
