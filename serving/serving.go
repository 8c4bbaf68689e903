// Package serving is the server's outside: gRPC on one port, and on the other
// the same services as JSON over HTTP (and gRPC-web), a page, and metrics.
//
// Each method of a service is written once, on [api]; grpc-go and connect are
// two transports to it. Every call of either port, every page and every append
// by curl passes one gate (gate.go): readiness, limits, metrics, a panic that
// ends one call only, and the one mapping of errors to the closed set of reasons
// (errors.go, package reason). methods.go lists every method with its class.
// Start at [New], [Server.Attach] and [Server.Open].
//
// The server listens before the platform can answer, so that the page and
// GetStatus show how far recovery is. Attach hands over the platform's parts:
// status and inspection are then complete. Open lets all other calls through;
// until then they are refused with CATCHING_UP and the progress.
//
// It has neither TLS nor users. It therefore binds to loopback only unless
// Config.AllowRemote is set, and refuses what a web page of another site can
// make a browser send.
package serving

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"duet/schemas/duetv1"
	"duet/schemas/project"
	"duet/speed/eventlog"
)

// Config says where to listen, and bounds what clients can use.
type Config struct {
	GRPC string // address; defaults to 127.0.0.1:7401
	HTTP string // address; defaults to 127.0.0.1:7400
	// AllowRemote permits addresses that other machines reach, although callers
	// are not authenticated.
	AllowRemote bool

	Project *project.Project
	// Folder is the project's folder; status reports files of it that differ from
	// Project. May be nil.
	Folder  fs.FS
	Version string // Duet's
	// Phase says what starting does, until Attach. Defaults to "starting".
	Phase func() string
	// Failure returns the error that ends the platform; nil while there is none.
	// May be nil.
	Failure func() error

	MaxMessage  int           // bytes of one request, decompressed; defaults to 8 MiB
	MaxAppends  int           // unary appends at a time; defaults to 256
	MaxStreams  int           // open AppendStreams; defaults to 1,024
	MaxQueries  int           // queries that run or wait; defaults to 1,024
	MaxOperator int           // calls of operators at a time; defaults to 64
	MaxConns    int           // connections of each port; further ones are refused; defaults to 2,048
	MaxBodies   int64         // bytes of HTTP bodies that are being read; defaults to 256 MiB
	MaxDeadline time.Duration // the longest time of a unary call; defaults to 60 s
	BodyTimeout time.Duration // the longest time in which a request arrives; defaults to 30 s
	StreamIdle  time.Duration // an AppendStream without requests ends after this; defaults to 5 min
	Grace       time.Duration // the longest time that Stop waits for running calls; defaults to 5 s
	Metrics     *Metrics      // defaults to new ones
	Log         *slog.Logger  // defaults to slog.Default()
	Now         func() time.Time
}

func (c Config) withDefaults() (Config, error) {
	def(&c.GRPC, "127.0.0.1:7401")
	def(&c.HTTP, "127.0.0.1:7400")
	def(&c.MaxMessage, 8<<20)
	def(&c.MaxAppends, 256)
	def(&c.MaxStreams, 1024)
	def(&c.MaxQueries, 1024)
	def(&c.MaxOperator, 64)
	def(&c.MaxConns, 2048)
	def(&c.MaxBodies, 256<<20)
	def(&c.MaxDeadline, time.Minute)
	def(&c.BodyTimeout, 30*time.Second)
	def(&c.StreamIdle, 5*time.Minute)
	def(&c.Grace, 5*time.Second)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	if c.Phase == nil {
		c.Phase = func() string { return "starting" }
	}
	if c.Failure == nil {
		c.Failure = func() error { return nil }
	}
	var errs []error
	for _, a := range []struct{ flag, addr string }{{"--grpc", c.GRPC}, {"--http", c.HTTP}} {
		errs = append(errs, checkAddr(a.flag, a.addr, c.AllowRemote))
	}
	if c.Project == nil {
		errs = append(errs, errors.New("serving: Config.Project is not set"))
	}
	return c, errors.Join(errs...)
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// checkAddr refuses an address that other machines reach, unless remote is set.
func checkAddr(flag, addr string, remote bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s %s: %w; write HOST:PORT, such as 127.0.0.1:7400", flag, addr, err)
	}
	if remote || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%s %s: other machines reach this address, and Duet has neither TLS nor users yet: anyone there could read and write everything. Bind to 127.0.0.1 behind a proxy that has both, or pass --allow-remote if the network is trusted", flag, addr)
	}
	return nil
}

// Server serves both ports. Start it once. Stop may be called more than once, and
// without Start.
type Server struct {
	cfg      Config
	api      *api
	grpc     *grpc.Server
	http     *http.Server
	noGRPC   *grpc.Server // refuses the connections beyond MaxConns
	noHTTP   *http.Server
	health   *health.Server
	grpcAddr atomic.Pointer[net.TCPAddr]
	httpAddr atomic.Pointer[net.TCPAddr]
	served   sync.WaitGroup
	failed   chan error
	stop     sync.Once
}

// New returns a server that does not listen yet. It reports all faults of cfg
// together.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, failed: make(chan error, 2), health: health.NewServer()}
	s.api = newAPI(cfg)
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	s.grpc = newGRPC(cfg, s.api, s.health)
	s.http = newHTTP(cfg, s.api)
	s.noGRPC, s.noHTTP = refusingGRPC(), refusingHTTP(cfg.Log)
	return s, nil
}

// Start listens on both ports.
func (s *Server) Start(ctx context.Context) error {
	var lc net.ListenConfig
	g, err := lc.Listen(ctx, "tcp", s.cfg.GRPC)
	if err != nil {
		return fmt.Errorf("--grpc: %w; another duet may run: stop it, or choose another address", err)
	}
	h, err := lc.Listen(ctx, "tcp", s.cfg.HTTP)
	if err != nil {
		g.Close()
		return fmt.Errorf("--http: %w; another duet may run: stop it, or choose another address", err)
	}
	s.grpcAddr.Store(g.Addr().(*net.TCPAddr))
	s.httpAddr.Store(h.Addr().(*net.TCPAddr))
	serve := func(protocol string, l net.Listener, admitted, refused func(net.Listener) error) {
		in, over := splitListener(l, s.cfg.MaxConns)
		s.served.Go(func() { _ = refused(over) }) // ends with its listener
		s.served.Go(func() {
			if err := admitted(in); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, http.ErrServerClosed) {
				s.failed <- fmt.Errorf("serving %s on %s: %w", protocol, l.Addr(), err)
			}
		})
	}
	serve("gRPC", g, s.grpc.Serve, s.noGRPC.Serve)
	serve("HTTP", h, s.http.Serve, s.noHTTP.Serve)
	return nil
}

// Failed delivers the error of a port that ended by itself.
func (s *Server) Failed() <-chan error { return s.failed }

// GRPCAddr returns the address of gRPC; "" before Start.
func (s *Server) GRPCAddr() string { return addrText(s.grpcAddr.Load()) }

// HTTPAddr returns the address of HTTP; "" before Start.
func (s *Server) HTTPAddr() string { return addrText(s.httpAddr.Load()) }

func addrText(a *net.TCPAddr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// Attach hands over the platform's parts. Status and inspection are complete
// from now on. Call it once, after Start or before.
func (s *Server) Attach(p Platform) { s.api.attach(p) }

// Open lets all calls through: the platform has caught up. The appender takes
// their events. Call it once, after Attach.
func (s *Server) Open(appender *eventlog.Appender) {
	s.api.open(appender)
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
}

// Stop refuses new calls, lets running ones end until ctx does or Config.Grace
// is over, whichever comes first, and then ends them and closes both ports. The
// error says that calls were ended. It never waits for what a call runs in the
// background.
func (s *Server) Stop(ctx context.Context) error {
	var err error
	s.stop.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.Grace)
		defer cancel()
		s.api.close()
		s.health.Shutdown()
		s.noGRPC.Stop()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.grpc.GracefulStop()
		}()
		err = s.http.Shutdown(ctx)
		select {
		case <-done:
		case <-ctx.Done():
			err = errors.Join(err, ctx.Err())
			s.api.gate.cut()
			s.grpc.Stop()
			<-done
		}
		if err != nil {
			err = errors.Join(fmt.Errorf("calls were ended after %s: %w", s.cfg.Grace, err), s.http.Close())
		}
		err = errors.Join(err, s.noHTTP.Close())
		s.served.Wait()
	})
	return err
}

// register adds every service to g.
func register(g *grpc.Server, a *api) {
	duetv1.RegisterIngestServiceServer(g, grpcIngest{a})
	duetv1.RegisterViewServiceServer(g, a)
	duetv1.RegisterBatchServiceServer(g, a)
	duetv1.RegisterOperateServiceServer(g, a)
}
