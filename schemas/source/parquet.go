package source

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"

	"duet/schemas/event"
	"duet/schemas/project"
)

const (
	// parquetRows is the number of rows in memory at a time.
	parquetRows = 1024
	// maxPage is the maximum size of a page of a Parquet file in memory.
	maxPage = 256 << 20
)

// parquetFile reads the rows of a Parquet file as JSON. It reads the columns on the
// caller's goroutine, because the library's row reader starts goroutines, in which
// a panic over a damaged file would end the process.
type parquetFile struct {
	file   *file.Reader
	chain  *chain
	leaves []*leaf
	group  int   // index of the current row group
	left   int64 // rows left in it
	number int   // number of the last row read, from 1
	json   []byte
}

// openParquet reads the footer and matches the columns. A file may hold anything,
// so it turns the library's panics into errors.
func (r *Reader) openParquet(in io.Reader, s *project.Stream, chain *chain) error {
	seeker, ok := in.(parquet.ReaderAtSeeker)
	if ok {
		_, err := seeker.Seek(0, io.SeekCurrent)
		ok = err == nil // a pipe has the methods but cannot seek
	}
	if !ok {
		return r.fault(0, "is Parquet, which cannot be read from a pipe", "name the file: duet ingest --stream "+s.Name+" FILE.parquet")
	}
	p := &parquetFile{chain: chain, group: -1}
	r.read.Store(0) // count what the Parquet reader reads
	err := guarded(func() (err error) {
		props := parquet.NewReaderProperties(memory.NewGoAllocator())
		props.BufferedStreamEnabled = true // pages, not whole columns, in memory
		props.MaxCompressedPageSize, props.MaxUncompressedPageSize = maxPage, maxPage
		p.file, err = file.NewParquetReader(&readerAt{seeker, &r.read}, file.WithReadProps(props))
		return err
	})
	if err != nil {
		return r.fault(0, "is Parquet that cannot be read: "+err.Error(), "write the file again, with zstd or snappy and without encryption")
	}
	return guarded(func() error { return r.bindParquet(p, s) })
}

// bindParquet maps each column with one value a row to a member. A column inside a
// struct has its dotted path as its name. Lists are omitted, with a note.
func (r *Reader) bindParquet(p *parquetFile, s *project.Stream) error {
	declared := map[string]bool{}
	text := map[string]bool{}
	for _, c := range s.Columns {
		declared[from(c)] = true
		text[from(c)] = text[from(c)] || c.Type.Kind == project.Varchar
	}
	schema := p.file.MetaData().Schema
	var seen []string
	lists := map[string]bool{}
	for i := range schema.NumColumns() {
		column := schema.Column(i)
		if column.MaxRepetitionLevel() > 0 {
			root := schema.ColumnRoot(i).Name()
			if !lists[root] {
				r.notes = append(r.notes, fmt.Sprintf("the file's column %q holds lists and is left out", root))
			}
			lists[root] = true
			continue
		}
		name := strings.Join(column.ColumnPath(), ".")
		seen = append(seen, name)
		p.leaves = append(p.leaves, &leaf{column: column, index: i, quoted: text[name], defs: make([]int16, parquetRows)})
	}
	for name := range lists {
		if declared[name] {
			return r.fault(0, fmt.Sprintf("the column %q holds lists", name), "write the file with one row for each element")
		}
	}
	if len(seen) == 0 {
		return r.fault(0, "has only columns that hold lists", "write the file with one value for each column and row")
	}
	if err := r.bind(s, seen, "the file"); err != nil {
		return err
	}
	columns, err := r.members(s, seen)
	if err != nil {
		return err
	}
	for i, c := range columns {
		p.leaves[i].key = c.key
	}
	r.src = p
	return nil
}

// guarded calls f and turns a panic into an error.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged: %v", p)
		}
	}()
	return f()
}

func (p *parquetFile) line() int { return p.number }

func (p *parquetFile) next(r *Record) error {
	return guarded(func() error {
		for p.left == 0 {
			if err := p.nextGroup(); err != nil {
				return err
			}
		}
		if err := p.object(); err != nil {
			return err
		}
		p.left--
		p.number++
		p.chain.add(p.json)
		p.chain.stamp(r)
		r.JSON, r.Line = p.json, p.number
		return nil
	})
}

func (p *parquetFile) nextGroup() error {
	p.group++
	if p.group >= p.file.NumRowGroups() {
		if want := p.file.NumRows(); int64(p.number) != want {
			return fmt.Errorf("damaged: it has %d rows, but its footer counts %d", p.number, want)
		}
		return io.EOF
	}
	g := p.file.RowGroup(p.group)
	if g.NumRows() < 0 {
		return fmt.Errorf("damaged: row group %d has %d rows", p.group, g.NumRows())
	}
	p.left = g.NumRows()
	for _, l := range p.leaves {
		reader, err := g.Column(l.index)
		if err != nil {
			return err
		}
		if err := l.open(reader); err != nil {
			return err
		}
	}
	return nil
}

// object writes the next row into p.json. If a value has no text form, it writes a
// bad record, which the decoder rejects.
func (p *parquetFile) object() error {
	dst := p.json[:0]
	reason := ""
	for _, l := range p.leaves {
		if l.row == l.rows {
			if err := l.fill(); err != nil {
				return fmt.Errorf("column %s: %w", l.column.Path(), err)
			}
		}
		dst = append(dst, l.key...)
		var err error
		if dst, err = l.appendNext(dst); err != nil && reason == "" {
			reason = fmt.Sprintf("%s: %v", l.column.Path(), err)
		}
	}
	if reason != "" {
		p.json = event.AppendBad(p.json[:0], reason, fmt.Appendf(nil, "row %d", p.number+1))
		return nil
	}
	dst[0] = '{'
	p.json = append(dst, '}')
	return nil
}

var errShortColumn = errors.New("damaged: it has fewer rows than its row group")

// readerAt counts the bytes read.
type readerAt struct {
	parquet.ReaderAtSeeker
	read *atomic.Int64
}

func (r *readerAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAtSeeker.ReadAt(p, off)
	r.read.Add(int64(n))
	return n, err
}
