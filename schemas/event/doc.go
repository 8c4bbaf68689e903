// Package event turns log messages into typed rows. It holds the envelope, which
// is the body of a log message; the strict decoder from JSON text to Arrow; and the
// sequencer, which gives every event its one verdict (H1).
//
// Start with [Sequencer]. The package is pure: it reads no clock ("now" is the
// message's log timestamp), draws no random numbers, and no output depends on map
// order. It knows nothing about logs, files or databases.
//
// # Envelope, version 1
//
// An envelope holds events of one stream, in runs. A run holds the records that one
// producer sent together. Fixed-size integers are little-endian; uvarint is that of
// [encoding/binary]; text is a uvarint length and that many bytes.
//
//	offset  bytes
//	0       3      "DUE"
//	3       1      version, 1
//	4       8      xxh3-64 of every byte from offset 12 to the end
//	12      4      number of records, at most MaxRecords
//	16      4      number of runs
//	20             stream, text
//	               runs, each:
//	                 producer, text     "" = not deduplicated by number
//	                 first, uvarint     number of the run's first record
//	                 count, uvarint     records in the run, at least 1
//	                 session, text      "" = not accounted by session
//	                 file, 1 byte       bit 0: digests follow; bit 1: the place follows
//	                 digests: chunk, 16 bytes; one 8-byte digest a record
//	                 place: the file's name, text; one uvarint a record: the line
//	                   number, as the difference to that of the record before
//	               ends, 4 bytes a record: its end, counted from the first record's start
//	               records, concatenated, with nothing between or after them
//
// The runs' counts add up to the number of records, and the records have the order
// of the runs. An envelope is at most [MaxEnvelopeBytes] long.
//
// Worked example: stream "s", one run of producer "p" with first number 7,
// holding the two records {} and {"a":1}:
//
//	44 55 45 01                 "DUE", version 1
//	64 40 6a e3 6f 33 5c 3a     checksum
//	02 00 00 00  01 00 00 00    2 records, 1 run
//	01 73                       stream "s"
//	01 70  07  02  00  00       producer "p", first 7, count 2, no session, no file
//	02 00 00 00  09 00 00 00    record 0 ends at 2, record 1 at 9
//	7b 7d  7b 22 61 22 3a 31 7d {} {"a":1}
//
// # Values
//
// An event is rejected if a column's type cannot hold its value exactly:
//
//   - A number is read from its text, never through a double. It may be a string;
//     there it may also have a leading + or zeros, and no digit before or after the
//     point. 17850.0 and 1e3 are integers; 17850.5 is not. Decimals beyond a
//     DECIMAL's scale must be zeros. -0 is 0.
//   - DOUBLE and FLOAT hold the nearest value. Values that would become infinite,
//     NaN and Infinity are rejected.
//   - BOOLEAN is true, false, or these words in a string, in any case.
//   - VARCHAR is a string, kept as it is after unescaping. A number is rejected.
//   - UUID is 8-4-4-4-12 hexadecimal digits, stored in lower case.
//   - DATE, TIME and TIMESTAMP are ISO 8601 text, or match the column's format
//     (see [CheckFormat]). Digits of a fraction after the sixth must be zeros. A
//     DATE may be written as its midnight. Years are 0001 to 9999. A TIMESTAMP with
//     an offset becomes UTC; text without one is read in the stream's zone.
//     A number is rejected, because its unit is unknown.
//
// Zones follow RFC 5545: a local time that a clock change skipped is read with the
// offset before the change (01:30 becomes 02:30 in spring), and a local time that
// occurred twice means the first occurrence.
//
// An event is also rejected if a member occurs twice, or if the record has an
// unpaired surrogate, a NUL, bytes that are not UTF-8, nesting beyond [MaxDepth], or
// bytes after the object.
package event
