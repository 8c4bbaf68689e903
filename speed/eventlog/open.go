package eventlog

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"duet/internal/base/durable"
	"duet/internal/base/failpoint"
	"duet/schemas"
)

// Steps at which a test can end the process.
var (
	fpCreated = failpoint.New("eventlog.begin.created")  // the stream exists and is empty
	fpBegun   = failpoint.New("eventlog.begin.record")   // the begin record is stored, the incarnation file is not written
	fpSent    = failpoint.New("eventlog.publish.sent")   // a message went to the server
	fpSynced  = failpoint.New("eventlog.publish.synced") // it is durable, and not acknowledged
	fpMarked  = failpoint.New("eventlog.trim.marked")    // before messages are dropped
	fpTrimmed = failpoint.New("eventlog.trim.dropped")   // after
)

const remedyCopy = "Restore the whole data folder from one copy. Without a copy, duet log adopt begins a new log behind the archive; it first shows what is lost."

// beginMessage returns the first message of a log, framed and sealed.
func beginMessage(inc schemas.Incarnation) []byte {
	body, err := json.Marshal(inc)
	if err != nil {
		panic(err) // three plain fields
	}
	message := append(frame(nil, controlPrefx+beginKind), body...)
	seal(message, inc.ID, 1, time.Now())
	return message
}

// Open opens a project's log, and creates it if the folder never held one. It
// refuses, with an error that names what was found, a log that is damaged or not
// the one that was there before (H6): see the package comment. ctx bounds the
// opening only.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := durable.OS.MkdirAll(cfg.Dir); err != nil {
		return nil, err
	}
	if err := sweep(cfg.Dir); err != nil {
		return nil, err
	}
	inc, err := readIncarnation(cfg.Dir)
	if err != nil {
		return nil, err
	}
	high, err := readHigh(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if inc != nil && inc.Project != cfg.Project {
		return nil, &RefusedError{Kind: ErrDiffers, Dir: cfg.Dir, Found: "the log of project " + inc.Project, Expected: "project " + cfg.Project,
			Remedy: "Name the data folder that belongs to this project."}
	}
	if inc == nil && high == nil && cfg.Existing {
		return nil, &RefusedError{Kind: ErrMissing, Dir: cfg.Dir, Found: "no file " + incarnationPath(cfg.Dir), Expected: "the log of project " + cfg.Project, Remedy: remedyCopy}
	}
	messages := sizes{step: cfg.MaxBytes / sizeSteps}
	if inc != nil {
		if messages, err = checkBlocks(cfg.Dir, inc.Ordinal, cfg.MaxBytes/sizeSteps); err != nil {
			return nil, err
		}
	}
	eng, err := startEngine(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l, err := open(ctx, cfg, eng, inc, high)
	if err == nil {
		l.sizes = messages
		l.folder, err = os.Stat(incarnationPath(cfg.Dir))
	}
	if err != nil {
		eng.stop()
		return nil, err
	}
	l.wg.Add(1)
	go l.background()
	return l, nil
}

func open(ctx context.Context, cfg Config, eng *engine, inc *incarnationFile, high *highFile) (*Log, error) {
	stream, err := eng.stream(ctx)
	if err != nil {
		return nil, err
	}
	var id string
	switch {
	case stream == nil && inc == nil && high == nil:
		id, err = create(ctx, cfg, eng)
	case inc == nil:
		id, err = unfinished(cfg, stream, high)
	case stream == nil:
		err = &RefusedError{Kind: ErrMissing, Dir: cfg.Dir, Found: "no stream in " + storePath(cfg.Dir),
			Expected: fmt.Sprintf("log %s (number %d, begun %s)", inc.ID, inc.Ordinal, inc.Created), Remedy: remedyCopy}
	}
	if err != nil {
		return nil, err
	}
	if inc == nil {
		if inc, err = begin(ctx, cfg, eng, id, 1, nil); err != nil {
			return nil, err
		}
	}
	if err := fit(ctx, cfg, eng, inc); err != nil {
		return nil, err
	}
	st, err := examine(ctx, cfg, eng, inc.Incarnation, high)
	if err != nil {
		return nil, err
	}
	l := &Log{
		cfg: cfg, inc: inc.Incarnation, adoption: inc.adoption(), eng: eng,
		slots: make(chan struct{}, window),
		first: st.first, last: st.last, lastSum: st.lastSum, used: st.used,
	}
	if high != nil {
		l.high = high.Sequence
	}
	l.life, l.end = context.WithCancelCause(context.Background())
	return l, l.listen(st.last)
}

// create creates the stream and returns the new incarnation's id, which its
// metadata hold.
func create(ctx context.Context, cfg Config, eng *engine) (id string, err error) {
	id = nuid.Next()
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err := eng.js.CreateStream(ctx, streamConfig(cfg, id)); err != nil {
		return "", fmt.Errorf("create the log: %w", err)
	}
	return id, fpCreated.Hit()
}

// unfinished returns the id of a stream whose creation was interrupted before
// the incarnation file was written: it holds at most its begin record. Any other
// stream without that file is refused.
func unfinished(cfg Config, stream jetstream.Stream, high *highFile) (id string, err error) {
	refused := &RefusedError{Kind: ErrMissing, Dir: cfg.Dir, Found: "no file " + incarnationPath(cfg.Dir), Expected: "it, as the log was in use",
		Remedy: "Restore that file from a copy. " + remedyCopy}
	if stream == nil || high != nil {
		return "", refused
	}
	info := stream.CachedInfo()
	if id = info.Config.Metadata[metaIncarnation]; id == "" || info.State.LastSeq > 1 {
		return "", refused
	}
	return id, nil
}

// begin writes the first message, unless the stream holds it, and then the
// incarnation file. From then on the log exists.
func begin(ctx context.Context, cfg Config, eng *engine, id string, ordinal uint32, from *continues) (*incarnationFile, error) {
	info, err := eng.info(ctx)
	if err != nil {
		return nil, err
	}
	f := &incarnationFile{Format: fileFormat, Project: cfg.Project,
		Incarnation: schemas.Incarnation{ID: id, Ordinal: ordinal, Created: created(info)}, Continues: from}
	if info.State.LastSeq == 0 {
		if err := publishBegin(ctx, eng, f.Incarnation); err != nil {
			return nil, fmt.Errorf("begin the log: %w", err)
		}
	}
	if err := fpBegun.Hit(); err != nil {
		return nil, err
	}
	// Make the names of the store's new folders durable.
	for dir := eng.blocks; len(dir) >= len(cfg.Dir); dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return nil, err
		}
	}
	return f, writeSealed(incarnationPath(cfg.Dir), f)
}

func created(info *jetstream.StreamInfo) string {
	return info.Created.UTC().Format(time.RFC3339Nano)
}

func publishBegin(ctx context.Context, eng *engine, inc schemas.Incarnation) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	message, subject := beginMessage(inc), controlPrefx+beginKind
	ack, err := eng.js.Publish(ctx, subject, message, jetstream.WithExpectLastSequence(0))
	if err != nil {
		return err
	}
	if ack.Sequence != 1 {
		return fmt.Errorf("the first message has sequence %d, expected 1", ack.Sequence)
	}
	return nil
}

// fit sets the stream's limit to the configured one. It refuses a limit below
// what is used, so that nothing is discarded.
func fit(ctx context.Context, cfg Config, eng *engine, inc *incarnationFile) error {
	info, err := eng.info(ctx)
	if err != nil {
		return err
	}
	if info.Config.Metadata[metaIncarnation] != inc.ID || info.Config.MaxBytes == cfg.MaxBytes {
		return nil // examine refuses another log
	}
	if need := int64(info.State.Bytes) * 100 / refusePercent; cfg.MaxBytes < need {
		return fmt.Errorf("log %s: limits.log of %d bytes is too small for the %d that are in use: set at least %d, and lower it when batch runs have emptied the log",
			cfg.Dir, cfg.MaxBytes, info.State.Bytes, need)
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err := eng.js.UpdateStream(ctx, streamConfig(cfg, inc.ID)); err != nil {
		return fmt.Errorf("change the log's limit: %w", err)
	}
	return nil
}

// logState describes a store that examine has accepted.
type logState struct {
	first, last uint64
	lastSum     sum
	used        int64
}

// examine refuses a store that is not this incarnation's, has holes, or is
// behind its high-water mark (H6). high may be nil.
func examine(ctx context.Context, cfg Config, eng *engine, inc schemas.Incarnation, high *highFile) (logState, error) {
	info, err := eng.info(ctx)
	if err != nil {
		return logState{}, err
	}
	refuse := func(kind error, found, expected string) (logState, error) {
		return logState{}, &RefusedError{Kind: kind, Dir: cfg.Dir, Found: found, Expected: expected, Remedy: remedyCopy}
	}
	if id := info.Config.Metadata[metaIncarnation]; id != inc.ID || created(info) != inc.Created {
		return refuse(ErrRecreated, fmt.Sprintf("log %q begun %s", id, created(info)), fmt.Sprintf("log %q begun %s", inc.ID, inc.Created))
	}
	at := func(seq uint64) schemas.Position { return schemas.NewPosition(inc.Ordinal, seq) }
	s := info.State
	if high != nil {
		switch {
		case high.Incarnation != inc.ID:
			return refuse(ErrDiffers, highPath(cfg.Dir)+" of log "+high.Incarnation, "log "+inc.ID)
		case s.LastSeq < high.Sequence:
			return logState{}, behind(cfg.Dir, at(s.LastSeq), at(high.Sequence))
		}
	}
	if s.Msgs == 0 || s.LastSeq == 0 {
		return refuse(ErrMissing, "no message", "at least one: the last one is never trimmed")
	}
	if s.Msgs != s.LastSeq-s.FirstSeq+1 {
		return logState{}, findGap(ctx, eng, at, s)
	}
	last, err := eng.message(ctx, inc, s.LastSeq)
	if err != nil {
		return logState{}, err
	}
	if high != nil && high.Sequence < s.FirstSeq {
		return refuse(ErrDamaged, fmt.Sprintf("a first message %s", at(s.FirstSeq)), fmt.Sprintf("message %s, which was never trimmed", at(high.Sequence)))
	}
	if high != nil {
		m, err := eng.message(ctx, inc, high.Sequence)
		if err != nil {
			return logState{}, err
		}
		if m.sum.String() != high.Sum {
			return refuse(ErrDiffers, fmt.Sprintf("message %s with checksum %s", m.At, m.sum), "checksum "+high.Sum)
		}
	}
	return logState{first: s.FirstSeq, last: s.LastSeq, lastSum: last.sum, used: int64(s.Bytes)}, nil
}

func behind(dir string, found, expected schemas.Position) error {
	return &RefusedError{Kind: ErrBehind, Dir: dir, Found: "a log that ends at " + found.String(), Expected: "at least " + expected.String(), Remedy: remedyCopy}
}

// findGap returns the first hole of a store whose message count shows that it has
// one.
func findGap(ctx context.Context, eng *engine, at func(uint64) schemas.Position, s jetstream.StreamState) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := eng.js.Stream(ctx, streamName)
	if err != nil {
		return err
	}
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return err
	}
	if len(info.State.Deleted) == 0 {
		return &GapError{From: at(s.FirstSeq), Through: at(s.LastSeq)}
	}
	d := info.State.Deleted
	through := d[0]
	for _, seq := range d[1:] {
		if seq != through+1 {
			break
		}
		through = seq
	}
	return &GapError{From: at(d[0]), Through: at(through)}
}

// CheckBehind returns an error unless the log continues from at, the end of the
// archive: at is in this log, or in the lost one that it continues (H6).
func (l *Log) CheckBehind(at schemas.Position) error {
	l.mu.Lock()
	first, last := l.at(l.first), l.at(l.last)
	l.mu.Unlock()
	switch {
	case at.Ordinal() > l.inc.Ordinal || at.Ordinal() == l.inc.Ordinal && at > last:
		return behind(l.cfg.Dir, last, at)
	case at.Ordinal() < l.inc.Ordinal && at < l.Continues():
		return &GapError{From: at + 1, Through: l.Continues(), Trimmed: true}
	case at.Ordinal() < l.inc.Ordinal && first.Sequence() > 1:
		return &GapError{From: schemas.NewPosition(l.inc.Ordinal, 1), Through: first - 1, Trimmed: true}
	case at.Ordinal() == l.inc.Ordinal && at+1 < first:
		return &GapError{From: at + 1, Through: first - 1, Trimmed: true}
	}
	return nil
}

// CheckCut is CheckBehind for the cut of an archive or generation. It also
// returns an error if the cut was made in another log.
func (l *Log) CheckCut(cut schemas.Cut) error {
	for _, p := range cut {
		if p.Lane != 0 {
			return fmt.Errorf("cut %s: lane %d is unknown to this version of duet: use the version that wrote it", cut, p.Lane)
		}
		if p.Ordinal == l.inc.Ordinal && p.Incarnation != l.inc.ID {
			return &RefusedError{Kind: ErrRecreated, Dir: l.cfg.Dir, Found: "log " + l.inc.ID, Expected: "log " + p.Incarnation + ", which the archive was written from", Remedy: remedyCopy}
		}
	}
	return l.CheckBehind(cut.Position())
}
