// Package event turns log messages into typed rows: the envelope that a
// message holds, the strict decoder from JSON text to Arrow, and the sequencer
// that gives every event its one verdict (H1).
//
// Start with [Sequencer]. Everything here is pure: no clock ("now" is the
// message's log timestamp), no randomness, no map order in an output. It knows
// nothing of logs, files or databases.
//
// # Envelope, version 1
//
// A log message is one envelope: events of one stream, in runs. A run is what
// one producer sent at once. Integers of fixed size are little-endian; uvarint
// is [encoding/binary]'s; text is a uvarint length and that many bytes.
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
//	                 lines, 1 byte      0 or 1
//	                 if lines is 1: chunk, 16 bytes; one 8-byte digest a record
//	               ends, 4 bytes a record: where it ends, from the first record's start
//	               records, one after the other, nothing between or after them
//
// The runs' counts add up to the number of records. Records are in the order
// of the runs. An envelope is at most [MaxEnvelopeBytes] long.
//
// Worked example: stream "s", one run of producer "p" with first number 7,
// holding the two records {} and {"a":1}:
//
//	44 55 45 01                 "DUE", version 1
//	64 40 6a e3 6f 33 5c 3a     checksum
//	02 00 00 00  01 00 00 00    2 records, 1 run
//	01 73                       stream "s"
//	01 70  07  02  00  00       producer "p", first 7, count 2, no session, no lines
//	02 00 00 00  09 00 00 00    record 0 ends at 2, record 1 at 9
//	7b 7d  7b 22 61 22 3a 31 7d {} {"a":1}
//
// # What a value must be
//
// A value that its column's type cannot hold exactly rejects the event:
//
//   - a number is taken from its text, never through a double. It may stand in
//     a string, where it may also have a leading + or zeros and no digit before
//     or after the point. 17850.0 and 1e3 are integers; 17850.5 is not. More
//     decimals than a DECIMAL's scale must be zeros. -0 is 0;
//   - DOUBLE and FLOAT take the nearest value, for that is what they mean;
//     what would become infinite is refused, and so are NaN and Infinity;
//   - BOOLEAN is true, false, or these words in a string, in any case;
//   - VARCHAR is a string, kept as it is after unescaping; a number is refused;
//   - UUID is 8-4-4-4-12 hexadecimal digits; it is kept in lower case;
//   - DATE, TIME and TIMESTAMP are ISO 8601 text, or match the column's format
//     (see [CheckFormat]). A fraction has at most 6 digits that are not zero. A DATE
//     may be written as its midnight. A year is 0001 to 9999. A TIMESTAMP with
//     an offset becomes UTC; text without one is read in the stream's zone.
//     A number is refused: nobody can tell what it counts.
//
// Local time and zones: a wall clock that a change of the clocks skipped is
// read with the offset before the change (01:30 becomes 02:30 in spring); one
// that came twice means the first. This is RFC 5545's rule.
//
// A member that is there twice, an unpaired surrogate, a NUL, bytes that are not
// UTF-8, nesting beyond [MaxDepth], or bytes after the object reject the event.
package event
