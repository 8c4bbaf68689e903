package recompute

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"duet/internal/base/duck"
	"duet/internal/base/failpoint"
)

// The failpoints of the child.
var (
	fpStarted  = failpoint.New("recompute.started")  // nothing is computed
	fpComputed = failpoint.New("recompute.computed") // cells are written, nothing is compared
	fpFinished = failpoint.New("recompute.finished") // compared, the result is not sent
)

// Exit codes of the child.
const (
	ExitDone   = 0
	ExitFailed = 1 // a failure was sent
	ExitUsage  = 2 // the job cannot be read
	ExitOrphan = 3 // stdin closed: the parent has exited
)

// Main is the child process: it executes the job in a file and returns the exit
// code. The package comment draws the protocol. It ends the process if stdin closes
// before the job is done.
func Main(jobFile string, stdin io.Reader, stdout io.Writer) int {
	var mu sync.Mutex // one line at a time
	out := json.NewEncoder(stdout)
	send := func(line up) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(line) // if the parent has exited, stdin closes and ends this process
	}
	job, err := readJob(jobFile)
	if err != nil {
		send(up{Failure: &Failure{Message: err.Error()}})
		return ExitUsage
	}
	if err := job.limit(); err != nil {
		send(up{Failure: &Failure{Message: err.Error()}})
		return ExitUsage
	}
	live := make(chan Live, 1)
	go listen(stdin, live)
	var waiting atomic.Bool // for the live half's cells
	if job.Heartbeat > 0 {
		go beat(job.Heartbeat, &waiting, func() { send(up{Alive: true}) })
	}
	result, err := run(context.Background(), job, live, &waiting, func(p Progress) { send(up{Progress: &p}) })
	if err != nil {
		var mismatch *mismatchError
		send(up{Failure: &Failure{Message: firstLine(err), Memory: duck.OutOfMemory(err), Mismatch: errors.As(err, &mismatch)}})
		return ExitFailed
	}
	send(up{Result: &result})
	return ExitDone
}

// beat calls send at an interval, as long as the process computes, reads or writes,
// or waits for the parent. A child that hangs does neither.
func beat(interval time.Duration, waiting *atomic.Bool, send func()) {
	var last syscall.Rusage
	for range time.Tick(interval) {
		var now syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &now); err != nil {
			continue
		}
		cpu := func(r syscall.Rusage) int64 { return r.Utime.Nano() + r.Stime.Nano() }
		// Beating itself takes microseconds, so one hundredth of the time is work.
		if waiting.Load() || cpu(now)-cpu(last) > int64(interval)/100 || now.Inblock+now.Oublock > last.Inblock+last.Oublock {
			send()
		}
		last = now
	}
}

func readJob(path string) (Job, error) {
	var job Job
	data, err := os.ReadFile(path)
	if err != nil {
		return job, fmt.Errorf("recompute: the job: %w", err)
	}
	if err := json.Unmarshal(data, &job); err != nil {
		return job, fmt.Errorf("recompute: the job %s: %w", path, err)
	}
	if job.Format != FormatVersion {
		return job, fmt.Errorf("recompute: the job %s has format %d, this program reads %d: parent and child must be the same program", path, job.Format, FormatVersion)
	}
	return job, nil
}

// limit lowers the priority of the whole process and limits its memory.
func (j *Job) limit() error {
	if j.Nice > 0 {
		// Set it for the process group, which the parent made for this process
		// alone: for a process, Linux changes one thread.
		if err := syscall.Setpriority(syscall.PRIO_PGRP, 0, j.Nice); err != nil {
			return fmt.Errorf("recompute: priority %d: %w", j.Nice, err)
		}
	}
	if j.AddressSpace > 0 {
		limit := syscall.Rlimit{Cur: j.AddressSpace, Max: j.AddressSpace}
		if err := syscall.Setrlimit(syscall.RLIMIT_AS, &limit); err != nil {
			return fmt.Errorf("recompute: address space of %d bytes: %w", j.AddressSpace, err)
		}
	}
	return nil
}

// listen forwards the parent's lines, and ends the process when stdin closes.
func listen(stdin io.Reader, live chan<- Live) {
	in := bufio.NewReader(stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			os.Exit(ExitOrphan)
		}
		var d down
		if err := json.Unmarshal(line, &d); err != nil {
			fmt.Fprintln(os.Stderr, "recompute: the parent's line is not JSON:", err)
			os.Exit(ExitUsage)
		}
		if d.Live != nil {
			live <- *d.Live
		}
	}
}

// run executes the job: count, compute, wait for the live half's cells, compare.
func run(ctx context.Context, job Job, live <-chan Live, waiting *atomic.Bool, progress func(Progress)) (Result, error) {
	if err := fpStarted.Hit(); err != nil {
		return Result{}, err
	}
	w, done, err := newWorker(ctx, job, progress)
	if err != nil {
		return Result{}, err
	}
	defer done()
	if err := w.countStreams(ctx); err != nil {
		return Result{}, err
	}
	if err := w.computeViews(ctx); err != nil {
		return Result{}, err
	}
	if err := fpComputed.Hit(); err != nil {
		return Result{}, err
	}
	var l Live
	waiting.Store(true)
	select {
	case l = <-live:
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	waiting.Store(false)
	report, err := w.compare(ctx, l)
	if err != nil {
		return Result{}, err
	}
	return Result{Views: w.results, Report: report}, fpFinished.Hit()
}
