package eventlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"duet/schemas"
)

// Trim drops the log's oldest messages, none behind through. The caller
// guarantees that the archive holds them and that the live half has passed them
// (H5). Nothing is dropped until 70 % of the limit is used, and then only down
// to half of it, because damaged archive files are repaired from the log. The
// last message always stays: JetStream stores that were emptied have forgotten
// their sequence.
func (l *Log) Trim(ctx context.Context, through schemas.Position) error {
	l.mu.Lock()
	l.trimKnown = true
	if l.trimmable = max(l.trimmable, min(through, l.at(l.last))); l.untrimmable()*100 < l.cfg.MaxBytes*fillingPercent {
		l.filling = false
	}
	l.mu.Unlock()
	return l.trim(ctx, through, trimPercent, keepPercent)
}

// untrimmable returns the size of the messages that may not be trimmed yet. It
// may be too large by a step of sizes. Log.mu is held.
func (l *Log) untrimmable() int64 {
	covered := uint64(0)
	if l.trimmable.Ordinal() == l.inc.Ordinal {
		covered = l.trimmable.Sequence()
	}
	return min(l.used, l.sizes.behind(covered))
}

// checkFilling calls Config.Filling if it is due. Before the first Trim it is not
// known what can be trimmed.
func (l *Log) checkFilling() {
	l.mu.Lock()
	due := l.trimKnown && !l.filling && l.untrimmable()*100 >= l.cfg.MaxBytes*fillingPercent
	l.filling = l.filling || due
	l.mu.Unlock()
	if due && l.cfg.Filling != nil {
		l.cfg.Filling()
	}
}

// trim drops messages if more than above percent are used, until at most down
// percent are, or through is reached.
func (l *Log) trim(ctx context.Context, through schemas.Position, above, down int64) error {
	l.trimMu.Lock()
	defer l.trimMu.Unlock()
	if through.Ordinal() > l.inc.Ordinal || through > l.Last() {
		return fmt.Errorf("trim through %s: the log ends at %s", through, l.Last())
	}
	if through.Ordinal() < l.inc.Ordinal {
		return nil
	}
	if used, limit := l.Usage(); used*100 <= limit*above {
		return nil
	}
	// The high-water mark must name a message that stays.
	if err := l.MarkHigh(ctx); err != nil {
		return err
	}
	if err := fpMarked.Hit(); err != nil {
		return err
	}
	for {
		used, limit := l.Usage()
		first, last := l.First().Sequence(), l.Last().Sequence()
		keep := min(through.Sequence()+1, last)
		target := limit * down / 100
		if used <= target || first >= keep {
			return nil
		}
		// Message sizes differ, so this is a low estimate; the loop tries again.
		step := max(1, uint64(float64(used-target)/float64(used)*float64(last-first+1)))
		if err := l.purge(ctx, min(first+step, keep)); err != nil {
			return err
		}
	}
}

// purge drops all messages before keep, and checks that all others are left.
func (l *Log) purge(ctx context.Context, keep uint64) error {
	l.mu.Lock()
	eng, before := l.eng, l.first
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := eng.js.Stream(ctx, streamName)
	if err != nil {
		return fmt.Errorf("trim the log: %w", err)
	}
	// Before the purge, so that no reader takes a purged message for damage.
	l.mu.Lock()
	l.first = max(l.first, keep)
	l.mu.Unlock()
	err = errors.Join(stream.Purge(ctx, jetstream.WithPurgeSequence(keep)), fpTrimmed.Hit())
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.first = before
		return fmt.Errorf("trim the log: %w", err)
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("trim the log: %w", err)
	}
	s := info.State
	// The server may have stored messages that are not acknowledged yet; advance
	// adds their sizes.
	if s.FirstSeq != keep || s.LastSeq < l.last || s.Msgs != s.LastSeq-s.FirstSeq+1 {
		err := &RefusedError{Kind: ErrDamaged, Dir: l.cfg.Dir,
			Found:    fmt.Sprintf("%d messages from %d to %d after a trim", s.Msgs, s.FirstSeq, s.LastSeq),
			Expected: fmt.Sprintf("all from %d to at least %d", keep, l.last), Remedy: remedyCopy}
		l.fail(err)
		return err
	}
	l.used = int64(s.Bytes)
	l.sizes.forget(s.FirstSeq)
	for _, p := range l.chain.pending {
		if p.at.Sequence() <= s.LastSeq {
			l.used -= p.size
		}
	}
	return nil
}
