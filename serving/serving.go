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

// Config says where to listen and within which bounds.
type Config struct {
	GRPC string // address; defaults to 127.0.0.1:7401
	HTTP string // address; defaults to 127.0.0.1:7400
	// AllowRemote permits addresses that other machines reach, although nothing
	// asks who calls.
	AllowRemote bool

	Project *project.Project
	Version string // Duet's
	// Phase says what starting does, until Attach. Defaults to "starting".
	Phase func() string
	// Failure returns the error that ends the platform; nil while there is none.
	// May be nil.
	Failure func() error

	MaxMessage  int           // bytes of one request, decompressed; defaults to 8 MiB
	MaxCalls    int           // unary calls at a time, both ports together, and as many streams; defaults to 256
	MaxConns    int           // connections a port; defaults to 1,024
	MaxDeadline time.Duration // of one unary call; defaults to 60 s
	Metrics     *Metrics      // defaults to new ones
	Log         *slog.Logger  // defaults to slog.Default()
	Now         func() time.Time
}

func (c Config) withDefaults() (Config, error) {
	def(&c.GRPC, "127.0.0.1:7401")
	def(&c.HTTP, "127.0.0.1:7400")
	def(&c.MaxMessage, 8<<20)
	def(&c.MaxCalls, 256)
	def(&c.MaxConns, 1024)
	def(&c.MaxDeadline, time.Minute)
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

// checkAddr refuses an address that other machines reach.
func checkAddr(flag, addr string, remote bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s %s: not an address: %w; write HOST:PORT, such as 127.0.0.1:7400", flag, addr, err)
	}
	if remote || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%s %s: other machines reach this address, and Duet has neither TLS nor users yet: anyone there could read and write everything. Bind to 127.0.0.1 and put a proxy that has both before it, or say --allow-remote if the network is trusted", flag, addr)
	}
	return nil
}

// Server serves both ports. Start it once; Stop it any number of times, also
// without Start.
type Server struct {
	cfg      Config
	api      *api
	grpc     *grpc.Server
	http     *http.Server
	health   *health.Server
	grpcAddr atomic.Pointer[net.TCPAddr]
	httpAddr atomic.Pointer[net.TCPAddr]
	served   sync.WaitGroup
	failed   chan error
	stop     sync.Once
}

// New makes a server; it does not listen yet. All faults of cfg are reported
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
	s.served.Go(func() {
		if err := s.grpc.Serve(limitListener(g, s.cfg.MaxConns)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			s.failed <- fmt.Errorf("serving gRPC on %s: %w", g.Addr(), err)
		}
	})
	s.served.Go(func() {
		if err := s.http.Serve(limitListener(h, s.cfg.MaxConns)); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serving HTTP on %s: %w", h.Addr(), err)
		}
	})
	return nil
}

// Failed gives the error of a port that ended by itself.
func (s *Server) Failed() <-chan error { return s.failed }

// GRPCAddr is where gRPC listens; "" before Start.
func (s *Server) GRPCAddr() string { return addrText(s.grpcAddr.Load()) }

// HTTPAddr is where HTTP listens; "" before Start.
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

// Stop refuses new calls, lets running ones end until ctx does, and closes
// both ports.
func (s *Server) Stop(ctx context.Context) error {
	var err error
	s.stop.Do(func() {
		s.api.close()
		s.health.Shutdown()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.grpc.GracefulStop()
		}()
		err = s.http.Shutdown(ctx)
		select {
		case <-done:
		case <-ctx.Done():
			s.grpc.Stop()
			<-done
		}
		if err != nil {
			err = errors.Join(fmt.Errorf("some HTTP calls were cut off: %w", err), s.http.Close())
		}
		s.served.Wait()
	})
	return err
}

// register adds every service to a gRPC server.
func register(g *grpc.Server, a *api) {
	duetv1.RegisterIngestServiceServer(g, grpcIngest{a})
	duetv1.RegisterViewServiceServer(g, a)
	duetv1.RegisterBatchServiceServer(g, a)
	duetv1.RegisterOperateServiceServer(g, a)
}
