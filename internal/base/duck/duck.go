// Package duck opens every DuckDB instance of the process, always in the same way.
//
// An expression must mean the same in the live half, in the batch half and in the
// compiler, so only this package sets what can change its meaning: time zone,
// integer division, collation, null order and so on. [SettingsText] is part of every
// view version: when it changes, views are recomputed.
//
// The package knows nothing about events, views or Duet's files.
package duck

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"strings"

	duckdb "github.com/duckdb/duckdb-go/v2"
)

// meaning lists the settings that can change the result of a SELECT, in the order in
// which they are applied.
var meaning = []string{
	"SET TimeZone='UTC'",
	"SET Calendar='gregorian'",
	"SET default_collation=''",
	"SET default_null_order='nulls_last'",
	"SET default_order='asc'",
	"SET integer_division=false",
	"SET ieee_floating_point_ops=true",
	"SET old_implicit_casting=false",
	"SET preserve_insertion_order=true",
}

// EngineVersion is the version of the linked DuckDB library, as SELECT version()
// returns it. A test compares the two.
const EngineVersion = "v1.5.5"

// SettingsText returns the part of a view version that covers the engine: DuckDB's
// version and every setting that can change a result.
func SettingsText() string {
	return "duckdb " + EngineVersion + "\n" + strings.Join(meaning, "\n")
}

// Config holds the limits of an instance. The zero value is an in-memory database
// with one thread and DuckDB's default memory limit.
type Config struct {
	Path        string // database file; empty means in memory
	Threads     int    // defaults to 1
	MemoryLimit string // in DuckDB's syntax, such as "2GB"; empty means DuckDB's default
	TempDir     string // directory to spill to; empty disables spilling
	Locked      bool   // forbid file access and SET, for SQL that a user wrote
}

// DB is one DuckDB instance. Its connections share data and settings.
type DB struct {
	*sql.DB
	connector *duckdb.Connector
}

// Open starts an instance with the fixed settings and cfg's limits. It fails if the
// environment would replace DuckDB's own zone data, on which AT TIME ZONE depends: the
// engine's version stands for it.
func Open(cfg Config) (*DB, error) {
	if dir := os.Getenv("ICU_TIMEZONE_FILES_DIR"); dir != "" {
		return nil, fmt.Errorf("duckdb: open: ICU_TIMEZONE_FILES_DIR is %s, which would replace DuckDB's zone data: unset it", dir)
	}
	threads := max(cfg.Threads, 1)
	dsn := cfg.Path + "?autoinstall_known_extensions=false&autoload_known_extensions=false&threads=" + strconv.Itoa(threads)
	connector, err := duckdb.NewConnector(dsn, nil)
	if err != nil {
		return nil, fmt.Errorf("duckdb: open: %w", err)
	}
	db := &DB{DB: sql.OpenDB(connector), connector: connector}
	if err := db.configure(cfg); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// configure applies the settings, which are global to the instance.
func (db *DB) configure(cfg Config) error {
	var stmts []string
	for _, s := range meaning {
		stmts = append(stmts, strings.Replace(s, "SET ", "SET GLOBAL ", 1))
	}
	if cfg.MemoryLimit != "" {
		stmts = append(stmts, "SET GLOBAL memory_limit="+Literal(cfg.MemoryLimit))
	}
	// Without a directory of its own an in-memory database spills into the
	// working directory.
	stmts = append(stmts, "SET GLOBAL temp_directory="+Literal(cfg.TempDir))
	if cfg.Locked {
		stmts = append(stmts, "SET GLOBAL enable_external_access=false", "SET GLOBAL lock_configuration=true")
	}
	for _, s := range stmts {
		if _, err := db.Exec(s); err != nil {
			return fmt.Errorf("duckdb: %s: %w", s, err)
		}
	}
	return nil
}

// Close closes the instance. All its connections must be closed before.
func (db *DB) Close() error {
	err := db.DB.Close()
	if cerr := db.connector.Close(); err == nil {
		err = cerr
	}
	return err
}

// Conn returns one connection, which owns its transaction, prepared statements and
// Arrow loads. It is not safe for concurrent use.
func (db *DB) Conn(ctx context.Context) (*Conn, error) {
	c, err := db.DB.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("duckdb: connect: %w", err)
	}
	return &Conn{Conn: c}, nil
}

// Conn is one connection to a [DB].
type Conn struct {
	*sql.Conn
}

// Ident quotes a name for use in SQL text.
func Ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// Literal quotes a string for use in SQL text.
func Literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Literals quotes strings and joins them as a SQL list: ['a', 'b'].
func Literals(ss []string) string {
	q := make([]string, len(ss))
	for i, s := range ss {
		q[i] = Literal(s)
	}
	return "[" + strings.Join(q, ", ") + "]"
}

// Parquet returns a relation of the rows of Parquet files. Only what a file holds
// counts: a folder called k=v on its path adds no column.
func Parquet(paths ...string) string {
	return "read_parquet(" + Literals(paths) + ", hive_partitioning = false)"
}
