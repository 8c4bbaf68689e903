package serving

import (
	"fmt"
	"regexp"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"duet/schemas/project"
	"duet/serving/query"
	"duet/serving/reason"
	"duet/speed/eventlog"
)

// api implements every RPC once; grpc-go and connect both call it, through the
// gate. A method checks its request, acts on the platform's parts, and converts
// the result. What a method does is documented in the proto. The methods are in
// ingest.go, views.go, runs.go, reconciliation.go, operate.go, rejects.go,
// inspect.go and scrub.go.
type api struct {
	cfg      Config
	gate     *gate
	started  time.Time
	changed  *changedFiles
	platform atomic.Pointer[platform]          // nil until attach; set for methods that are not early
	appender atomic.Pointer[eventlog.Appender] // nil until open
	closed   atomic.Bool
}

func newAPI(cfg Config) *api {
	a := &api{cfg: cfg, started: cfg.Now(), changed: &changedFiles{folder: cfg.Folder, runs: cfg.Project.Files, now: cfg.Now}}
	a.gate = newGate(cfg, a.ready)
	return a
}

func (a *api) attach(p Platform)                { a.platform.Store(newPlatform(p, a.cfg.Project.Streams)) }
func (a *api) open(appender *eventlog.Appender) { a.appender.Store(appender) }
func (a *api) close()                           { a.closed.Store(true) }

// ready returns nil if calls are let through, else why not.
func (a *api) ready() error {
	if a.closed.Load() {
		return reason.New(reason.Stopping, "the server is stopping; try again")
	}
	if a.appender.Load() != nil {
		return nil
	}
	return a.catchingUp()
}

func (a *api) catchingUp() error {
	part, what := a.progress()
	return reason.New(reason.CatchingUp, "the server is catching up (%.0f %%: %s); try again", part*100, what).
		With("progress", fmt.Sprintf("%.4f", part))
}

// progress returns how far recovery is, from 0 to 1, and in words.
func (a *api) progress() (float64, string) {
	if a.appender.Load() != nil {
		return 1, ""
	}
	p := a.platform.Load()
	if p == nil {
		return 0, a.cfg.Phase()
	}
	l := p.Live.Progress()
	if l.Target <= l.After {
		return 1, "reading the log"
	}
	done := float64(lag(l.Through, l.After)) / float64(lag(l.Target, l.After))
	return min(done, 1), fmt.Sprintf("reading the log: message %s of %s", l.Through, l.Target)
}

// idPattern is what producers, sessions, request ids and runs are called.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,200}$`)

func checkID(field, id string) error {
	if id == "" || idPattern.MatchString(id) {
		return nil
	}
	return reason.Field(reason.ArgumentInvalid, field, "%q is not a name: up to 200 letters, digits and . _ : -", clip(id))
}

// checkName refuses a name that no project can have.
func checkName(field, name string) error {
	if project.ValidName(name) {
		return nil
	}
	return reason.Field(reason.ArgumentInvalid, field, "%q is not a name: names are lower-case letters, digits and _, beginning with a letter, up to 63 characters", clip(name))
}

// checkText refuses text for the record that is too long or not UTF-8.
func checkText(field, s string) error {
	if len(s) > 1000 || !utf8.ValidString(s) {
		return reason.Field(reason.ArgumentInvalid, field, "must be UTF-8, at most 1,000 bytes")
	}
	return nil
}

func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "..."
	}
	return s
}

func checkGeneration(n uint64) error {
	if n == 0 {
		return reason.Field(reason.ArgumentInvalid, "generation", "is missing: name one that ListGenerations lists")
	}
	return nil
}

// stream returns the stream of a name that a client sent.
func (a *api) stream(name string) (*project.Stream, error) {
	if err := checkName("stream", name); err != nil {
		return nil, err
	}
	var names []string
	for _, s := range a.cfg.Project.Streams {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return nil, reason.New(reason.StreamUnknown, "stream %q: there is no such stream; %s", name, query.DidYouMean(name, names))
}
