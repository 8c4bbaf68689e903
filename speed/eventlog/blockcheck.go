package eventlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/minio/highwayhash"

	"duet/schemas"
)

// The store is looked at before its server starts, for two things that the server
// does with a damaged file:
//
// It cuts a block off at a bad record and goes on as if the rest had never been.
// In an older block that leaves a hole, which shows. At the end of the newest
// block it looks like a log that is a bit shorter: the high-water mark shows it,
// but for what was stored in the last second before a kill. So a bad record of
// the newest block that good ones follow is refused, with nothing changed. A bad
// record at the very end was torn by the kill and never acknowledged.
//
// And it trusts the sequence of a record before it checks the record: one flipped
// bit there makes it allocate an index of billions of entries, until the system
// kills the process. So the sequences of all blocks are checked, by hopping from
// record to record; their content is checked when they are read.
//
// A record of a block file, little endian, as nats-server writes it:
//
//	offset size
//	     0    4  length of the whole record; bit 31: it has a header
//	     4    8  sequence; bit 63: erased, bit 62: a deletion, not a message
//	    12    8  time, ns
//	    20    2  length of the subject
//	    22    n  subject, [header length, 4 bytes, and header,] message
//	   len-8  8  HighwayHash-64 of bytes 4 to 20 and of what follows byte 22,
//	             without the header length; key: sha256("DUET-<block>")
const (
	recordHeader = 22
	recordHash   = 8
	recordFlags  = 1<<63 | 1<<62
	headerBit    = 1 << 31
)

// checkBlocks returns a *CorruptError or *GapError for what the block files show
// of damage before the server touches them.
func checkBlocks(dir string, ordinal uint32) error {
	blocks := filepath.Join(storePath(dir), "jetstream", "$G", "streams", streamName, "msgs")
	names, err := os.ReadDir(blocks)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var indices []int
	for _, n := range names {
		var index int
		if _, err := fmt.Sscanf(n.Name(), "%d.blk", &index); err == nil && n.Name() == fmt.Sprintf("%d.blk", index) {
			indices = append(indices, index)
		}
	}
	slices.Sort(indices)
	var last uint64
	for i, index := range indices {
		path := filepath.Join(blocks, fmt.Sprintf("%d.blk", index))
		if i < len(indices)-1 {
			last, err = checkOlder(path, ordinal, last)
		} else {
			err = checkNewest(path, index, ordinal, last)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkOlder hops over the records of a block that is not written any more. It
// takes and returns the last sequence so far; 0 is none.
func checkOlder(path string, ordinal uint32, last uint64) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	var window [16 << 10]byte
	from, have := int64(0), 0 // window holds have bytes of the file at from
	for offset := int64(0); offset < st.Size(); {
		if offset+recordHeader > from+int64(have) || offset < from {
			from = offset
			if have, err = f.ReadAt(window[:], from); err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
		}
		head := window[offset-from : have]
		length, seq := int64(0), uint64(0)
		if len(head) >= recordHeader {
			length = int64(binary.LittleEndian.Uint32(head) &^ headerBit)
			seq = binary.LittleEndian.Uint64(head[4:])
		}
		if length < recordHeader+recordHash || offset+length > st.Size() {
			return 0, unreadable(path, offset, ordinal, last+1)
		}
		if seq&recordFlags == 0 {
			if last != 0 && seq != last+1 {
				return 0, outOfPlace(path, offset, ordinal, last+1, seq)
			}
			last = seq
		}
		offset += length
	}
	return last, nil
}

func unreadable(path string, offset int64, ordinal uint32, seq uint64) error {
	return &CorruptError{At: schemas.NewPosition(ordinal, seq), Reason: fmt.Sprintf("its record at byte %d of %s is unreadable", offset, path)}
}

func outOfPlace(path string, offset int64, ordinal uint32, want, got uint64) error {
	if got > want && got-want < 1<<24 {
		return &GapError{From: schemas.NewPosition(ordinal, want), Through: schemas.NewPosition(ordinal, got-1)}
	}
	return &CorruptError{At: schemas.NewPosition(ordinal, want), Reason: fmt.Sprintf("the record at byte %d of %s says that it is message %d", offset, path, got)}
}

// checkNewest checks the block that was written last, in full.
func checkNewest(path string, index int, ordinal uint32, before uint64) error {
	block, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", streamName, index))
	end := goodEnd(block, key[:], before)
	if end.gap != 0 {
		return outOfPlace(path, int64(end.offset), ordinal, end.last+1, end.gap)
	}
	if goodFollows(block, key[:], end) {
		return unreadable(path, int64(end.offset), ordinal, end.last+1)
	}
	if rest := block[end.offset:]; len(rest) >= recordHeader && !torn(rest, end.last) {
		// The server's index may count this record: without the index it looks at
		// each one, and cuts this one off.
		if err := os.Remove(filepath.Join(filepath.Dir(path), "index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// torn reports whether b is the beginning of the next message's record.
func torn(b []byte, last uint64) bool {
	length := int(binary.LittleEndian.Uint32(b) &^ headerBit)
	return length > len(b) && length <= maxPayload+64<<10 && binary.LittleEndian.Uint64(b[4:]) == last+1
}

// blockEnd is where the good records of a block end.
type blockEnd struct {
	offset int
	last   uint64 // sequence of the last message; 0 if there is none
	gap    uint64 // the sequence of a good message that does not follow last; 0 if there is none
}

func goodEnd(block, key []byte, before uint64) blockEnd {
	end := blockEnd{last: before}
	for end.offset < len(block) {
		s, length := record(block[end.offset:], key)
		if length == 0 {
			break
		}
		if s&recordFlags == 0 {
			if end.last != 0 && s != end.last+1 {
				end.gap = s
				break
			}
			end.last = s
		}
		end.offset += length
	}
	return end
}

// goodFollows reports whether a good record stands behind the good end.
func goodFollows(block, key []byte, end blockEnd) bool {
	const slack = 1 << 20 // a later record has a sequence that is not much later
	for o := end.offset + 1; o+recordHeader+recordHash <= len(block); o++ {
		s := binary.LittleEndian.Uint64(block[o+4:])
		if s <= end.last || s > end.last+slack {
			continue
		}
		if _, length := record(block[o:], key); length != 0 {
			return true
		}
	}
	return false
}

// record checks the record that b begins with. A length of 0 means that there
// is no good one.
func record(b, key []byte) (seq uint64, length int) {
	if len(b) < recordHeader+recordHash {
		return 0, 0
	}
	raw := binary.LittleEndian.Uint32(b)
	length = int(raw &^ headerBit)
	subject := recordHeader + int(binary.LittleEndian.Uint16(b[20:]))
	rest := subject
	if raw&headerBit != 0 {
		rest += 4
	}
	if length > len(b) || rest > length-recordHash {
		return 0, 0
	}
	h, err := highwayhash.New64(key)
	if err != nil {
		return 0, 0 // the key has the right size
	}
	h.Write(b[4:20])
	h.Write(b[recordHeader:subject])
	h.Write(b[rest : length-recordHash])
	if !bytes.Equal(h.Sum(nil), b[length-recordHash:length]) {
		return 0, 0
	}
	return binary.LittleEndian.Uint64(b[4:]), length
}
