// Package search looks for counter-examples: it runs random actions on a node
// with a random project and random events, and compares the answers with plain
// DuckDB over the events that a model of the sequencer accepts. It contains only
// tests.
//
// A seed determines a project (streams of every type, views of everything that
// merges) and a list of actions: appends (ties, NULLs, extremes, late, future,
// malformed and resent events), full and incremental runs, runs that fail at a
// named step, rollbacks, damaged files, pauses, restarts, edits of definitions. Readers query
// continuously and keep their answers. After a few actions, and at the end,
//
//   - every view's answer, whole, rolled up, filtered and as of a generation,
//     equals the SELECT by plain DuckDB over the model's events (H3);
//   - the readers' answers at (G, L) equal the SELECT over the events at or
//     before L, agree with each other, and never go back (H2, H4, H9);
//   - the server's own recomputation and reconciliation find no difference;
//   - the accounts equal the model's (H1).
//
// A stored file that is damaged or deleted is repaired or refused by name, and an
// answer is right or an error (H6); a command that fails leaves a node that serves
// (H12).
//
// A failing seed prints the command that runs it again, and a shortened list of
// actions that still fails:
//
//	DUET_SEARCH_SEED=42 go test -tags duckdb_arrow ./internal/test/search/
//	DUET_SEARCH_SEEDS=100 go test -tags duckdb_arrow ./internal/test/search/ -timeout 2h
//
// The package knows the node by its public interface only: gRPC calls, New, Start
// and Stop. internal/test/torture kills processes. Start reading at
// search_test.go; the model is in events_test.go and actions_test.go.
package search
