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
)

// ChildError reports that the child ended without a result.
type ChildError struct {
	Message  string // the child's own, or how it ended
	Memory   bool   // it ran out of memory, or was killed from outside: retry with less memory
	Killed   bool   // by a signal, as the kernel does when memory runs out
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
}

// Start writes the job to job.Dir and starts cmd with the job file's path as its
// last argument. progress is called on another goroutine. The child is killed when
// ctx ends.
func Start(ctx context.Context, cmd *exec.Cmd, job Job, progress func(Progress)) (*Child, error) {
	job.Format = FormatVersion
	data, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(job.Dir, "job.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return nil, fmt.Errorf("recompute: %w", err)
	}
	cmd.Args = append(cmd.Args, path)
	c := &Child{cmd: cmd, stderr: &tail{}, done: make(chan struct{}), ctx: ctx}
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
	go c.read(stdout, progress)
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

// read reads the child's lines until it closes its output, then waits for it.
func (c *Child) read(stdout io.Reader, progress func(Progress)) {
	defer close(c.done)
	in := bufio.NewReader(stdout)
	for {
		line, err := in.ReadBytes('\n')
		var u up
		if len(line) > 0 && json.Unmarshal(line, &u) == nil {
			switch {
			case u.Progress != nil && progress != nil:
				progress(*u.Progress)
			case u.Result != nil:
				c.result = u.Result
			case u.Failure != nil:
				c.fail = u.Failure
			}
		}
		if err != nil {
			break
		}
	}
	c.err = c.cmd.Wait()
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
