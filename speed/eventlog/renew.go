package eventlog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nuid"

	"duet/internal/base/durable"
	"duet/schemas"
	"duet/schemas/event"
)

// A Loss is what a new log in place of a lost one gives up.
type Loss struct {
	// Archived is the last position that still counts.
	Archived schemas.Position
	// Known is the last position that the lost log is known to have held, by its
	// high-water mark and its readable records; 0 if nothing of it is left. It may
	// have held more.
	Known schemas.Position
	// Messages and Events count what can still be read behind Archived in the lost
	// log's files. It is given up too; the files are kept.
	Messages, Events int64
	// Ordinal is the new incarnation's.
	Ordinal uint32
	// Store is where the lost log's files are moved; "" if there are none.
	Store string
}

// Lost returns what Renew would give up. archived is the end of the archive, and
// used the highest ordinal that an incarnation of the log is known to have had.
// It changes nothing. Nothing may have the log open.
func Lost(cfg Config, archived schemas.Position, used uint32) (Loss, error) {
	loss := Loss{Archived: archived, Ordinal: max(used, archived.Ordinal())}
	inc, err := readIncarnation(cfg.Dir)
	if err == nil && inc != nil {
		loss.Ordinal = max(loss.Ordinal, inc.Ordinal)
		if err := loss.count(cfg.Dir, inc.Incarnation); err != nil {
			return loss, err
		}
	}
	if high, err := readHigh(cfg.Dir); err == nil && high != nil {
		loss.Ordinal = max(loss.Ordinal, high.Ordinal)
		loss.Known = max(loss.Known, schemas.NewPosition(high.Ordinal, high.Sequence))
	}
	if _, err := os.Stat(storePath(cfg.Dir)); err == nil {
		for n := 1; ; n++ { // an earlier Renew may have been interrupted
			loss.Store = fmt.Sprintf("%s.lost-%d-%d", storePath(cfg.Dir), loss.Ordinal, n)
			if _, err := os.Stat(loss.Store); errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
	}
	loss.Ordinal++
	return loss, nil
}

// count counts the readable records of block files behind Archived, in the store
// and in those that an interrupted Renew of the same incarnation has moved.
func (loss *Loss) count(dir string, inc schemas.Incarnation) error {
	moved := fmt.Sprintf("%s.lost-%d-", filepath.Base(storePath(dir)), inc.Ordinal)
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var paths []string
	for _, n := range names {
		store := filepath.Join(dir, n.Name())
		if store != storePath(dir) && !strings.HasPrefix(n.Name(), moved) {
			continue
		}
		blocks, err := os.ReadDir(blocksOf(store))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, b := range blocks {
			paths = append(paths, filepath.Join(blocksOf(store), b.Name()))
		}
	}
	for _, path := range paths {
		var index int
		if _, err := fmt.Sscanf(filepath.Base(path), "%d.blk", &index); err != nil {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for key := blockKey(index); ; {
			seq, length := record(b, key)
			if length == 0 {
				break // damaged, or the end
			}
			if m, err := unseal(recordMessage(b[:length]), inc.ID); err == nil && m.sequence == seq {
				at := schemas.NewPosition(inc.Ordinal, seq)
				loss.Known = max(loss.Known, at)
				if at > loss.Archived {
					loss.Messages++
					if env, err := event.ParseEnvelope(m.body); err == nil {
						for _, run := range env.Runs {
							loss.Events += int64(run.Count)
						}
					}
				}
			}
			b = b[length:]
		}
	}
	return nil
}

// recordMessage returns the message of a good record of a block file; nil if it
// has none.
func recordMessage(b []byte) []byte {
	rest := recordHeader + int(binary.LittleEndian.Uint16(b[20:]))
	if binary.LittleEndian.Uint32(b)&headerBit != 0 {
		rest += 4 + int(binary.LittleEndian.Uint32(b[rest:]))
	}
	if rest > len(b)-recordHash {
		return nil
	}
	return b[rest : len(b)-recordHash]
}

// Renew begins a new incarnation in place of a log that Open refuses, and gives
// up what loss, from Lost, says. It is for an explicit command. The old files are
// moved aside, not deleted. Nothing may have the log open. If Renew is
// interrupted, Open refuses the log, and Lost and Renew can be called again.
func Renew(ctx context.Context, cfg Config, loss Loss) (schemas.Adoption, error) {
	none := schemas.Adoption{}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return none, err
	}
	if loss.Store != "" {
		if err := os.Rename(storePath(cfg.Dir), loss.Store); err != nil {
			return none, err
		}
	}
	if err := durable.OS.MkdirAll(cfg.Dir); err != nil {
		return none, err
	}
	eng, err := startEngine(ctx, cfg)
	if err != nil {
		return none, err
	}
	defer eng.stop()
	id := nuid.Next()
	if _, err := eng.js.CreateStream(ctx, streamConfig(cfg, id)); err != nil {
		return none, fmt.Errorf("create the log: %w", err)
	}
	// The mark goes before the incarnation file is replaced, because it names a
	// message of the old log.
	if err := os.Remove(highPath(cfg.Dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return none, err
	}
	f, err := begin(ctx, cfg, eng, id, loss.Ordinal, &continues{After: loss.Archived, GivenUp: loss.Known})
	if err != nil {
		return none, err
	}
	return *f.adoption(), nil
}
