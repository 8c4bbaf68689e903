package eventlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minio/highwayhash"

	"duet/schemas"
)

// When a store starts and finds a bad record, it cuts the block off there and
// goes on as if the rest had never been. In an older block that leaves a hole,
// which shows. At the end of the newest block it looks like a log that is a bit
// shorter: the high-water mark shows it, but for what was stored in the last
// second before a kill. So we look at the newest block before the server does,
// and refuse, with nothing changed, a bad record that good ones follow. A bad
// record at the very end was torn by the kill and never acknowledged.
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

// checkNewestBlock returns a *CorruptError for the first bad record of the
// newest block file that a good one follows.
func checkNewestBlock(dir string, ordinal uint32) error {
	blocks := filepath.Join(storePath(dir), "jetstream", "$G", "streams", streamName, "msgs")
	names, err := os.ReadDir(blocks)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	newest := 0
	for _, n := range names {
		var index int
		if _, err := fmt.Sscanf(n.Name(), "%d.blk", &index); err == nil && n.Name() == fmt.Sprintf("%d.blk", index) {
			newest = max(newest, index)
		}
	}
	if newest == 0 {
		return nil
	}
	path := filepath.Join(blocks, fmt.Sprintf("%d.blk", newest))
	block, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", streamName, newest))
	bad, offset := damaged(block, key[:])
	if bad == 0 {
		return nil
	}
	return &CorruptError{At: schemas.NewAt(ordinal, bad), Reason: fmt.Sprintf("its record at byte %d of %s is unreadable, and readable ones follow", offset, path)}
}

// damaged returns the sequence and offset of the first bad record that a good
// one follows; 0 if there is none.
func damaged(block, key []byte) (seq uint64, offset int) {
	var last uint64
	for offset < len(block) {
		s, length := record(block[offset:], key)
		if length == 0 {
			break
		}
		if s&recordFlags == 0 {
			last = s
		}
		offset += length
	}
	// Records are at least this apart; a later one has a later sequence.
	const slack = 1 << 20
	for o := offset + 1; o+recordHeader+recordHash <= len(block); o++ {
		s := binary.LittleEndian.Uint64(block[o+4:])
		if s <= last || s > last+slack {
			continue
		}
		if _, length := record(block[o:], key); length != 0 {
			return last + 1, offset
		}
	}
	return 0, 0
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
