package node

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"duet/batch/archive"
	"duet/internal/base/failpoint"
	"duet/internal/base/lifecycle"
	"duet/schemas"
	"duet/schemas/event"
	"duet/serving/store"
	"duet/speed"
	"duet/speed/eventlog"
)

// fpTrim is the named step of trimming the log.
var fpTrim = failpoint.New("log.trim")

// lane is one totally ordered log with everything that belongs to it: its
// sequencer, its tail, and its part of the archive. A node has one lane today;
// what lanes share (the store, generations, runs) is the node's.
type lane struct {
	log       *eventlog.Log
	adoptions []schemas.Adoption // the logs that were begun in place of lost ones
	archive   *archive.Archive
	state     *event.State // the sequencer's, at the archive's end; the live half's once that runs
	live      *speed.Live
	counters  counters
	verdicts  *verdictLog
	archiver  *archive.Archiver
	trimmer   *trimmer
	filling   *filling
	appender  *eventlog.Appender
}

func (n *Node) openLog(ctx context.Context) (err error) {
	// Definitions were put in force by a record of the log: it was there.
	_, err = os.Stat(definitionsPath(n.data))
	existing := err == nil
	n.lane.filling = newFilling(n)
	n.lane.log, err = eventlog.Open(ctx, eventlog.Config{
		Dir: n.data.sub("log"), Project: n.project.Name, MaxBytes: n.project.Limits.Log, Logger: n.logger,
		Existing: existing, Filling: n.lane.filling.wake,
	})
	if err != nil {
		return err
	}
	if n.lane.adoptions, err = readAdoptions(n.data, n.lane.log); err != nil {
		return errors.Join(err, n.lane.log.Close())
	}
	return nil
}

func (n *Node) openArchive(ctx context.Context) (err error) {
	l := &n.lane
	eventTimes := map[string]string{}
	for _, s := range n.project.Streams {
		if s.EventTime != "" {
			eventTimes[s.Name] = s.EventTime
		}
	}
	if l.archive, err = archive.Open(ctx, archive.Config{
		Dir: n.data.sub("archive"), Incarnation: l.log.Incarnation(), EventTime: eventTimes,
		Repairer: &repairer{l.log, n.schemas, n.data.sub("tmp")},
	}); err != nil {
		return err
	}
	if err := l.log.CheckCut(l.archive.Current().Through); err != nil {
		l.archive.Close()
		return err
	}
	return nil
}

// startLive reads the log behind the archive's end.
func (n *Node) startLive(ctx context.Context) (err error) {
	l := &n.lane
	l.counters.begin(l.archive.Current().Streams)
	if l.verdicts, err = openVerdicts(n.data.sub("verdicts"), n.redecode, l.log.Last(), n.logger); err != nil {
		return err
	}
	l.live, err = speed.New(speed.Config{
		Open:  func(ctx context.Context, after schemas.Position) (speed.Source, error) { return l.log.Read(ctx, after) },
		Store: n.store, Sequencer: event.NewSequencer(n.schemas, l.state), After: l.archive.Through(), Target: l.log.Last(),
		Control: control,
		Hooks: speed.Hooks{
			Applied: func(a speed.Applied) {
				l.counters.add(a)
				l.verdicts.add(a.Messages)
				n.metrics.LiveBatch(a.Events, a.Decoding+a.Folding)
			},
			Held:    func(err error) { n.logger.Error("the live half waits", "error", err) },
			Resumed: func() { n.logger.Info("the live half goes on") },
		},
	})
	if err != nil {
		return err
	}
	if err := l.live.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	n.watch(ctx, l.live.Done(), l.live.Err)
	return nil
}

func (n *Node) stopLive(context.Context) error {
	n.lane.live.Stop()
	return n.lane.verdicts.close()
}

func (n *Node) startArchiver(ctx context.Context) error {
	l := &n.lane
	l.trimmer = newTrimmer(l.log, l.archive, n.store, n.logger)
	l.archiver = archive.NewArchiver(l.archive, n.store, n.archiveHooks())
	return l.archiver.Start(context.WithoutCancel(ctx))
}

func (n *Node) startTrimmer(ctx context.Context) error {
	return n.lane.trimmer.Start(context.WithoutCancel(ctx))
}

// startAppender admits events. Nothing was appended before it, and the live
// half has caught up, so the sequencer's state does not move meanwhile.
func (n *Node) startAppender(context.Context) error {
	n.lane.appender = eventlog.NewAppender(n.lane.log, n.lane.state.Producers())
	return nil
}

// trimmer lets the log drop what the archive holds and the live half has
// passed (H5).
type trimmer struct {
	lifecycle.Base
	log     *eventlog.Log
	archive *archive.Archive
	store   *store.Store
	logger  *slog.Logger
	moved   chan struct{} // holds one token: the archive has moved
}

func newTrimmer(l *eventlog.Log, a *archive.Archive, s *store.Store, logger *slog.Logger) *trimmer {
	return &trimmer{log: l, archive: a, store: s, logger: logger, moved: make(chan struct{}, 1)}
}

// wake makes the trimmer look at the archive again.
func (t *trimmer) wake() {
	select {
	case t.moved <- struct{}{}:
	default:
	}
}

// Start trims now, so that the log knows what can be trimmed, and whenever the
// archive has moved.
func (t *trimmer) Start(ctx context.Context) error {
	t.wake()
	return t.Go(ctx, func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-t.moved:
			}
			err := fpTrim.Hit()
			if err == nil {
				err = t.log.Trim(ctx, min(t.archive.Through(), t.store.LiveThrough()))
			}
			if err != nil && ctx.Err() == nil {
				t.logger.Error("the log cannot be trimmed; the next archived block tries again", "error", err)
			}
		}
	})
}
