// Package store is the in-memory DuckDB database that both halves meet in:
// batch cells of one generation, live partials by segment, the tail of
// accepted rows that no archive file covers yet, and the positions that say
// what all of it adds up to. An answer is one read transaction, a switch of
// generations one write transaction; DuckDB's MVCC gives every reader H2, H3
// and H4.
//
// Start with [Store]: Open, then Rebuild and Switch (recovery), then Apply and
// Cut as the log is read, and Read for answers. To the archive a store is the
// tail ([archive.Tail]); to the batch half it stages, rebuilds and switches
// generations. The package knows nothing of the log, of manifests, of gRPC, or
// of how a generation is computed.
//
// # Concurrency
//
// One goroutine, the writer, owns one connection and makes every change that a
// reader can see; callers send it operations and wait. Work that takes long
// (staging a generation, exporting, merging partials, folding archive files)
// runs on connections of its own into tables that no layout names, and only
// its last step, a new layout, is an operation of the writer. Readers take a
// connection from a pool for one bounded read transaction each.
//
// # Tables
//
//	state                 one row a commit: n, generation, cut, through, layout
//	b_<view>_<id>         cells of the generation, one row a group
//	l_<view>_<id>         live partials; a segment of a view has one or more
//	t_<stream>_<id>       accepted rows of one block
//	r_<id>, f_<id>, n_<id>  rejects, file lines and counts of runs of one block
//	e_<view>, es_<set>    always empty: what a relation without tables reads
//
// Ids come from one counter. Rows of state are appended and never updated, and
// the table is replaced when it has grown, because an update under an open
// reader costs 262 kB. Tables are dropped, not emptied, because only DROP gives
// memory back at once.
//
// # Moments and layouts
//
// Each commit is a moment: an immutable Go struct, found by the number n of its
// state row, with the positions and the layout. A layout says which tables
// make up each view and stream. A moment is registered before its commit and
// deleted when it is no longer the current one and no reader began before its
// successor. A reader's first statement fetches the highest n, which also fixes
// its snapshot; so the tables that its layout names are the ones it sees.
//
// # Suspension
//
// An evaluation error (overflow, a failed CAST) while a batch is folded belongs
// to the view: the batch is rolled back, the event found by bisection, the view
// suspended and the batch applied again without it. Any other error (memory,
// disk, interrupt) is returned with nothing applied and nothing suspended. A
// suspended view is folded again from the next segment on, so that a generation
// that holds it, with a cut behind the failed event, brings it back.
package store
