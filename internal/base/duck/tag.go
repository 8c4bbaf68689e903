//go:build !duckdb_arrow

package duck

// Duet loads events through DuckDB's Arrow interface, which the driver builds only
// with a build tag. Without the tag, compilation fails with the text below.
const needsTag int = "Duet must be built with the tag duckdb_arrow: run make build, or go build -tags duckdb_arrow ./cmd/duet"
