package serving

import (
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"duet/serving/reason"
)

// maxRefused is the number of connections that are being refused at a time. Those
// beyond it are closed without an answer.
const maxRefused = 64

// splitListener splits the connections of l. in accepts up to n at a time; over
// accepts the others, so that they can be refused with an answer. Closing in
// closes both.
func splitListener(l net.Listener, n int) (in, over net.Listener) {
	o := &overflow{addr: l.Addr(), conns: make(chan net.Conn, maxRefused), closed: make(chan struct{})}
	return &limited{Listener: l, slots: make(chan struct{}, n), over: o}, o
}

type limited struct {
	net.Listener
	slots chan struct{} // one token for each open connection
	over  *overflow
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &slotConn{Conn: c, slots: l.slots}, nil
		default:
			l.over.refuse(c)
		}
	}
}

func (l *limited) Close() error {
	err := l.Listener.Close()
	_ = l.over.Close() // never fails
	return err
}

// overflow is the listener of connections that are to be refused.
type overflow struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (o *overflow) refuse(c net.Conn) {
	select {
	case o.conns <- c:
	default:
		c.Close()
	}
}

// Accept returns the next connection to refuse. It ends within seconds, whatever
// the client does.
func (o *overflow) Accept() (net.Conn, error) {
	select {
	case c := <-o.conns:
		if err := c.SetDeadline(time.Now().Add(refuseTimeout)); err != nil {
			c.Close()
			return nil, err
		}
		return fixedDeadline{c}, nil
	case <-o.closed:
		return nil, net.ErrClosed
	}
}

func (o *overflow) Addr() net.Addr { return o.addr }

func (o *overflow) Close() error {
	o.once.Do(func() { close(o.closed) })
	for {
		select {
		case c := <-o.conns:
			c.Close()
		default:
			return nil
		}
	}
}

// refuseTimeout is the longest time that refusing a connection takes.
const refuseTimeout = 3 * time.Second

// fixedDeadline is a connection whose deadline no server moves.
type fixedDeadline struct{ net.Conn }

func (fixedDeadline) SetDeadline(time.Time) error      { return nil }
func (fixedDeadline) SetReadDeadline(time.Time) error  { return nil }
func (fixedDeadline) SetWriteDeadline(time.Time) error { return nil }

// slotConn gives its slot back when it is closed.
type slotConn struct {
	net.Conn
	once  sync.Once
	slots <-chan struct{}
}

func (c *slotConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.slots })
	return err
}

func tooManyConnections() *reason.Error {
	return reason.New(reason.TooManyConnections, "the server has as many connections as it allows; close some, or use one connection for many calls, and try again")
}

// refusingGRPC returns a server that refuses every call.
func refusingGRPC() *grpc.Server {
	return grpc.NewServer(
		grpc.ConnectionTimeout(refuseTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: refuseTimeout, MaxConnectionAgeGrace: time.Second}),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return grpcError(tooManyConnections()) }),
	)
}

// refusingHTTP returns a server that refuses every request.
func refusingHTTP(log *slog.Logger) *http.Server {
	s := &http.Server{
		ReadHeaderTimeout: refuseTimeout,
		ErrorLog:          httpLog(log),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "1")
			_ = connect.NewErrorWriter().Write(w, r, connectError(tooManyConnections())) // the client may be gone
		}),
	}
	s.SetKeepAlivesEnabled(false)
	return s
}
