package eventlog

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nuid"

	"duet/internal/base/durable"
	"duet/schemas"
)

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

// A Loss says what beginning a new log gave up.
type Loss struct {
	// Archived is the last position that still counts.
	Archived schemas.Position
	// Known is the last position that the lost log is known to have held, by
	// its high-water mark; what lies between is lost. There may have been more:
	// up to a second's events.
	Known schemas.Position
	// Store is where the lost log's files were put; "" if there were none.
	Store string
}

// Renew begins a new incarnation in place of a log that Open refuses. It is
// for an explicit command that has told what is lost: every event of the old
// log after archived, the position that the archive holds. The old files are
// moved aside, not deleted. Nothing may have the log open.
func Renew(ctx context.Context, cfg Config, archived schemas.Position) (schemas.Incarnation, Loss, error) {
	loss := Loss{Archived: archived}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return schemas.Incarnation{}, loss, err
	}
	ordinal := archived.Ordinal()
	if old, err := readIncarnation(cfg.Dir); err == nil && old != nil {
		ordinal = max(ordinal, old.Ordinal)
	}
	if high, err := readHigh(cfg.Dir); err == nil && high != nil {
		ordinal = max(ordinal, high.Ordinal)
		loss.Known = schemas.NewPosition(high.Ordinal, high.Sequence)
	}
	for n := 1; ; n++ { // a first try may have been cut short
		loss.Store = fmt.Sprintf("%s.lost-%d-%d", storePath(cfg.Dir), ordinal, n)
		if _, err := os.Stat(loss.Store); os.IsNotExist(err) {
			break
		}
	}
	if err := os.Rename(storePath(cfg.Dir), loss.Store); os.IsNotExist(err) {
		loss.Store = ""
	} else if err != nil {
		return schemas.Incarnation{}, loss, err
	}
	// The mark goes first: a crash behind it leaves a log that Open refuses as
	// missing, and Renew is simply run again.
	if err := os.Remove(highPath(cfg.Dir)); err != nil && !os.IsNotExist(err) {
		return schemas.Incarnation{}, loss, err
	}
	if err := durable.OS.MkdirAll(cfg.Dir); err != nil {
		return schemas.Incarnation{}, loss, err
	}
	eng, err := startEngine(ctx, cfg)
	if err != nil {
		return schemas.Incarnation{}, loss, err
	}
	defer eng.stop()
	id := nuid.Next()
	if _, err := eng.js.CreateStream(ctx, streamConfig(cfg, id)); err != nil {
		return schemas.Incarnation{}, loss, fmt.Errorf("creating the log: %w", err)
	}
	f, err := begin(ctx, cfg, eng, id, ordinal+1, archived)
	if err != nil {
		return schemas.Incarnation{}, loss, err
	}
	return f.Incarnation, loss, nil
}
