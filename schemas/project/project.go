// Package project reads and checks the user's folder of definitions: duet.yaml,
// streams/ and views/. Load reports every fault at once, each with file, line,
// column, reason and remedy.
package project

import "time"

// Project is a valid folder of definitions. The SQL of views is kept as text; the
// compiler (schemas/view) checks it.
type Project struct {
	Name    string
	Batch   Batch
	Limits  Limits
	Streams []*Stream // ordered by name
	Views   []*View   // ordered by name
	// Files holds the text of every file that was read, by its slash-separated path
	// in the folder, for control records and error excerpts.
	Files map[string]string
}

// Batch configures when the batch half runs and which generations it keeps.
type Batch struct {
	Incremental string // robfig/cron syntax, UTC; defaults to "@every 1m"; "" means never ("off" in the file)
	Full        string // defaults to "15 3 * * *"
	Keep        Keep
}

// Keep configures how many generations are kept: the latest ones, and the last one
// of each day and month.
type Keep struct {
	Last    int // defaults to 24, at least 1
	Daily   int // defaults to 35
	Monthly int // defaults to 13
}

// Limits bound the memory, disk and threads of the process.
type Limits struct {
	Memory       int64 // bytes for the store's DuckDB; defaults to 4 GB
	Log          int64 // bytes on disk for the log; defaults to 8 GB
	BatchThreads int   // threads of a recompute; defaults to 1
	BatchMemory  int64 // bytes for a recompute; defaults to 2 GB
}

// Stream is a named, typed, append-only sequence of facts.
type Stream struct {
	Name      string
	File      string   // "streams/orders.yaml"
	Columns   []Column // in the file's order
	EventTime string   // name of the column; "" when the stream declares none
	// Zone and DayStarts are set when event_time has a zone: then every event
	// also has EventTime+"_local" (TIMESTAMP) and "business_date" (DATE).
	Zone      *time.Location
	DayStarts time.Duration // after local midnight, below 24 h
	ID        []string      // columns that identify an event; nil if none
	IDWindow  int           // number of accepted events for which an id is remembered; defaults to 1,000,000
	// FutureBound is how far an event's time may be ahead of the log's timestamp
	// before the event is rejected. Defaults to 24 h; 0 means no bound ("off" in
	// the file).
	FutureBound time.Duration
	CSV         CSV
	// Lines holds the line of each top-level key in File, for messages.
	Lines map[string]int
}

// Column is one typed column of a stream.
type Column struct {
	Name    string
	Type    Type
	NotNull bool
	From    string // JSON member or dotted path, CSV header, Parquet column; equals Name when not given
	Format  string // strptime format of a DATE, TIME or TIMESTAMP text; "" means ISO 8601
	Line    int    // in the stream's file
}

// Kind is the SQL type without its parameters.
type Kind uint8

// The types of a column. Those of fewer than 64 bits are range-checked at decode.
const (
	Boolean Kind = iota + 1
	TinyInt
	SmallInt
	Integer
	BigInt
	Decimal // Type.Precision 1..38, Type.Scale <= Precision
	Float
	Double
	Varchar
	Date
	Time
	Timestamp // UTC, microseconds
	UUID
)

// Type is a SQL type of a column.
type Type struct {
	Kind      Kind
	Precision int // Decimal only
	Scale     int // Decimal only
}

// CSV is the dialect of a stream's CSV files.
type CSV struct {
	Delimiter string   // one character; defaults to ","
	Decimal   string   // "." (default) or ","
	Encoding  string   // "utf-8" (default), "latin-1" or "windows-1252"
	Nulls     []string // texts that mean NULL; defaults to [""]
}

// View is one SELECT over a stream. Its name is that of its file.
type View struct {
	Name        string
	File        string // "views/revenue.sql"
	SQL         string
	Description string
	Units       map[string]string // by column name
	MaxGroups   int               // 0 means no limit of its own
}
