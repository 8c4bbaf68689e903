// Package view compiles a view, one SELECT in DuckDB's dialect over a stream,
// into three statements that both halves execute:
//
//	partial  events -> cells    one row a group: keys k0.., mergeable cells c0..
//	merge    cells -> cells     fewer rows, in any order and any number of times
//	final    cells -> answer    merge, then the columns that the SELECT asks for
//
// Merging the partial rows of any split of the events, in any order, and then
// computing the final columns gives what the SELECT gives over all events at
// once. PlainSQL is that SELECT itself, the oracle.
//
// DuckDB parses (json_serialize_sql), binds (json_serialize_plan) and prints
// (json_deserialize_sql). There is no second SQL parser and no evaluator here.
// The package knows nothing of files, tables or positions in a log, beyond the
// two columns _duet_at and _duet_record of a row, which break ties.
//
// # Where to start
//
//	compiler.go   the locked DuckDB: parse, bind, print, describe
//	compile.go    the order of the steps: text, shape, names, bind, keys, cells
//	allow.txt     the allow-list; everything else is refused
//	shape.go      the clauses; GROUP BY
//	resolve.go    the expressions: allow-list, columns, aliases, aggregates
//	growth.go, cost.go, guard.go   the size and cost of expressions, which DuckDB does not limit
//	plancheck.go  the second check, over the bound plan; warnings about expressions that can raise
//	aggregate.go, variance.go   cells, merges and formulas
//	assemble.go   printed expressions, types, definition, oracle, self-check
//	view.go, final.go           the statements
//	condition.go, timekey.go    where, having, since, until
//
// # Cells
//
//	aggregate                      cells                             final
//	count                          BIGINT                            coalesce(c, 0)
//	count_if                       BIGINT                            c
//	sum of integers                DECIMAL(38,0)                     c as HUGEINT
//	sum of DECIMAL(p,s)            DECIMAL(38,s)                     c
//	sum of DOUBLE                  sum(x), sum(|x|), inexact         c
//	min, max, bool_and, bool_or    the argument's type               c
//	avg                            sum, count                        unscaled sum / (count * 10^s)
//	variance of up to 18 digits    count, sum, sums of squares       see variance.go
//	variance of DOUBLE             count, mean, M2, inexact          see variance.go
//	arg_*, first, last             STRUCT(v, p, r, a)                c.a
//
// A cell is never a HUGEINT, which DuckDB writes to Parquet as DOUBLE. Equal
// values have one representation: -0.0 and NaN are normalised before they
// become keys or extremes. An inexact cell has a magnitude, the size that its
// rounding is relative to; only the batch half's comparison reads it. Aggregates share cells: avg, sum and count of one
// column need two.
//
// # Not obvious
//
//   - DuckDB prints the DOUBLE 1e3 as the DECIMAL 1000.0. Constants are therefore
//     printed as casts, and every printed text is parsed again and compared.
//   - current_date, rowid and the name of the stream itself are column
//     references in the tree. Only declared columns and aliases resolve.
//   - GROUP BY ALL with TRY in a key makes DuckDB 1.5.5 fail inside its planner.
//   - GROUP BY ALL over constants alone is one group, even over no rows.
//   - A literal such as 1e400 makes a syntax tree that is not JSON.
//   - LIMIT, ORDER BY and other modifiers have no location in the tree; a
//     tokenizer finds the keyword. Parser errors count characters, everything
//     else counts bytes.
package view
