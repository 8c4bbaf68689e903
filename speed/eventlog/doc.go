// Package eventlog is the durable, totally ordered record of a project's
// events and control records: one JetStream stream in an embedded server that
// nothing else can reach, and the door that brings events into it.
//
// Start reading at [Open] and [Log]; then [Reader] and [Appender]. The package
// knows nothing of views, halves or batches: an envelope is bytes to it.
//
// # The stream
//
// The stream is called DUET. An event stream is a subject of it, so that one
// control record cuts everything:
//
//	duet.e.<stream>   an envelope of events; only [Log.Append] and [Appender] publish here
//	duet.c.<kind>     a control record; only [Log.Control] publishes here
//	duet.c.begin      always the first message: {"id", "ordinal", "created"}
//
// Sequences are contiguous: each publish states the sequence that it expects
// to follow, so a message that is missing was lost, and reading past it is a
// *[GapError], never a shorter answer (H6).
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
// The server's own checksum does not cover the lengths of its records; with
// the sum, a message that was changed, or that belongs to another log, or to
// another place of this one, is a *[CorruptError]. What the server says of a
// message, in headers, is not needed to read it.
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
//	                   "continues":{"ordinal":1,"sequence":500}
//	highwater.json     {"format":1,"incarnation":"...","ordinal":1,
//	                    "sequence":20473,"sum":"32 hex digits"}
//
// incarnation.json says which log this is, highwater.json names a message that
// it must still hold. A log that was recreated, emptied, or put back from an
// older copy fails one of the two and is refused with a *[RefusedError] (H6).
// The high-water mark is renewed each second while the log grows, on
// [Log.MarkHigh], and on [Log.Close]. What a kill and damage to the very end of
// the newest file take away together, from behind the mark, is not seen.
//
// # What is promised
//
//   - A publish that returned nil is on this disk (H8): the message's bytes
//     and, when it opened a new block, the block's name in its folder.
//   - Messages of one Door that belong to one producer are in the log in the
//     order of their numbers, without a hole.
//   - A [Reader] delivers each message once, in order, and only such as are
//     known to be durable.
//   - Events are refused at 90 % of the byte limit; the rest is for control
//     records, because a full log that cannot take a marker could never be
//     trimmed. A trim never takes the last message (H5: what may go is the
//     caller's knowledge).
package eventlog
