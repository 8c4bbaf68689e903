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

// The block files are checked before their server starts, because the server
// does two things with a damaged file:
//
//   - It cuts a block off at the first bad record, and goes on without the rest.
//     In an older block that leaves a hole, which examine finds. At the end of
//     the log it only looks like a shorter log, and behind the high-water mark
//     nothing else would show that acknowledged messages are gone.
//   - It trusts the sequence of a record before it checks the record. One flipped
//     bit there makes it allocate an index of billions of entries, until the
//     system kills the process.
//
// So the block with the newest message is read in full. A whole record with a
// wrong checksum was acknowledged once, and is refused (H6). Only a record that
// ends early, or in zeros, was torn by a kill or a power cut before it was
// acknowledged: the server drops it. Of older blocks only lengths and sequences
// are checked; their content is checked when it is read.
//
// This is nats-server's private format, little endian; a test fails when the
// linked server is another version. A record:
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

// A sizeMark says that the messages through a sequence take so many bytes,
// counted from the oldest block file.
type sizeMark struct {
	seq   uint64
	bytes int64
}

// checkBlocks returns a *CorruptError or *GapError for damage that the block
// files show, and otherwise a mark for the end of each block that holds messages.
func checkBlocks(dir string, ordinal uint32) ([]sizeMark, error) {
	blocks := filepath.Join(storePath(dir), "jetstream", "$G", "streams", streamName, "msgs")
	names, err := os.ReadDir(blocks)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var indices []int
	for _, n := range names {
		var index int
		if _, err := fmt.Sscanf(n.Name(), "%d.blk", &index); err == nil && n.Name() == fmt.Sprintf("%d.blk", index) {
			indices = append(indices, index)
		}
	}
	slices.Sort(indices)
	// The newest message is in the last block, unless the server was killed when it
	// had just created that one.
	newest := len(indices) - 1
	for ; newest > 0; newest-- {
		holds, err := holdsMessage(blocks, indices[newest])
		if err != nil {
			return nil, err
		}
		if holds {
			break
		}
	}
	var marks []sizeMark
	var mark sizeMark
	for i, index := range indices {
		before := mark
		if i < newest {
			mark, err = checkOlder(filepath.Join(blocks, fmt.Sprintf("%d.blk", index)), ordinal, mark)
		} else {
			mark, err = checkNewest(blocks, index, i == len(indices)-1, ordinal, mark)
		}
		if err != nil {
			return nil, err
		}
		if mark != before {
			marks = append(marks, mark)
		}
	}
	return marks, nil
}

// checkOlder checks the lengths and sequences of a block. It takes the mark of
// the blocks before it and returns its own.
func checkOlder(path string, ordinal uint32, mark sizeMark) (sizeMark, error) {
	f, err := os.Open(path)
	if err != nil {
		return mark, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return mark, err
	}
	var window [16 << 10]byte
	from, have := int64(0), 0 // window[:have] is the file's content at from
	for offset := int64(0); offset < st.Size(); {
		if offset+recordHeader > from+int64(have) || offset < from {
			from = offset
			if have, err = f.ReadAt(window[:], from); err != nil && !errors.Is(err, io.EOF) {
				return mark, err
			}
		}
		head := window[offset-from : have]
		length, seq := int64(0), uint64(0)
		if len(head) >= recordHeader {
			length = int64(recordLength(head))
			seq = binary.LittleEndian.Uint64(head[4:])
		}
		if length < recordHeader+recordHash || offset+length > st.Size() {
			return mark, unreadable(path, offset, ordinal, mark.seq+1)
		}
		if seq&recordFlags == 0 {
			if mark.seq != 0 && seq != mark.seq+1 {
				return mark, outOfPlace(path, offset, ordinal, mark.seq+1, seq)
			}
			mark = sizeMark{seq, mark.bytes + length}
		}
		offset += length
	}
	return mark, nil
}

// checkNewest checks a block in full. If it is the last one, a torn record at its
// end is left to the server.
func checkNewest(blocks string, index int, last bool, ordinal uint32, mark sizeMark) (sizeMark, error) {
	path := filepath.Join(blocks, fmt.Sprintf("%d.blk", index))
	block, err := os.ReadFile(path)
	if err != nil {
		return mark, err
	}
	key := blockKey(index)
	offset := 0
	for offset < len(block) {
		seq, length := record(block[offset:], key)
		if length == 0 {
			break
		}
		if seq&recordFlags == 0 {
			if mark.seq != 0 && seq != mark.seq+1 {
				return mark, outOfPlace(path, int64(offset), ordinal, mark.seq+1, seq)
			}
			mark = sizeMark{seq, mark.bytes + int64(length)}
		}
		offset += length
	}
	rest := block[offset:]
	if len(rest) == 0 {
		return mark, nil
	}
	if !last || !torn(rest, key, mark.seq) || goodFollows(rest, key, mark.seq) {
		return mark, unreadable(path, int64(offset), ordinal, mark.seq+1)
	}
	// The server's index may count the torn record. Without the index the server
	// looks at each record, and cuts this one off.
	if err := os.Remove(filepath.Join(blocks, "index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return mark, err
	}
	return mark, nil
}

// torn reports whether the end of a block is what a kill or a power cut leaves of
// the record behind message last: the beginning of it, or zeros in place of its
// end.
func torn(rest, key []byte, last uint64) bool {
	if zeros(rest) || len(rest) < recordHeader {
		return true
	}
	length, flag := recordLength(rest), binary.LittleEndian.Uint32(rest)&headerBit
	switch {
	case goodRecord(rest, len(rest), flag, key), goodRecord(rest, len(rest), flag^headerBit, key):
		return false // it is whole, and its length was changed
	case length < recordHeader+recordHash:
		return zeros(rest[max(0, len(rest)-recordHash):])
	case length <= len(rest):
		return zeros(rest[length-recordHash:])
	}
	seq := binary.LittleEndian.Uint64(rest[4:])
	return length <= maxPayload+64<<10 && (seq == last+1 || seq&recordFlags != 0)
}

func zeros(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// goodFollows reports whether a good record stands somewhere behind the beginning
// of rest.
func goodFollows(rest, key []byte, last uint64) bool {
	const slack = 1 << 20 // a later record's sequence is at most so much later
	for o := 1; o+recordHeader+recordHash <= len(rest); o++ {
		seq := binary.LittleEndian.Uint64(rest[o+4:])
		if seq <= last || seq > last+slack {
			continue
		}
		if _, length := record(rest[o:], key); length != 0 {
			return true
		}
	}
	return false
}

// holdsMessage reports whether a block begins with a good record of a message,
// or has one behind good records of deletions.
func holdsMessage(blocks string, index int) (bool, error) {
	b, err := os.ReadFile(filepath.Join(blocks, fmt.Sprintf("%d.blk", index)))
	for key := blockKey(index); err == nil; {
		seq, length := record(b, key)
		if length == 0 || seq&recordFlags == 0 {
			return length != 0, nil
		}
		b = b[length:]
	}
	return false, err
}

func blockKey(index int) []byte {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", streamName, index))
	return key[:]
}

func recordLength(b []byte) int { return int(binary.LittleEndian.Uint32(b) &^ headerBit) }

// record returns the sequence and length of the good record that b begins with,
// or a length of 0 if there is none.
func record(b, key []byte) (seq uint64, length int) {
	if len(b) < recordHeader+recordHash {
		return 0, 0
	}
	length = recordLength(b)
	if !goodRecord(b, length, binary.LittleEndian.Uint32(b)&headerBit, key) {
		return 0, 0
	}
	return binary.LittleEndian.Uint64(b[4:]), length
}

// goodRecord reports whether the first length bytes of b are a record with a
// correct checksum, which does not cover the length and the header bit.
func goodRecord(b []byte, length int, flag uint32, key []byte) bool {
	if length < recordHeader+recordHash || length > len(b) {
		return false
	}
	subject := recordHeader + int(binary.LittleEndian.Uint16(b[20:]))
	rest := subject
	if flag != 0 {
		rest += 4
	}
	if rest > length-recordHash {
		return false
	}
	h, err := highwayhash.New64(key)
	if err != nil {
		return false // the key has the right size
	}
	h.Write(b[4:20])
	h.Write(b[recordHeader:subject])
	h.Write(b[rest : length-recordHash])
	if !bytes.Equal(h.Sum(nil), b[length-recordHash:length]) {
		return false
	}
	if flag == 0 || binary.LittleEndian.Uint64(b[4:])&recordFlags != 0 {
		return true
	}
	// The checksum does not cover the header's length either.
	header := uint64(binary.LittleEndian.Uint32(b[subject:]))
	message := b[rest : length-recordHash]
	return header <= uint64(len(message)) && bytes.HasPrefix(message[header:], []byte(frameMagic))
}

func unreadable(path string, offset int64, ordinal uint32, seq uint64) error {
	return &CorruptError{At: schemas.NewPosition(ordinal, seq), Reason: fmt.Sprintf("its record at byte %d of %s is unreadable", offset, path)}
}

func outOfPlace(path string, offset int64, ordinal uint32, want, got uint64) error {
	if got > want && got-want < 1<<24 {
		return &GapError{From: schemas.NewPosition(ordinal, want), Through: schemas.NewPosition(ordinal, got-1)}
	}
	return &CorruptError{At: schemas.NewPosition(ordinal, want), Reason: fmt.Sprintf("the record at byte %d of %s has the sequence %d", offset, path, got)}
}
