package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/zeebo/xxh3"

	"duet/schemas"
	"duet/schemas/event"
)

// verdictLog records what the live half decided for each message that is not archived. It
// serves only to report what another version of the decoder changes (--redecode), so it
// is not synced, and an error ends the recording but nothing else.
//
// The file verdicts.log begins empty at each start, because the messages are then decoded
// again. Before a version decodes the messages of another one, the file becomes
// verdicts.old, which stays until the report is complete. An entry has 32 bytes,
// little-endian:
//
//	offset  bytes
//	0       8      position
//	8       4      accepted
//	12      4      duplicate
//	16      4      rejected
//	20      8      digest of verdicts and values (event.MessageVerdicts)
//	28      4      xxh3-64 of bytes 0 to 28, its low half
type verdictLog struct {
	path   string
	logger *slog.Logger

	mu   sync.Mutex
	file *os.File // nil after an error and after close
	size int64
	buf  []byte

	// While the messages of another version are decoded again.
	old    map[schemas.Position]verdictEntry
	target schemas.Position // the last of them
	report redecoded
}

type verdictEntry struct {
	accepted, duplicate, rejected uint32
	digest                        uint64
}

// redecoded counts the messages that were decoded again.
type redecoded struct {
	messages, changed, unknown int
}

const (
	verdictBytes = 32
	// verdictsKept is the size above which the file drops archived messages.
	verdictsKept = 1 << 20
	// changesShown bounds the messages that the report lists.
	changesShown = 1000
)

// openVerdicts begins the file. If redecode is set, the messages through target were
// decoded by another version and are compared with what it decided; so they are if a
// start before this one did not complete its report.
func openVerdicts(path string, redecode bool, target schemas.Position, logger *slog.Logger) (*verdictLog, error) {
	v := &verdictLog{path: path + ".log", logger: logger, target: target}
	oldPath := path + ".old"
	_, err := os.Stat(oldPath)
	unfinished := err == nil
	if redecode && !unfinished {
		if err := os.Rename(v.path, oldPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("keep the verdicts of the other version: %w", err)
		}
	}
	if redecode || unfinished {
		if v.old, err = readVerdicts(oldPath); err != nil {
			return nil, err
		}
	}
	if v.file, err = os.Create(v.path); err != nil {
		return nil, fmt.Errorf("record verdicts: %w", err)
	}
	return v, nil
}

// readVerdicts reads a file of verdicts; a missing file is empty. It skips damaged entries:
// their messages are reported as unknown.
func readVerdicts(path string) (map[schemas.Position]verdictEntry, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the verdicts of the other version: %w", err)
	}
	out := map[schemas.Position]verdictEntry{}
	for ; len(b) >= verdictBytes; b = b[verdictBytes:] {
		if binary.LittleEndian.Uint32(b[28:]) == uint32(xxh3.Hash(b[:28])) {
			out[schemas.Position(binary.LittleEndian.Uint64(b))] = verdictEntry{
				binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:]), binary.LittleEndian.Uint32(b[16:]), binary.LittleEndian.Uint64(b[20:]),
			}
		}
	}
	return out, nil
}

// add records messages, and compares those that another version decoded.
func (v *verdictLog) add(messages []event.MessageVerdicts) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.buf = v.buf[:0]
	for _, m := range messages {
		e := verdictEntry{uint32(m.Accepted), uint32(m.Duplicate), uint32(m.Rejected), m.Digest}
		if v.old != nil && m.Pos <= v.target {
			v.compare(m, e)
		}
		from := len(v.buf)
		v.buf = binary.LittleEndian.AppendUint64(v.buf, uint64(m.Pos))
		v.buf = binary.LittleEndian.AppendUint32(v.buf, e.accepted)
		v.buf = binary.LittleEndian.AppendUint32(v.buf, e.duplicate)
		v.buf = binary.LittleEndian.AppendUint32(v.buf, e.rejected)
		v.buf = binary.LittleEndian.AppendUint64(v.buf, e.digest)
		v.buf = binary.LittleEndian.AppendUint32(v.buf, uint32(xxh3.Hash(v.buf[from:])))
	}
	if v.file == nil || len(v.buf) == 0 {
		return
	}
	n, err := v.file.Write(v.buf)
	v.size += int64(n)
	v.end(err)
}

func (v *verdictLog) compare(m event.MessageVerdicts, now verdictEntry) {
	v.report.messages++
	was, ok := v.old[m.Pos]
	switch {
	case !ok:
		v.report.unknown++
		return
	case was == now:
		return
	}
	if v.report.changed++; v.report.changed > changesShown {
		return
	}
	args := []any{"position", m.Pos, "stream", m.Stream, "accepted", change(was.accepted, now.accepted), "duplicate", change(was.duplicate, now.duplicate), "rejected", change(was.rejected, now.rejected)}
	v.logger.Warn("redecoded: a message's verdicts or values have changed", args...)
}

func change(was, now uint32) string {
	if was == now {
		return fmt.Sprint(now)
	}
	return fmt.Sprintf("%d, was %d", now, was)
}

// complete logs the report, once every message of the other version was decoded again.
func (v *verdictLog) complete() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.old == nil {
		return
	}
	r := v.report
	v.logger.Warn("redecoded the events that were not archived", "messages", r.messages, "changed", r.changed, "not_known_before", r.unknown)
	v.old = nil
	if err := os.Remove(v.path[:len(v.path)-len(".log")] + ".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.logger.Warn("the verdicts of the other version cannot be removed", "error", err)
	}
}

// archived drops the messages at or before pos from a large file.
func (v *verdictLog) archived(pos schemas.Position) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.file == nil || v.size <= verdictsKept {
		return
	}
	v.end(v.drop(pos))
}

func (v *verdictLog) drop(pos schemas.Position) error {
	b, err := os.ReadFile(v.path)
	if err != nil {
		return err
	}
	for len(b) >= verdictBytes && schemas.Position(binary.LittleEndian.Uint64(b)) <= pos {
		b = b[verdictBytes:]
	}
	if err := v.file.Truncate(0); err != nil {
		return err
	}
	n, err := v.file.WriteAt(b, 0)
	if err == nil {
		v.size = int64(n)
		_, err = v.file.Seek(v.size, 0)
	}
	return err
}

// end stops the recording if err is not nil.
func (v *verdictLog) end(err error) {
	if err == nil {
		return
	}
	v.logger.Warn("verdicts are no longer recorded; after an upgrade, --redecode cannot say what changes", "error", err)
	v.file.Close()
	v.file = nil
}

func (v *verdictLog) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.file == nil {
		return nil
	}
	err := v.file.Close()
	v.file = nil
	return err
}
