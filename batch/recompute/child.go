package recompute

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ChildError reports that the child ended without a result.
type ChildError struct {
	Message  string // the child's own, or how it ended
	Memory   bool   // it ran out of memory, or was killed from outside: retry with less memory
	Killed   bool   // by a signal, as the kernel does when memory runs out
	Stalled  bool   // it made no progress within Watch.Timeout and was killed
	Mismatch bool   // archived rows disagree with their manifest (H6)
	Stderr   string // the first and last bytes of its standard error
}

// Error returns why there is no result.
func (e *ChildError) Error() string {
	if e.Stderr != "" {
		return "recompute: " + e.Message + ": " + e.Stderr
	}
	return "recompute: " + e.Message
}

// Child is a running child process. It is not safe for concurrent use.
type Child struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr *tail
	once   sync.Once
	done   chan struct{} // closed when all output is read and the process has exited
	result *Result
	fail   *Failure
	err    error // of cmd.Wait
	ctx    context.Context
	stop   func() bool

	watch   Watch
	heard   chan struct{} // one token: the child has sent a line
	stalled bool          // set before the process is killed for it
}

// Watch says how a child is watched. The callbacks are called on other goroutines,
// before Done is closed; they may be nil.
type Watch struct {
	Progress func(Progress)
	// Silent is called with the time of the child's last line when it has sent none
	// for a quarter of Timeout, and with the zero time when it sends one again.
	Silent func(since time.Time)
	// Timeout is how long a child may send nothing before it is killed; defaults to
	// 2 minutes. A child at work sends a line every few seconds.
	Timeout time.Duration
}

// maxHeartbeat is the longest interval at which a child at work sends a line.
const maxHeartbeat = 2 * time.Second

// Start writes the job to job.Dir and starts cmd with the job file's path as its
// last argument. The child is killed when ctx ends, and when it makes no progress
// within watch.Timeout.
func Start(ctx context.Context, cmd *exec.Cmd, job Job, watch Watch) (*Child, error) {
	if watch.Timeout == 0 {
		watch.Timeout = 2 * time.Minute
	}
	job.Format, job.Heartbeat = FormatVersion, min(maxHeartbeat, watch.Timeout/8)
	data, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(job.Dir, "job.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return nil, fmt.Errorf("recompute: %w", err)
	}
	cmd.Args = append(cmd.Args, path)
	c := &Child{cmd: cmd, stderr: &tail{}, done: make(chan struct{}), ctx: ctx, watch: watch, heard: make(chan struct{}, 1)}
	cmd.Stderr = c.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its priority is its group's
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("recompute: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("recompute: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("recompute: start %s: %w", cmd.Path, err)
	}
	c.stop = context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	go c.run(stdout)
	return c, nil
}

// PID returns the child's process id.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Compare sends the child the live half's cells, which it waits for when it has
// computed. If the child has exited, Wait returns why.
func (c *Child) Compare(live Live) error {
	data, err := json.Marshal(down{Live: &live})
	if err != nil {
		return err
	}
	if _, err := c.stdin.Write(append(data, '\n')); err != nil {
		c.stdin.Close() // if the child still runs, this ends it
	}
	return nil
}

// Done returns a channel that is closed when the child has exited.
func (c *Child) Done() <-chan struct{} { return c.done }

// Wait waits for the child to exit and returns its result, or a [*ChildError].
func (c *Child) Wait() (Result, error) {
	<-c.done
	c.close()
	if cause := context.Cause(c.ctx); cause != nil && c.result == nil {
		return Result{}, fmt.Errorf("recompute: %w", cause)
	}
	if c.stalled && c.result == nil {
		return Result{}, &ChildError{Stalled: true, Message: fmt.Sprintf("the child made no progress for %s and was killed", c.watch.Timeout)}
	}
	if c.fail != nil {
		return Result{}, &ChildError{Message: c.fail.Message, Memory: c.fail.Memory, Mismatch: c.fail.Mismatch}
	}
	if c.result != nil && c.err == nil {
		return *c.result, nil
	}
	return Result{}, c.exitError()
}

// Kill kills the child if it still runs, and waits for it.
func (c *Child) Kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
	c.close()
}

func (c *Child) close() {
	c.once.Do(func() {
		c.stop()
		c.stdin.Close()
	})
}

// exitError describes the exit of a child that returned nothing.
func (c *Child) exitError() error {
	e := &ChildError{Message: "the child ended without a result", Stderr: c.stderr.String()}
	var exit *exec.ExitError
	if errors.As(c.err, &exit) {
		status := exit.Sys().(syscall.WaitStatus)
		if status.Signaled() {
			e.Message = fmt.Sprintf("the child was ended by signal %d (%s)", int(status.Signal()), status.Signal())
			e.Killed = true
			e.Memory = status.Signal() == syscall.SIGKILL
		} else {
			e.Message = fmt.Sprintf("the child ended with exit code %d", status.ExitStatus())
		}
	}
	for _, sign := range []string{"out of memory", "bad_alloc", "cannot allocate memory", "Out of Memory"} {
		e.Memory = e.Memory || strings.Contains(e.Stderr, sign)
	}
	return e
}

// run reads the child's lines and guards its progress until it exits.
func (c *Child) run(stdout io.Reader) {
	var guard sync.WaitGroup
	ended := make(chan struct{})
	guard.Go(func() { c.guard(ended) })
	c.read(stdout)
	c.err = c.cmd.Wait()
	close(ended)
	guard.Wait()
	close(c.done)
}

// guard kills the child if it sends no line within the time-out.
func (c *Child) guard(ended <-chan struct{}) {
	last, silent := time.Now(), false
	timer := time.NewTimer(c.watch.Timeout / 4)
	defer timer.Stop()
	report := func(since time.Time) {
		if c.watch.Silent != nil {
			c.watch.Silent(since)
		}
	}
	for {
		select {
		case <-ended:
			return
		case <-c.heard:
			if silent {
				report(time.Time{})
			}
			last, silent = time.Now(), false
			timer.Reset(c.watch.Timeout / 4)
		case <-timer.C:
			if rest := c.watch.Timeout - time.Since(last); rest > 0 {
				silent = true
				timer.Reset(rest)
				report(last)
				continue
			}
			c.stalled = true
			_ = c.cmd.Process.Kill()
			return
		}
	}
}

// read reads the child's lines until it closes its output.
func (c *Child) read(stdout io.Reader) {
	in := bufio.NewReader(stdout)
	for {
		line, err := in.ReadBytes('\n')
		var u up
		if len(line) > 0 && json.Unmarshal(line, &u) == nil {
			select {
			case c.heard <- struct{}{}:
			default:
			}
			switch {
			case u.Progress != nil && c.watch.Progress != nil:
				c.watch.Progress(*u.Progress)
			case u.Result != nil:
				c.result = u.Result
			case u.Failure != nil:
				c.fail = u.Failure
			}
		}
		if err != nil {
			return
		}
	}
}

// tail keeps the first and the last bytes written to it: a Go or C++ runtime
// states the cause in its first line and then prints stacks.
type tail struct {
	mu        sync.Mutex
	head, end []byte
}

const tailBytes = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := p
	if room := tailBytes - len(t.head); room > 0 {
		n := min(room, len(rest))
		t.head = append(t.head, rest[:n]...)
		rest = rest[n:]
	}
	t.end = append(t.end, rest...)
	if n := len(t.end) - tailBytes; n > 0 {
		t.end = t.end[n:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(append(bytes.Clone(t.head), t.end...)))
}
