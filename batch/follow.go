package batch

import (
	"context"
	"time"
)

// maxSleep limits how long the schedule waits before it reads the wall clock
// again: timers follow the monotonic clock and do not see the wall clock set.
const maxSleep = 30 * time.Second

// ScheduleInfo is the state of the schedule.
type ScheduleInfo struct {
	Incremental, Full         string    // as written; "never"
	NextIncremental, NextFull time.Time // zero if never or paused
	Paused                    bool
	Reason                    string // of the pause
	Since                     time.Time
}

// Schedule returns the schedules, the next ticks, and whether they are paused.
func (r *Runner) Schedule() ScheduleInfo {
	now := r.cfg.Now().UTC()
	r.mu.Lock()
	defer r.mu.Unlock()
	info := ScheduleInfo{
		Incremental: r.cfg.Incremental.String(), Full: r.cfg.Full.String(),
		Paused: r.sched.Paused, Reason: r.sched.Reason, Since: r.sched.Since,
	}
	if !info.Paused {
		info.NextIncremental = r.next(Incremental, now)
		info.NextFull = r.next(Full, now)
	}
	return info
}

// Pause stops the schedule until Resume, also across restarts. Runs by hand go
// on. Pausing again replaces the reason.
func (r *Runner) Pause(reason string) error {
	return r.setPause(true, reason)
}

// Resume lets the schedule start runs again. Ticks during the pause are not
// caught up.
func (r *Runner) Resume() error { return r.setPause(false, "") }

func (r *Runner) setPause(paused bool, reason string) error {
	now := r.cfg.Now().UTC()
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.sched
	next.Paused, next.Reason, next.Since = paused, reason, time.Time{}
	next.Last = map[Kind]time.Time{Incremental: now, Full: now}
	if paused {
		next.Since = now
	}
	if err := r.history.saveSchedule(next); err != nil {
		return err
	}
	r.sched = next
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return nil
}

// schedule returns the schedule of a kind of run.
func (r *Runner) schedule(kind Kind) Schedule {
	if kind == Full {
		return r.cfg.Full
	}
	return r.cfg.Incremental
}

// next returns the next tick of a kind. mu is held.
func (r *Runner) next(kind Kind, now time.Time) time.Time {
	s := r.schedule(kind)
	return s.Next(s.restart(r.sched.Last[kind], now))
}

// follow starts runs when they are due, until ctx ends. Ticks that were missed
// since the last process ended are caught up, once, by a single run.
func (r *Runner) follow(ctx context.Context) {
	r.initTicks()
	trigger := CatchUp
	for {
		wait := r.tick(trigger)
		trigger = Scheduled
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// initTicks lets kinds without a last tick count from now.
func (r *Runner) initTicks() {
	now := r.cfg.Now().UTC()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kind := range []Kind{Incremental, Full} {
		if r.sched.Last[kind].IsZero() {
			r.sched.Last[kind] = now
		}
	}
	_ = r.history.saveSchedule(r.sched) // tried again at the next tick
}

// tick starts the runs that are due and returns how long to sleep. A full run
// stands for an incremental one that is due at the same time.
func (r *Runner) tick(trigger Trigger) time.Duration {
	now := r.cfg.Now().UTC()
	r.mu.Lock()
	var due []Run
	for _, kind := range []Kind{Full, Incremental} {
		s := r.schedule(kind)
		last := s.restart(r.sched.Last[kind], now)
		r.sched.Last[kind] = last
		tick, missed, ok := s.due(last, now)
		if !ok {
			continue
		}
		r.sched.Last[kind] = tick
		if !r.sched.Paused {
			due = append(due, Run{Kind: kind, Trigger: trigger, Missed: missed})
		}
	}
	if len(due) > 0 {
		_ = r.history.saveSchedule(r.sched) // if this is lost, the next process catches the tick up
	}
	next := now.Add(maxSleep)
	for _, kind := range []Kind{Full, Incremental} {
		if n := r.next(kind, now); !n.IsZero() && n.Before(next) {
			next = n
		}
	}
	r.mu.Unlock()
	for _, run := range due {
		r.scheduled(run)
	}
	return max(next.Sub(now), time.Millisecond)
}

// scheduled starts a run that is due, or counts it as skipped on the run that is
// going on.
func (r *Runner) scheduled(draft Run) {
	r.mu.Lock()
	if r.running != nil {
		r.running.Skipped++
		r.running.SkippedAt = r.cfg.Now().UTC()
		r.notify()
		copied := r.running.clone()
		r.mu.Unlock()
		if r.cfg.Hooks.Skipped != nil {
			r.cfg.Hooks.Skipped(draft.Kind, copied)
		}
		return
	}
	_, err := r.request(draft)
	broken := r.broken != nil || r.stopped
	r.mu.Unlock()
	if err != nil && !broken {
		r.alarm(AlarmFailed, "", "a scheduled "+string(draft.Kind)+" run could not start: "+err.Error())
	}
}
