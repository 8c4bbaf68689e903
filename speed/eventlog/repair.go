package eventlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// watch starts a repair if a publish has gone without an answer for too long.
func (l *Log) watch(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pending := l.chain.pending
	if len(pending) == 0 || l.chain.repairing {
		return
	}
	silent := now.Sub(pending[0].sent)
	if silent < ackTimeout && !(l.eng.log.complained.Load() != nil && silent > complainTimeout) {
		return
	}
	for _, p := range pending {
		p.unknown = true
	}
	l.breakChain(fmt.Errorf("the log's server did not answer for %s: %s", silent.Round(time.Second), l.eng.log.complaint()), true)
}

// repair restarts the server, settles the publishes that were on their way, and
// begins a new chain when the disk accepts writes. It tries each second, until
// it succeeds, the log turns out not to be the one it should be, or the log is
// closed.
func (l *Log) repair() {
	defer l.wg.Done()
	l.eng.stop() // sends are refused already; no answer is handled from here on
	restarted := false
	for {
		err := l.tryRepair(&restarted)
		if err == nil {
			return
		}
		var refused *RefusedError
		if errors.As(err, &refused) || errors.Is(err, ErrDamaged) {
			l.mu.Lock()
			l.fail(err)
			l.mu.Unlock()
			return
		}
		l.cfg.Logger.Error("log still cannot be written", "cause", err)
		l.mu.Lock()
		if l.chain.broken != nil {
			l.chain.broken = err // the first cause is often only a consequence
		}
		l.mu.Unlock()
		select {
		case <-time.After(time.Second):
		case <-l.life.Done():
			l.mu.Lock()
			l.fail(ErrClosed)
			l.mu.Unlock()
			return
		}
	}
}

// tryRepair tries once. It sets restarted when the server runs again: readers
// then continue, and later tries only wait for the disk.
func (l *Log) tryRepair(restarted *bool) error {
	if err := l.checkFolder(); err != nil {
		return err
	}
	if !*restarted {
		if err := l.restart(l.life); err != nil {
			return err
		}
		*restarted = true
	}
	if err := probe(l.cfg.Dir); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.listen(l.last); err != nil {
		return err
	}
	l.cfg.Logger.Info("log can be written again", "last", l.at(l.last))
	l.notify()
	return nil
}

// probe returns an error if the disk does not accept a megabyte.
func probe(dir string) (err error) {
	path := filepath.Join(dir, "probe.tmp")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 1<<20))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), os.Remove(path))
}

// restart starts a new server in place of the stopped one and settles the
// publishes that were on their way.
func (l *Log) restart(ctx context.Context) error {
	eng, err := startEngine(ctx, l.cfg)
	if err != nil {
		return err
	}
	st, err := examine(ctx, l.cfg, eng, l.inc, nil)
	if err == nil && st.last < l.Last().Sequence() {
		err = behind(l.cfg.Dir, l.at(st.last), l.Last())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		err = l.settle(ctx, eng, st)
	}
	if err != nil {
		eng.stop()
		return err
	}
	l.eng = eng
	l.first, l.last, l.lastSum, l.used = st.first, st.last, st.lastSum, st.used
	l.notify()
	return nil
}

// settle settles the publishes that were on their way when the server stopped:
// a message that the new server holds is durable, any other is not stored and
// never will be. Log.mu is held.
func (l *Log) settle(ctx context.Context, eng *engine, st logState) error {
	c := &l.chain
	stored := st.last - l.last
	if stored > uint64(len(c.pending)) {
		return foreignWriter(l.cfg.Dir, fmt.Sprintf("a last sequence of %d", st.last), fmt.Sprintf("at most %d", l.last+uint64(len(c.pending))))
	}
	for _, p := range c.pending[:stored] {
		m, err := eng.message(ctx, l.inc, p.at.Sequence())
		if err != nil {
			return err
		}
		if m.sum != p.sum {
			return foreignWriter(l.cfg.Dir, fmt.Sprintf("message %s with checksum %s", p.at, m.sum), "checksum "+p.sum.String())
		}
	}
	for range stored {
		l.advance(c.pending[0])
	}
	cause := unavailable(c.broken)
	for len(c.pending) > 0 {
		err := error(errAborted)
		if c.pending[0].unknown {
			err = cause
		}
		l.settleFirst(err)
	}
	return nil
}

func foreignWriter(dir, found, expected string) error {
	return &RefusedError{Kind: ErrDiffers, Dir: dir, Found: found, Expected: expected,
		Remedy: "Another program writes to this log: stop it and start again."}
}
