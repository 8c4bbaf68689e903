package event

// Version is the version of the envelope, the decoder, the sequencer and the rules for
// zones: everything in this package that decides a verdict or a decoded value. Raise
// it with every change of one; a test compares them with a golden corpus. The data of
// zones has a version of its own (project).
//
// The log's definitions record names the version, because the events that are not in
// the archive yet are decoded again at each start (H11).
const Version = 1
