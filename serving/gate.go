package serving

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/tap"

	"duet/serving/reason"
)

// gate is what every call passes, whatever transport brings it.
type gate struct {
	ready    func() error
	ctx      context.Context // of all calls; ends with cut
	cut      context.CancelFunc
	slots    [numClasses]chan struct{} // one token for each running call of a class
	deadline time.Duration             // the longest time a unary call gets
	metrics  *Metrics
	log      *slog.Logger
	now      func() time.Time
}

func newGate(cfg Config, ready func() error) *gate {
	g := &gate{ready: ready, deadline: cfg.MaxDeadline, metrics: cfg.Metrics, log: cfg.Log, now: cfg.Now}
	g.ctx, g.cut = context.WithCancel(context.Background())
	for c, n := range [numClasses]int{classAppend: cfg.MaxAppends, classStream: cfg.MaxStreams, classQuery: cfg.MaxQueries, classOperate: cfg.MaxOperator} {
		g.slots[c] = make(chan struct{}, n)
	}
	return g
}

// pass runs one call: it bounds their number, and turns a panic into an error
// and every error into a reason.
func (g *gate) pass(ctx context.Context, name string, call func(context.Context) error) (refused *reason.Error) {
	start := g.now()
	defer func() {
		code := codes.OK
		if refused != nil {
			code = refused.Reason.Code()
		}
		took := g.now().Sub(start)
		g.metrics.call(name, code, took)
		attrs := []any{"method", name, "code", code.String(), "took", took}
		if refused != nil {
			attrs = append(attrs, "reason", string(refused.Reason), "message", refused.Message)
		}
		g.log.Debug("call", attrs...)
	}()
	m, ok := methods[name]
	if !ok {
		return reason.New(reason.MethodUnknown, "there is no method %s", clip(name))
	}
	if !m.early {
		if err := g.ready(); err != nil {
			return refusal(err, g.log, name)
		}
	}
	slots := g.slots[m.class]
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		return reason.New(reason.Busy, "%d calls of this kind are running, the most that the server allows; try again, with growing pauses", cap(slots))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.ctx, cancel)()
	if m.class != classStream {
		ctx, cancel = context.WithTimeout(ctx, g.deadline)
		defer cancel()
	}
	if err := g.safely(ctx, name, call); err != nil {
		return refusal(err, g.log, name)
	}
	return nil
}

func (g *gate) safely(ctx context.Context, method string, call func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in %s: %v\n%s", method, p, debug.Stack())
		}
	}()
	return call(ctx)
}

// arrive bounds the time of a unary call from its first byte, so that one whose
// request never arrives ends too.
func (g *gate) arrive(ctx context.Context, name string) context.Context {
	if m, ok := methods[name]; !ok || m.class == classStream {
		return ctx
	}
	bounded, cancel := context.WithTimeout(ctx, g.deadline)
	context.AfterFunc(ctx, cancel) // the stream's end
	return bounded
}

// unary passes the unary calls of grpc-go through the gate.
func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if strings.HasPrefix(info.FullMethod, "/grpc.") { // health checks must succeed while the server is busy
		return handler(ctx, req)
	}
	var resp any
	refused := g.pass(ctx, info.FullMethod, func(ctx context.Context) (err error) {
		resp, err = handler(ctx, req)
		return err
	})
	if refused != nil {
		return nil, grpcError(refused)
	}
	return resp, nil
}

// stream passes the streams of grpc-go through the gate.
func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if strings.HasPrefix(info.FullMethod, "/grpc.") { // health and reflection have errors of their own
		return handler(srv, ss)
	}
	refused := g.pass(ss.Context(), info.FullMethod, func(context.Context) error { return handler(srv, ss) })
	if refused != nil {
		return grpcError(refused)
	}
	return nil
}

// WrapUnary passes the unary calls of connect through the gate.
func (g *gate) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		var resp connect.AnyResponse
		refused := g.pass(ctx, req.Spec().Procedure, func(ctx context.Context) (err error) {
			if err := unreadable(req.Any()); err != nil {
				return err
			}
			resp, err = next(ctx, req)
			return err
		})
		if refused != nil {
			return nil, connectError(refused)
		}
		return resp, nil
	}
}

// WrapStreamingClient does nothing: it is for clients.
func (g *gate) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler passes the streams of connect through the gate.
func (g *gate) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if refused := g.pass(ctx, conn.Spec().Procedure, func(ctx context.Context) error { return next(ctx, readConn{conn}) }); refused != nil {
			return connectError(refused)
		}
		return nil
	}
}

// newGRPC returns the gRPC server: our services, health and reflection.
func newGRPC(cfg Config, a *api, h *health.Server) *grpc.Server {
	g := grpc.NewServer(
		grpc.MaxRecvMsgSize(cfg.MaxMessage),
		grpc.MaxConcurrentStreams(256),
		grpc.MaxHeaderListSize(64<<10),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.InTapHandle(func(ctx context.Context, info *tap.Info) (context.Context, error) {
			return a.gate.arrive(ctx, info.FullMethodName), nil
		}),
		grpc.ChainUnaryInterceptor(a.gate.unary),
		grpc.ChainStreamInterceptor(a.gate.stream),
		grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(ss)
			return reason.New(reason.MethodUnknown, "there is no such method: %s", method)
		}),
	)
	register(g, a)
	healthpb.RegisterHealthServer(g, h)
	reflection.Register(g)
	return g
}
