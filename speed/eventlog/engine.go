package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	streamName   = "DUET"
	eventPrefix  = "duet.e."
	controlPrefx = "duet.c."
	beginKind    = "begin"
	// apiTimeout bounds one administrative request to the embedded server.
	apiTimeout = 30 * time.Second
	// metaIncarnation is the stream's metadata key for our incarnation id: it
	// outlives the begin record, which may be trimmed.
	metaIncarnation = "duet.incarnation"
)

// syncAlways makes the server sync each message before it answers (H8). A test
// turns it off to prove that it would notice.
var syncAlways = true

// engine is a running embedded server with its connections. The Log replaces it
// after a write error, because the server refuses all writes after a failed one.
type engine struct {
	ns     *server.Server
	log    *serverLogger
	pub    *nats.Conn // publishes and their acknowledgements
	get    *nats.Conn // reads and administration
	js     jetstream.JetStream
	blocks string // folder of the block files

	stopped atomic.Bool

	dirMu    sync.Mutex
	dirStamp time.Time // mtime of blocks when last synced; zero: sync again
}

// startEngine starts the server on the store folder. If it fails, nothing is left
// running.
func startEngine(ctx context.Context, cfg Config) (_ *engine, err error) {
	logger := &serverLogger{log: cfg.Logger}
	ns, err := server.NewServer(&server.Options{
		ServerName:             "duet-" + cfg.Project,
		DontListen:             true,
		NoSigs:                 true,
		NoLog:                  true,
		MaxPayload:             maxPayload,
		MaxPending:             256 << 20,
		JetStream:              true,
		StoreDir:               storePath(cfg.Dir),
		SyncAlways:             syncAlways,
		JetStreamMaxMemory:     64 << 20,
		JetStreamMaxStore:      cfg.MaxBytes + 64<<20, // above the stream's limit, which is the one that counts
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("embedded log server: %w", err)
	}
	ns.SetLoggerV2(logger, false, false, false)
	e := &engine{ns: ns, log: logger, blocks: blocksPath(cfg.Dir)}
	defer func() {
		if err != nil {
			e.stop()
		}
	}()
	started := make(chan struct{})
	go func() { defer close(started); ns.Start() }()
	for !ns.ReadyForConnections(100 * time.Millisecond) {
		if err := logger.fatal(); err != nil {
			<-started
			return nil, fmt.Errorf("embedded log server: %w", err)
		}
		if ctx.Err() != nil {
			<-started
			return nil, context.Cause(ctx)
		}
	}
	<-started
	if err := logger.fatal(); err != nil {
		return nil, fmt.Errorf("embedded log server: %w", err)
	}
	if e.pub, err = connect(ns, "duet-publish"); err != nil {
		return nil, err
	}
	if e.get, err = connect(ns, "duet-read"); err != nil {
		return nil, err
	}
	e.js, err = jetstream.New(e.get, jetstream.WithDefaultTimeout(apiTimeout))
	return e, err
}

func connect(ns *server.Server, name string) (*nats.Conn, error) {
	c, err := nats.Connect("", nats.InProcessServer(ns), nats.Name(name), nats.NoReconnect(), nats.Timeout(apiTimeout),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // a missing answer shows the error
	if err != nil {
		return nil, fmt.Errorf("embedded log server: %w", err)
	}
	return c, nil
}

// ended reports whether stop was called. A caller then waits for the next engine.
func (e *engine) ended() bool { return e.stopped.Load() }

// stop stops the server and returns when it has ended: nothing that was sent can
// be stored after that.
func (e *engine) stop() {
	e.stopped.Store(true)
	for _, c := range []*nats.Conn{e.pub, e.get} {
		if c != nil {
			c.Close()
		}
	}
	e.ns.Shutdown()
	e.ns.WaitForShutdown()
}

// stream returns the stream, or nil if there is none.
func (e *engine) stream(ctx context.Context) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	s, err := e.js.Stream(ctx, streamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	return s, err
}

// info returns the stream's configuration and state.
func (e *engine) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	s, err := e.stream(ctx)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, fmt.Errorf("stream %s is gone", streamName)
	}
	return s.CachedInfo(), nil
}

func streamConfig(cfg Config, id string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        streamName,
		Description: "Duet's log of " + cfg.Project,
		Subjects:    []string{eventPrefix + ">", controlPrefx + ">"},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    cfg.MaxBytes,
		MaxMsgs:     -1,
		Storage:     jetstream.FileStorage,
		Replicas:    1,
		AllowDirect: true,
		DenyDelete:  true,
		Duplicates:  time.Second, // unused: no message has an id
		Metadata:    map[string]string{metaIncarnation: id},
	}
}

// syncBlocks makes the names of new block files durable, because the server syncs
// only their content. It is called before a publish is acknowledged, and costs
// one stat if no file was added.
func (e *engine) syncBlocks() error {
	e.dirMu.Lock()
	defer e.dirMu.Unlock()
	st, err := os.Stat(e.blocks)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("folder %s is gone: %w", e.blocks, err)
	}
	if err != nil {
		return err
	}
	if !e.dirStamp.IsZero() && st.ModTime().Equal(e.dirStamp) {
		return nil
	}
	if err := syncDir(e.blocks); err != nil {
		return err
	}
	// A file that is added within the same tick of the file system's clock does not
	// change the time stamp, so only a stamp older than a tick is kept.
	e.dirStamp = time.Time{}
	if time.Since(st.ModTime()) > 10*time.Millisecond {
		e.dirStamp = st.ModTime()
	}
	return nil
}

// serverLogger logs the server's warnings and errors.
type serverLogger struct {
	log *slog.Logger
	// complained is the latest error. The server logs one, and does not answer,
	// if it could not write a message.
	complained atomic.Pointer[string]

	mu  sync.Mutex
	bad error // the first fatal message; guarded by mu
}

func (l *serverLogger) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bad
}

// complaint returns the latest error that the server logged.
func (l *serverLogger) complaint() string {
	if text := l.complained.Load(); text != nil {
		return *text
	}
	return "it logged no error"
}

func (l *serverLogger) Noticef(string, ...any) {}
func (l *serverLogger) Debugf(string, ...any)  {}
func (l *serverLogger) Tracef(string, ...any)  {}
func (l *serverLogger) Warnf(format string, v ...any) {
	l.log.Warn("log server: " + fmt.Sprintf(format, v...))
}
func (l *serverLogger) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.complained.Store(&text)
	l.log.Error("log server: " + text)
}
func (l *serverLogger) Fatalf(format string, v ...any) {
	err := fmt.Errorf(format, v...)
	l.mu.Lock()
	if l.bad == nil {
		l.bad = err
	}
	l.mu.Unlock()
	l.log.Error("log server: " + err.Error())
}
