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

// checkBlocks returns a *CorruptError or *GapError for damage that the block
// files show, and otherwise the sizes of the messages that they hold.
func checkBlocks(dir string, ordinal uint32, step int64) (sizes, error) {
	c := blockCheck{ordinal: ordinal, sizes: sizes{step: step}}
	err := c.check(dir)
	return c.sizes, err
}

// blockCheck is the state of checkBlocks.
type blockCheck struct {
	ordinal uint32
	last    uint64 // sequence of the last message so far; 0 if there is none
	sizes   sizes
}

func (c *blockCheck) check(dir string) error {
	blocks := blocksPath(dir)
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
	// The newest message is in the last block, unless the server was killed when it
	// had just created that one.
	newest := len(indices) - 1
	for ; newest > 0; newest-- {
		holds, err := holdsMessage(blocks, indices[newest])
		if err != nil {
			return err
		}
		if holds {
			break
		}
	}
	for i, index := range indices {
		if i < newest {
			err = c.older(filepath.Join(blocks, fmt.Sprintf("%d.blk", index)))
		} else {
			err = c.newest(blocks, index, i == len(indices)-1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// message counts a record at an offset of a block file. It returns an error if
// the record does not follow the last message.
func (c *blockCheck) message(path string, offset int64, seq uint64, length int64) error {
	if seq&recordFlags != 0 {
		return nil
	}
	if c.last != 0 && seq != c.last+1 {
		return c.outOfPlace(path, offset, seq)
	}
	c.last = seq
	c.sizes.add(seq, length)
	return nil
}

// older checks the lengths and sequences of a block.
func (c *blockCheck) older(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	var window [16 << 10]byte
	from, have := int64(0), 0 // window[:have] is the file's content at from
	for offset := int64(0); offset < st.Size(); {
		if offset+recordHeader > from+int64(have) || offset < from {
			from = offset
			if have, err = f.ReadAt(window[:], from); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
		head := window[offset-from : have]
		length, seq := int64(0), uint64(0)
		if len(head) >= recordHeader {
			length = int64(recordLength(head))
			seq = binary.LittleEndian.Uint64(head[4:])
		}
		if length < recordHeader+recordHash || offset+length > st.Size() {
			return c.unreadable(path, offset)
		}
		if err := c.message(path, offset, seq, length); err != nil {
			return err
		}
		offset += length
	}
	return nil
}

// newest checks a block in full. If it is the last one, a torn record at its end
// is left to the server.
func (c *blockCheck) newest(blocks string, index int, last bool) error {
	path := filepath.Join(blocks, fmt.Sprintf("%d.blk", index))
	block, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	key := blockKey(index)
	offset := 0
	for offset < len(block) {
		seq, length := record(block[offset:], key)
		if length == 0 {
			break
		}
		if err := c.message(path, int64(offset), seq, int64(length)); err != nil {
			return err
		}
		offset += length
	}
	rest := block[offset:]
	if len(rest) == 0 {
		return nil
	}
	if !last || !torn(rest, key, c.last) || goodFollows(rest, key, c.last) {
		return c.unreadable(path, int64(offset))
	}
	// The server's index may count the torn record. Without the index the server
	// looks at each record, and cuts this one off.
	if err := os.Remove(filepath.Join(blocks, "index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
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

// unreadable names the message behind the last one.
func (c *blockCheck) unreadable(path string, offset int64) error {
	return &CorruptError{At: schemas.NewPosition(c.ordinal, c.last+1), Reason: fmt.Sprintf("its record at byte %d of %s is unreadable", offset, path)}
}

func (c *blockCheck) outOfPlace(path string, offset int64, got uint64) error {
	want := c.last + 1
	if got > want && got-want < 1<<24 {
		return &GapError{From: schemas.NewPosition(c.ordinal, want), Through: schemas.NewPosition(c.ordinal, got-1)}
	}
	return &CorruptError{At: schemas.NewPosition(c.ordinal, want), Reason: fmt.Sprintf("the record at byte %d of %s has the sequence %d", offset, path, got)}
}
