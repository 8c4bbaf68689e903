// Package serving is the server's outside: gRPC on one port; on the other the
// same services as JSON over HTTP (and gRPC-web), a page for people, and
// metrics.
//
// One struct, [api], implements every RPC; gRPC and HTTP are two ways to reach
// it, and both pass the same gate: ready, not too many at once, a panic is an
// error, and each error becomes a status in one place (errors.go) from a closed
// set of reasons (package reason). Start at [New] and [Server.Open].
//
// The server listens before the platform can answer, so that a page and a
// status tell how far it has come; until Open is called every other call is
// refused with CATCHING_UP and the progress.
//
// # Wiring
//
//	engine := query.New(query.Config{
//		Views: views, Streams: project.Streams, Store: query.StoreOf(store), Wait: live.Wait,
//		Archive: query.ArchiveOf(archive), Generations: query.GenerationsOf(catalog), Incarnation: log.Incarnation(),
//	})
//	half := serving.NewBatch(runner, catalog, log.Incarnation()) // half.Status() is for the Operator
//	server.Open(serving.Backends{
//		Engine: engine, Door: serving.DoorOf(door), Accounts: live, Batch: half,
//		Streams: project.Streams, Incarnation: log.Incarnation(),
//	})
//
// # Who is let in
//
// It has no TLS and no users yet. It therefore binds to loopback only unless
// told otherwise, and refuses what a web page of another site could send.
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

	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/schemas/duetv1/duetv1connect"
	"duet/schemas/project"
	"duet/serving/query"
	"duet/speed/eventlog"
)

// Door takes events into the log.
type Door interface {
	// Begin accepts a request; the order of its returns is the order in the log.
	Begin(ctx context.Context, r eventlog.Request) (Pending, error)
}

// Pending is an accepted request.
type Pending interface {
	// Wait returns when the log has synced it.
	Wait(ctx context.Context) (eventlog.Appended, error)
}

// DoorOf is the log's own door.
func DoorOf(d *eventlog.Appender) Door { return logDoor{d} }

type logDoor struct{ door *eventlog.Appender }

func (d logDoor) Begin(ctx context.Context, r eventlog.Request) (Pending, error) {
	p, err := d.door.Begin(ctx, r)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Accounts counts sessions; a *speed.Live does.
type Accounts interface {
	// Session is the account of a session since the process started, and up to
	// where it is counted.
	Session(session string) (schemas.Account, schemas.Position)
}

// Operator tells how the platform stands. It answers from the start on.
type Operator = duetv1connect.OperateServiceHandler

// Batch steers the batch half. Requests reach it with their names checked.
type Batch = duetv1connect.BatchServiceHandler

// Backends are what calls need once the platform has caught up.
type Backends struct {
	Engine      *query.Engine
	Door        Door
	Accounts    Accounts
	Batch       Batch
	Streams     []*project.Stream
	Incarnation schemas.Incarnation // of the log
}

// Config says where to listen and within which bounds.
type Config struct {
	GRPC string // address; defaults to 127.0.0.1:7401
	HTTP string // address; defaults to 127.0.0.1:7400
	// AllowRemote permits addresses that other machines reach, although nothing
	// asks who calls.
	AllowRemote bool

	Project  string // its name, for the page
	Operator Operator
	// Progress tells, from 0 to 1, how far catching up is, and in words. May be nil.
	Progress func() (float64, string)

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
	if c.Progress == nil {
		c.Progress = func() (float64, string) { return 0, "starting" }
	}
	var errs []error
	for _, a := range []struct{ flag, addr string }{{"--grpc", c.GRPC}, {"--http", c.HTTP}} {
		errs = append(errs, checkAddr(a.flag, a.addr, c.AllowRemote))
	}
	if c.Operator == nil {
		errs = append(errs, errors.New("serving: Config.Operator is not set"))
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

// Open lets calls through: the platform has caught up.
func (s *Server) Open(b Backends) {
	s.api.open(b)
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
