// Package search looks for counter-examples: random projects, random events and
// random actions against one running node, compared with plain DuckDB over the
// events that a model of the sequencer accepts. It is all tests.
//
// A seed draws a project (streams of every type, views out of everything that
// merges) and a list of actions: appending (ties, NULLs, extremes, late, future,
// malformed, sent again), full and incremental runs, runs that fail at a named
// step, rollbacks, pauses, restarts, edits of definitions. Readers ask all the
// time and remember what they were told. After a few actions, and at the end,
//
//   - every view's answer, whole, rolled up, filtered and as of a generation,
//     equals the SELECT by plain DuckDB over the model's events (H3);
//   - what readers were told at (G, L) equals the SELECT over the events at or
//     before L, is the same for everyone, and never goes back (H2, H4, H9);
//   - the server's own recomputation and reconciliation find nothing;
//   - the account is the model's (H1).
//
// A seed that fails prints one command that runs it again, and a list of actions
// from which those that it can do without are dropped:
//
//	DUET_SEARCH_SEED=42 go test -tags duckdb_arrow ./internal/test/search/
//	DUET_SEARCH_SEEDS=100 go test -tags duckdb_arrow ./internal/test/search/ -timeout 2h
//
// The package must know the node by its public interface alone: a client's
// calls, New, Start and Stop. Processes are killed elsewhere (internal/test/torture).
// Start reading at search_test.go; the model is in events_test.go and model_test.go.
package search
