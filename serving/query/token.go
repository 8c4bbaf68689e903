package query

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	"github.com/zeebo/xxh3"

	"duet/schemas"
	"duet/serving/reason"
)

// Token is the content of the opaque token of an answer or an append: a
// generation and positions. As not_before it asks for answers that are not older.
// Its bytes, in base64 for URLs:
//
//	+---------+------------+-------+==============================+---------+
//	| version | generation | lanes | lane ordinal sequence  log   | CRC-32C |
//	| 1 byte  | uvarint    | uvar. | uvarint each         8 bytes | 4 bytes |
//	+---------+------------+-------+==============================+---------+
//
// log is the XXH3 of the incarnation's id, so that a token of another log is
// refused.
type Token struct {
	Generation uint64
	Through    schemas.Cut
}

const tokenVersion = 1

// maxToken is the largest number of characters that is decoded.
const maxToken = 512

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// String encodes t.
func (t Token) String() string {
	b := []byte{tokenVersion}
	b = binary.AppendUvarint(b, t.Generation)
	b = binary.AppendUvarint(b, uint64(len(t.Through)))
	for _, p := range t.Through {
		b = binary.AppendUvarint(b, uint64(p.Lane))
		b = binary.AppendUvarint(b, uint64(p.Ordinal))
		b = binary.AppendUvarint(b, p.Sequence)
		b = binary.LittleEndian.AppendUint64(b, xxh3.HashString(p.Incarnation))
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken decodes a token of the log whose incarnation is inc. Its error is
// a [reason.TokenInvalid] for field not_before.
func ParseToken(s string, inc schemas.Incarnation) (Token, error) {
	refuse := func(why string) (Token, error) {
		return Token{}, reason.Field(reason.TokenInvalid, "not_before", "%s; use the token of an append or of an answer of this server, unchanged", why)
	}
	if len(s) > maxToken {
		return refuse("longer than a token can be")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 7 {
		return refuse("not a token")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return refuse("damaged: its checksum differs")
	}
	if body[0] != tokenVersion {
		return refuse("of another version")
	}
	d := decoder{b: body[1:]}
	t := Token{Generation: d.uvarint()}
	lanes := d.uvarint()
	if lanes > 64 {
		return refuse("not a token")
	}
	for range lanes {
		p := schemas.LanePosition{Lane: uint16(d.uvarint()), Ordinal: uint32(d.uvarint()), Sequence: d.uvarint()}
		log := d.fixed()
		if p.Lane != 0 || p.Ordinal > inc.Ordinal || (p.Ordinal == inc.Ordinal && log != xxh3.HashString(inc.ID)) {
			return refuse("of another log")
		}
		if p.Ordinal == inc.Ordinal {
			p.Incarnation = inc.ID
		}
		t.Through = append(t.Through, p)
	}
	if d.bad || len(d.b) != 0 {
		return refuse("not a token")
	}
	return t, nil
}

// decoder reads numbers from b; bad is set if b is too short.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) fixed() uint64 {
	if len(d.b) < 8 {
		d.bad, d.b = true, nil
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}
