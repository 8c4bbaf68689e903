//go:build !duckdb_arrow

package duck

// Duet loads events through DuckDB's Arrow interface, which the driver builds
// only under a tag. Without it the build ends here, with the sentence below.
const needsTag int = "Duet must be built with the tag duckdb_arrow: run make build, or go build -tags duckdb_arrow ./cmd/duet"
