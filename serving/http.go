package serving

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
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

// writeTimeout is the longest time from a request's head to the end of its
// answer. Streams have none.
const writeTimeout = 2 * time.Minute

// newHTTP returns the HTTP server: RPCs as JSON, gRPC-web and gRPC, the page,
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
	mux.HandleFunc("/", nothingThere)

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           a.guard(mux),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 256},
		ErrorLog:          httpLog(cfg.Log),
	}
}

// boundedGzip ends one byte beyond the largest message. Connect's own reads a
// message that is too large to its end, to report the size: 8 MB of compressed
// zeros are ten seconds of work.
type boundedGzip struct {
	gzip.Reader
	limit, left int64
}

// Reset starts a new message.
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

// guard is what every HTTP request passes before its handler: a Host that is
// this machine (a page whose own name resolves to it belongs to another site), no
// writing from another origin, a method and a content type that the path takes,
// time limits, a body that has arrived, and a panic that ends one request only.
func (a *api) guard(next http.Handler) http.Handler {
	loopback := checkAddr("", a.cfg.HTTP, false) == nil
	origin := http.NewCrossOriginProtection()
	bodies := newBodies(a.cfg)
	refuse := func(w http.ResponseWriter, r *http.Request, status int, e *reason.Error) {
		a.cfg.Metrics.refusedHTTP(e.Reason)
		a.cfg.Log.Debug("request refused", "path", r.URL.Path, "host", r.Host, "reason", string(e.Reason), "message", e.Message)
		writeError(w, r, status, e)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		defer func() {
			if p := recover(); p != nil {
				if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(p)
				}
				refuse(w, r, 0, refusal(fmt.Errorf("panic: %v\n%s", p, debug.Stack()), a.cfg.Log, r.URL.Path))
			}
		}()
		if loopback && !loopbackHost(r.Host) {
			refuse(w, r, 0, reason.New(reason.OriginRefused, "the Host header names %q, but this server answers to localhost only; use http://localhost or http://127.0.0.1", clip(r.Host)))
			return
		}
		if err := origin.Check(r); err != nil {
			refuse(w, r, 0, reason.New(reason.OriginRefused, "a web page of another origin may not send this; send it without a browser, or from this server's own pages").Because(err))
			return
		}
		m, known := methods[r.URL.Path]
		if strings.HasPrefix(r.URL.Path, "/duet.v1.") {
			if !known {
				nothingThere(w, r)
				return
			}
			if status, e := wrongForm(r); e != nil {
				h.Set("Allow", http.MethodPost)
				h.Set("Accept-Post", "application/json")
				refuse(w, r, status, e)
				return
			}
		}
		if !known || m.class != classStream {
			rc := http.NewResponseController(w)
			now := time.Now()
			// A writer without deadlines is a test's.
			_ = rc.SetReadDeadline(now.Add(a.cfg.BodyTimeout))
			_ = rc.SetWriteDeadline(now.Add(writeTimeout))
			release, e := bodies.read(r)
			defer release()
			if e != nil {
				refuse(w, r, 0, e)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// wrongForm returns a refusal, with its HTTP status, of what connect would refuse
// with an empty body: a method other than POST, and an unknown content type.
func wrongForm(r *http.Request) (int, *reason.Error) {
	if r.Method != http.MethodPost {
		return http.StatusMethodNotAllowed, reason.New(reason.ArgumentInvalid, "%s is a method of the API: send it with POST and a JSON body, such as curl -d '{}' -H 'Content-Type: application/json'", r.URL.Path)
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && (kind == "application/json" || kind == "application/proto" || strings.HasPrefix(kind, "application/connect+") || strings.HasPrefix(kind, "application/grpc")) {
		return 0, nil
	}
	return http.StatusUnsupportedMediaType, reason.New(reason.ArgumentInvalid, "the body has Content-Type %q; send JSON with Content-Type: application/json", clip(r.Header.Get("Content-Type")))
}

// nothingThere answers for paths that do not exist.
func nothingThere(w http.ResponseWriter, r *http.Request) {
	writeError(w, r, http.StatusNotFound, reason.New(reason.MethodUnknown, "there is nothing at %s; the page is at /, a method of the API at a path such as /duet.v1.ViewService/Query, and %s/STREAM takes events as JSON lines", clip(r.URL.Path), appendPath))
}

// writeError writes an error in the form that the request's protocol has for it.
// status replaces the HTTP status unless it is 0.
func writeError(w http.ResponseWriter, r *http.Request, status int, e *reason.Error) {
	if status != 0 {
		w = &statusWriter{w, status}
	}
	_ = connect.NewErrorWriter().Write(w, r, connectError(e)) // the client may be gone
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(int) { w.ResponseWriter.WriteHeader(w.status) }

// loopbackHost reports whether a Host header names this machine by its loopback
// address.
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
		http.Error(w, err.Error(), http.StatusServiceUnavailable) // a line of text, for probes
		return
	}
	fmt.Fprintln(w, "ready")
}

// appendLines appends the body's JSON lines to a stream: Append for curl.
// producer, producer_sequence and session are URL parameters.
func (a *api) appendLines(w http.ResponseWriter, r *http.Request) {
	var resp *duetv1.AppendResponse
	refused := a.gate.pass(r.Context(), appendPath, func(ctx context.Context) error {
		if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
			return reason.New(reason.ArgumentInvalid, "the body has Content-Encoding %q; send the lines as they are, or compressed to IngestService/Append", clip(coding))
		}
		body, err := io.ReadAll(r.Body) // the guard has it in memory
		if err != nil {
			return err
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
		writeError(w, r, 0, refused)
		return
	}
	text, err := protojson.Marshal(resp)
	if err != nil {
		writeError(w, r, 0, refusal(err, a.cfg.Log, appendPath))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, "%s\n", text)
}
