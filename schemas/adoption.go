package schemas

// An Adoption is a log that was begun, by an explicit command, in place of one
// that was lost. It gave up what the lost log held behind Continues: answers can
// no longer count it, and their proofs say so.
type Adoption struct {
	Incarnation // the log that was begun
	// Continues is the last position of the lost log that still counts: the end of
	// the archive. It is 0 if nothing was archived.
	Continues Position `json:"continues,omitempty"`
	// GivenUp is the last position that the lost log is known to have held, or 0 if
	// nothing of it was left. It may have held more.
	GivenUp Position `json:"given_up,omitempty"`
}
