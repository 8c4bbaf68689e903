package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	prettytext "github.com/jedib0t/go-pretty/v6/text"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"duet/schemas"
	"duet/schemas/duetv1"
)

// format is how rows are printed: formatTable, formatCSV or formatJSON.
type format string

const (
	formatTable format = "table"
	formatCSV   format = "csv"
	formatJSON  format = "json"
)

// print writes rows as a table for people, as CSV with a header, or as a JSON
// array with one object for each row.
func (f format) print(t *terminal, columns []*duetv1.Column, rows []*duetv1.Row) error {
	switch f {
	case formatCSV:
		return printCSV(t.out, columns, rows)
	case formatJSON:
		return printJSON(t.out, columns, rows)
	default:
		return printTable(t, columns, rows)
	}
}

// printCSV writes NULL as an empty field and the empty string as "", as
// PostgreSQL and DuckDB do. encoding/csv cannot tell them apart.
func printCSV(w io.Writer, columns []*duetv1.Column, rows []*duetv1.Row) error {
	out := bufio.NewWriter(w)
	record := make([]string, len(columns))
	for i, column := range columns {
		record[i] = csvField(column.GetName())
	}
	fmt.Fprintln(out, strings.Join(record, ","))
	for _, row := range rows {
		for i, value := range row.GetValues() {
			record[i] = ""
			if value.GetKind() != nil {
				record[i] = csvField(text(value))
			}
		}
		fmt.Fprintln(out, strings.Join(record, ","))
	}
	return out.Flush() // returns the first write's error
}

// csvField quotes s where RFC 4180 asks for it, and the empty string.
func csvField(s string) string {
	if s != "" && !strings.ContainsAny(s, ",\"\r\n") && s == strings.TrimSpace(s) {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

func printJSON(w io.Writer, columns []*duetv1.Column, rows []*duetv1.Row) error {
	out := bufio.NewWriter(w)
	line := []byte("[")
	for n, row := range rows {
		if n > 0 {
			line = append(line, ',')
		}
		line = append(line, "\n  {"...)
		for i, value := range row.GetValues() {
			if i > 0 {
				line = append(line, ',')
			}
			line = append(appendQuoted(line, columns[i].GetName()), ':')
			line = appendJSON(line, value)
		}
		line = append(line, '}')
		if _, err := out.Write(line); err != nil {
			return err
		}
		line = line[:0]
	}
	if len(rows) > 0 {
		line = append(line, '\n')
	}
	if _, err := out.Write(append(line, "]\n"...)); err != nil {
		return err
	}
	return out.Flush()
}

func printTable(t *terminal, columns []*duetv1.Column, rows []*duetv1.Row) error {
	header := make([]string, len(columns))
	right := make([]bool, len(columns))
	grid := make([][]string, len(rows))
	for n := range rows {
		grid[n] = make([]string, len(columns))
	}
	for i, column := range columns {
		header[i] = column.GetName()
		right[i] = numeric(column.GetType())
		if unit := column.GetUnit(); unit != "" {
			header[i] += " (" + unit + ")"
		}
		values := make([]*duetv1.Value, len(rows))
		for n, row := range rows {
			if i < len(row.GetValues()) {
				values[n] = row.GetValues()[i]
			}
		}
		for n, cell := range columnTexts(column, values) {
			grid[n][i] = cell
		}
	}
	return printGrid(t, header, right, grid)
}

// printGrid writes texts as a table; right tells which columns are numbers, nil
// means none. If the table is wider than the terminal, printGrid writes a block
// of lines for each row instead.
func printGrid(t *terminal, header []string, right []bool, rows [][]string) error {
	lines := gridLines(header, right, rows)
	if t.width > 0 && prettytext.StringWidthWithoutEscSequences(lines[1]) > t.width {
		lines = blockLines(t.width, header, rows)
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(t.out, line); err != nil {
			return err
		}
	}
	return nil
}

// gridLines returns a table: its header, a line that is as wide as the widest
// row, and one line for each row.
func gridLines(header []string, right []bool, rows [][]string) []string {
	grid := table.NewWriter()
	grid.SetStyle(table.StyleLight)
	style := grid.Style()
	style.Format.Header = prettytext.FormatDefault
	style.Options = table.Options{SeparateHeader: true}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	configs := make([]table.ColumnConfig, len(header))
	for i := range header {
		configs[i].Number = i + 1
		if i < len(right) && right[i] {
			configs[i].Align, configs[i].AlignHeader = prettytext.AlignRight, prettytext.AlignRight
		}
	}
	grid.SetColumnConfigs(configs)
	grid.AppendHeader(cells(header))
	for _, row := range rows {
		grid.AppendRow(cells(row))
	}
	lines := strings.Split(grid.Render(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	if len(lines) > 1 { // drop the last column's padding
		lines[1] = strings.TrimSuffix(lines[1], "──")
	}
	return lines
}

// blockLines returns a numbered block of lines for each row, one line for each
// column.
func blockLines(width int, header []string, rows [][]string) []string {
	longest := 0
	for _, name := range header {
		longest = max(longest, prettytext.StringWidthWithoutEscSequences(printable(name)))
	}
	var lines []string
	for n, row := range rows {
		lines = append(lines, prettytext.Pad(fmt.Sprintf("── %d ", n+1), width, '─'))
		for i, cell := range row {
			lines = append(lines, strings.TrimRight(prettytext.Pad(printable(header[i]), longest, ' ')+"  "+printable(cell), " "))
		}
	}
	return lines
}

// cells returns texts that are safe to print on a terminal.
func cells(texts []string) table.Row {
	row := make(table.Row, len(texts))
	for i, s := range texts {
		row[i] = printable(s)
	}
	return row
}

// printable replaces control characters. Stored text may come from anyone, and a
// terminal executes control sequences.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '\ufffd'
		}
		return r
	}, s)
}

// printMessage writes a message as JSON with the protos' field names. It indents
// again, because protojson varies its whitespace on purpose.
func printMessage(w io.Writer, m proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, out.String())
	return err
}

// positionText returns positions as ordinal:sequence, lane by lane.
func positionText(positions []*duetv1.Position) string {
	if len(positions) == 0 {
		return "the start"
	}
	parts := make([]string, len(positions))
	for i, p := range positions {
		parts[i] = schemas.NewPosition(p.GetOrdinal(), p.GetSequence()).String()
	}
	return strings.Join(parts, ",")
}

// proofLine returns a proof as one line for people.
func proofLine(p *duetv1.Proof) string {
	var b strings.Builder
	if p.GetGeneration() == 0 {
		fmt.Fprintf(&b, "no generation yet; live through %s", positionText(p.GetLiveThrough()))
	} else {
		fmt.Fprintf(&b, "generation %d to %s, live through %s", p.GetGeneration(), positionText(p.GetCut()), positionText(p.GetLiveThrough()))
	}
	if newest := p.GetNewestEventTime(); newest != nil {
		fmt.Fprintf(&b, "; newest event %s", newest.AsTime().Format("2006-01-02 15:04:05"))
	}
	if d := p.GetDefinition(); d != "" {
		fmt.Fprintf(&b, "; definition %s", d[:min(len(d), 12)])
	}
	if inexact := p.GetInexactColumns(); len(inexact) > 0 {
		fmt.Fprintf(&b, "; inexact: %s", strings.Join(inexact, ", "))
	} else {
		b.WriteString("; exact")
	}
	if lost := lossesText(p.GetAdoptions()); lost != "" {
		fmt.Fprintf(&b, "; a log was lost: not counted is %s", lost)
	}
	return b.String()
}

// count returns 1234567 as 1,234,567.
func count(n int64) string { return grouped(strconv.FormatInt(n, 10)) }

// size returns a number of bytes with a decimal unit.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 999.5 {
		value /= 1000
		unit++
	}
	if value < 10 {
		return fmt.Sprintf("%.1f %cB", value, " kMGTPE"[unit])
	}
	return fmt.Sprintf("%.0f %cB", value, " kMGTPE"[unit])
}
