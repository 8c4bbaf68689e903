package eventlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"duet/schemas"
)

// Blocks are read here without nats-server, whose format for them is private.
func TestTheBlockFormatIsTheLinkedServers(t *testing.T) {
	const checked = "2.15.2"
	if server.VERSION != checked {
		t.Errorf("nats-server is version %s, but blockcheck.go was checked against %s. Compare server/filestore.go of both: "+
			"the record's layout and hash (writeMsgRecordLocked, rebuildStateFromBufLocked), the hash key (sha256 of stream-block in initMsgBlock), "+
			"the flags of a sequence (ebit, tbit), the names of blocks and of the index (blkScan, streamStreamStateFile), "+
			"and that a bad record at a block's end is cut off at recovery. Then set the constant of this test.", server.VERSION, checked)
	}
}

func TestABlockThatTheServerWroteIsRead(t *testing.T) {
	cfg := config(t, 1<<20)
	l := mustOpen(t, cfg)
	const events = 20
	for i := range events {
		mustAppend(t, l, "orders", body(i, i*50))
	}
	block, err := os.ReadFile(filepath.Join(blockDir(cfg.Dir), "1.blk"))
	must(t, err)
	key := blockKey(1)
	var size int64
	for want := uint64(1); len(block) > 0; want++ {
		seq, length := record(block, key)
		if length == 0 || seq != want {
			t.Fatalf("record %d is read as %d, %d bytes", want, seq, length)
		}
		raw, subject := binary.LittleEndian.Uint32(block), recordHeader+int(binary.LittleEndian.Uint16(block[20:]))
		if got := string(block[recordHeader:subject]); want > 1 && got != "duet.e.orders" {
			t.Fatalf("record %d has subject %q", want, got)
		}
		if raw&headerBit == 0 {
			t.Fatalf("record %d has no header", want)
		}
		header := int(binary.LittleEndian.Uint32(block[subject:]))
		if text := string(block[subject+4 : subject+4+header]); !strings.Contains(text, fmt.Sprintf("%s: %d", jetstream.ExpectedLastSeqHeader, want-1)) {
			t.Fatalf("record %d has header %q", want, text)
		}
		m, err := parse(block[subject+4+header:length-recordHash], l.inc, want)
		must(t, err)
		if want > 1 && !bytes.Equal(m.Data, body(int(want)-2, int(want-2)*50)) {
			t.Fatalf("record %d holds another message", want)
		}
		size += int64(length)
		block = block[length:]
		if want > events+1 || len(block) == 0 && want != events+1 {
			t.Fatalf("%d records, want %d", want, events+1)
		}
	}
	if used, _ := l.Usage(); used != size {
		t.Fatalf("the log counts %d bytes, its block has %d", used, size)
	}
}

// killed returns a copy of an open log, as a kill leaves it: n events, no clean
// end, and a high-water mark at the first message.
func killed(t *testing.T, n int, bodySize int) Config {
	t.Helper()
	cfg := config(t, smallBlocks)
	l := mustOpen(t, cfg)
	must(t, l.MarkHigh(context.Background()))
	high, err := os.ReadFile(highPath(cfg.Dir))
	must(t, err)
	for i := range n {
		mustAppend(t, l, "orders", body(i, bodySize))
	}
	cfg.Dir = copyDir(t, cfg.Dir)
	must(t, os.WriteFile(highPath(cfg.Dir), high, 0o600))
	return cfg
}

// lastRecord returns where the newest record of a block file begins and ends.
func lastRecord(t *testing.T, path string) (begin, end int) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	for end < len(b) {
		begin, end = end, end+int(binary.LittleEndian.Uint32(b[end:])&^headerBit)
	}
	return begin, end
}

// A whole record with a wrong checksum was acknowledged: it must never be taken
// for one that a kill tore, which the server would drop.
func TestAFlippedBitInTheNewestRecordIsRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		events int
		empty  bool // the server has created the next block, and not written to it
	}{
		{"in the newest block", 3, false},
		{"alone in the newest block", 1, false},
		{"before an empty block", 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := killed(t, c.events, 20)
			path := filepath.Join(blockDir(cfg.Dir), "1.blk")
			if c.empty {
				must(t, os.WriteFile(filepath.Join(blockDir(cfg.Dir), "2.blk"), nil, 0o600))
			}
			begin, end := lastRecord(t, path)
			whole, err := os.ReadFile(path)
			must(t, err)
			if len(whole) != end {
				t.Fatalf("%d bytes behind the newest record", len(whole)-end)
			}
			for at := begin; at < end; at++ {
				for bit := range 8 {
					broken := slices.Clone(whole)
					broken[at] ^= 1 << bit
					must(t, os.WriteFile(path, broken, 0o600))
					_, err := checkBlocks(cfg.Dir, 1, 1)
					var corrupt *CorruptError
					if !errors.As(err, &corrupt) || corrupt.At != schemas.NewPosition(1, uint64(c.events+1)) ||
						!strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), fmt.Sprintf("byte %d ", begin)) {
						t.Fatalf("bit %d of byte %d of the record: %v", bit, at-begin, err)
					}
				}
			}
			wantRefused(t, cfg, ErrDamaged, "1.blk")
			must(t, os.WriteFile(path, whole, 0o600))
			l := mustOpen(t, cfg) // and without damage it opens
			if want := schemas.NewPosition(1, uint64(c.events+1)); l.Last() != want {
				t.Fatalf("the log ends at %s, want %s", l.Last(), want)
			}
		})
	}
}

// A record that a kill or a power cut left incomplete was not acknowledged. The
// log opens without it and goes on.
func TestATornRecordIsDropped(t *testing.T) {
	cfg := killed(t, 3, 1000)
	begin, end := lastRecord(t, filepath.Join(blockDir(cfg.Dir), "1.blk"))
	type tear struct{ bytes, zeros int } // of the newest record; behind them
	tears := []tear{{0, 1}, {0, 21}, {0, 30}, {0, 4096}, {end - begin - recordHash, recordHash}, {end - begin - 500, 500}, {40, end - begin - 40}, {40, 5000}}
	for n := 0; n < end-begin; n += 1 + n/3 {
		tears = append(tears, tear{n, 0})
	}
	tears = append(tears, tear{end - begin - 1, 0})
	for i, c := range tears {
		broken := cfg
		broken.Dir = copyDir(t, cfg.Dir)
		path := filepath.Join(blockDir(broken.Dir), "1.blk")
		must(t, os.Truncate(path, int64(begin+c.bytes)))
		must(t, os.Truncate(path, int64(begin+c.bytes+c.zeros)))
		if i%2 == 0 {
			must(t, os.RemoveAll(filepath.Join(blockDir(broken.Dir), "index.db")))
		}
		l, err := Open(context.Background(), broken)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if at := mustAppend(t, l, "orders", body(2, 1000)); at != schemas.NewPosition(1, 4) {
			t.Errorf("%+v: the next event is at %s, want 1:4", c, at)
		}
		if all, err := readAll(t, l, 0); err != nil || len(all) != 4 {
			t.Errorf("%+v: %d messages, %v", c, len(all), err)
		}
		must(t, l.Close())
		must(t, os.RemoveAll(broken.Dir))
	}
}
