// Package eventlog is the durable, totally ordered log of a project's events and
// control records: one JetStream stream, in an embedded server that accepts no
// connections, and the [Appender] that writes events to it by group commit.
//
// Start reading at [Open] and [Log], then [Reader] and [Appender]. publish.go says
// how messages become durable in order, repair.go what happens after a failed
// write, blockcheck.go which damage is found before the server starts. The
// package must not know views, halves or batches: an envelope is bytes to it.
//
// # The stream
//
// The JetStream stream is called DUET. Each event stream is a subject of it, so
// that one control record cuts them all:
//
//	duet.e.<stream>   an envelope of events; only [Log.Append] and [Appender] publish here
//	duet.c.<kind>     a control record; only [Log.Control] publishes here
//	duet.c.begin      always the first message: {"id", "ordinal", "created"}
//
// Sequences are contiguous, because each publish states the sequence that it must
// follow. So a missing message was lost, and reading past it is a *[GapError],
// never a shorter answer (H6).
//
// # A message
//
//	offset size
//	     0    4  "DUL1": the format and its version
//	     4   16  sum: xxh3-128, big endian, of all that follows, seeded with the
//	             xxh3-64 of the incarnation's id
//	    20    8  sequence, little endian
//	    28    8  time of storing, Unix ns, little endian
//	    36    1  length of the subject
//	    37    n  subject
//	  37+n       body: an envelope (package event) or a control record's bytes
//
//	44554c31 | sum | 0200000000000000 | 00d83f7a51c2aa18 | 0d | duet.e.orders | body
//
// The server's own checksum does not cover the lengths of its records. The sum
// does: reading a message that was changed, or that belongs to another log or to
// another sequence, is a *[CorruptError]. Readers do not need the server's
// headers.
//
// # Files
//
// Below Config.Dir; the JSON files are sealed (package durable), here without
// the seal:
//
//	jetstream/         the server's store; never written by us
//	incarnation.json   {"format":1,"project":"retail","id":"...","ordinal":1,
//	                    "created":"2026-05-01T10:00:00.123456789Z"}
//	                   and for a log that replaced a lost one:
//	                   "continues":{"after":"1:500","given_up":"1:730"}
//	highwater.json     {"format":1,"incarnation":"...","ordinal":1,
//	                    "sequence":20473,"sum":"32 hex digits"}
//
// incarnation.json is the identity of the log, and highwater.json names a message
// that it must still hold. A log that was recreated, emptied, or restored from an
// older copy fails one of the two and is refused with a *[RefusedError] (H6). The
// high-water mark is renewed each second while the log grows, by [Log.MarkHigh],
// and by [Log.Close]. A block file that was cut short behind the mark looks like
// one that a kill left, and cannot be distinguished from it.
//
// # What is promised
//
//   - A message whose publish returned nil is on this disk (H8): its bytes and,
//     if it began a new block file, the file's name in its folder.
//   - Records of one producer that one [Appender] wrote are in the log in the
//     order of their numbers, without a hole.
//   - A [Reader] returns each message once, in order, and only durable ones.
//   - Events are refused at 90 % of the byte limit. The rest is reserved for
//     control records, because a log that cannot store a cut marker could never
//     be trimmed. A trim never drops the last message. The caller decides what
//     may be dropped (H5).
package eventlog
