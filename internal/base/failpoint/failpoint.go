// Package failpoint kills the process, or fails a step, at a named point of the
// code, for tests.
//
// A point is declared once, as a package variable, and hit where it applies:
//
//	var afterLink = failpoint.New("archive.manifest.linked")
//	...
//	if err := afterLink.Hit(); err != nil { return err }
//
// While nothing is armed, a hit costs one atomic load. The environment variable
// DUET_FAILPOINT arms points for a process, [Arm] within a test:
//
//	DUET_FAILPOINT=archive.manifest.linked               SIGKILL at the first hit
//	DUET_FAILPOINT=archive.manifest.linked:3             SIGKILL at the third hit
//	DUET_FAILPOINT=durable.write:error=ENOSPC            every hit fails
//	DUET_FAILPOINT=durable.write:2:error=EIO,other.point several, joined by commas
//
// An error without a count fails every hit; with a count n, only the n-th hit.
package failpoint

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// Env is the environment variable that arms points for the whole process.
const Env = "DUET_FAILPOINT"

// Point is a named point of the code. Declare it once, with [New].
type Point struct {
	name string
}

// action is what an armed point does.
type action struct {
	nth  int64 // 0 means every hit
	do   func() error
	hits atomic.Int64
}

var (
	// armed is nil while no point is armed, so that Hit needs only one load.
	armed atomic.Pointer[map[string][]*action]

	mu     sync.Mutex // guards names and changes of armed
	names  []string
	envErr = fromEnv(os.Getenv(Env))
)

// New declares a point. It panics if the name is taken: a test could not tell the
// two points apart.
func New(name string) *Point {
	mu.Lock()
	defer mu.Unlock()
	if slices.Contains(names, name) {
		panic("failpoint: " + name + " is declared twice")
	}
	names = append(names, name)
	return &Point{name: name}
}

// All returns the names of all points linked into the program, sorted.
func All() []string {
	mu.Lock()
	defer mu.Unlock()
	return slices.Sorted(slices.Values(names))
}

// Name returns the name with which the point was declared.
func (p *Point) Name() string { return p.name }

// Hit performs the point's armed action: it kills the process, or returns an error
// with which the caller fails its step. It returns nil if nothing is armed.
func (p *Point) Hit() error {
	m := armed.Load()
	if m == nil {
		return nil
	}
	return p.slow(*m)
}

// slow runs the actions armed for the point.
func (p *Point) slow(m map[string][]*action) error {
	for _, key := range []string{p.name, "*"} {
		for _, a := range m[key] {
			n := a.hits.Add(1)
			if a.nth != 0 && n != a.nth {
				continue
			}
			if err := a.do(); err != nil {
				return fmt.Errorf("failpoint %s: %w", p.name, err)
			}
		}
	}
	return nil
}

// Check returns an error if DUET_FAILPOINT is malformed or names no point of this
// program. Call it at the start of main, when all points are declared.
func Check() error {
	if envErr != nil {
		return envErr
	}
	m := armed.Load()
	if m == nil {
		return nil
	}
	known := All()
	for name := range *m {
		if name != "*" && !slices.Contains(known, name) {
			return fmt.Errorf("%s: no point is named %q; there are: %s", Env, name, strings.Join(known, ", "))
		}
	}
	return nil
}

// Arm arms points with a value of the environment variable. The returned function
// disarms them.
func Arm(spec string) (disarm func(), err error) {
	parsed, err := parse(spec)
	if err != nil {
		return nil, err
	}
	return add(parsed), nil
}

// On calls do at the n-th hit of the named point (every hit if n is 0); the step
// fails if do returns an error. The name "*" means every point. Tests use it to
// pause or count steps. The returned function disarms it.
func On(name string, n int, do func() error) (disarm func()) {
	return add(map[string]*action{name: {nth: int64(n), do: do}})
}

// add arms more actions. The returned function disarms them.
func add(more map[string]*action) func() {
	change(func(m map[string][]*action) {
		for name, a := range more {
			m[name] = append(m[name], a)
		}
	})
	return func() {
		change(func(m map[string][]*action) {
			for name, a := range more {
				m[name] = slices.DeleteFunc(m[name], func(b *action) bool { return a == b })
				if len(m[name]) == 0 {
					delete(m, name)
				}
			}
		})
	}
}

// change replaces the armed map with a changed copy, or with nil if that is empty.
func change(f func(map[string][]*action)) {
	mu.Lock()
	defer mu.Unlock()
	next := map[string][]*action{}
	if old := armed.Load(); old != nil {
		for name, as := range *old {
			next[name] = slices.Clone(as)
		}
	}
	f(next)
	if len(next) == 0 {
		armed.Store(nil)
		return
	}
	armed.Store(&next)
}

// fromEnv arms the points of the environment variable's value.
func fromEnv(spec string) error {
	if spec == "" {
		return nil
	}
	parsed, err := parse(spec)
	if err != nil {
		return fmt.Errorf("%s: %w", Env, err)
	}
	add(parsed)
	return nil
}

// parse reads "name[:n][:error=ERRNO]", several joined by commas.
func parse(spec string) (map[string]*action, error) {
	out := map[string]*action{}
	for _, one := range strings.Split(spec, ",") {
		parts := strings.Split(strings.TrimSpace(one), ":")
		a := &action{do: kill}
		for _, p := range parts[1:] {
			if name, ok := strings.CutPrefix(p, "error="); ok {
				errno, ok := errnos[name]
				if !ok {
					return nil, fmt.Errorf("%q: unknown error %q; known: ENOSPC, EIO, EDQUOT, EROFS, EINTR", one, name)
				}
				a.do = func() error { return errno }
				continue
			}
			n, err := strconv.ParseInt(p, 10, 64)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("%q: want name, name:n, name:error=ENOSPC or name:n:error=ENOSPC", one)
			}
			a.nth = n
		}
		if parts[0] == "" {
			return nil, errors.New("an empty name")
		}
		if _, twice := out[parts[0]]; twice {
			return nil, fmt.Errorf("%q: named twice", parts[0])
		}
		out[parts[0]] = a
	}
	return out, nil
}

// errnos are the errors that a point can fail with.
var errnos = map[string]syscall.Errno{
	"ENOSPC": syscall.ENOSPC,
	"EIO":    syscall.EIO,
	"EDQUOT": syscall.EDQUOT,
	"EROFS":  syscall.EROFS,
	"EINTR":  syscall.EINTR,
}

// kill ends the process at once: no deferred call, no flush.
func kill() error {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		return err
	}
	select {}
}
