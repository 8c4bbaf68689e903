package scaffold

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"duet/schemas/project"
	"duet/schemas/source"
)

// files returns the project's files.
func (s *sample) files() map[string]string {
	files := map[string]string{
		"duet.yaml":                     s.configText(),
		"streams/" + s.stream + ".yaml": s.streamText(),
		"README.md":                     s.readme(),
		"schemas/duet.schema.json":      "",
		"schemas/stream.schema.json":    "",
		"schemas/view.schema.json":      "",
	}
	for name, text := range project.Schemas() {
		files["schemas/"+name] = text
	}
	maps.Copy(files, s.views())
	return files
}

func (s *sample) configText() string {
	return `# yaml-language-server: $schema=schemas/duet.schema.json
# Every key is optional; comments show the defaults.
version: 1
name: ` + s.project + `

# batch:
#   incremental: "@every 1m"    # cron syntax, UTC; off for never
#   full: "15 3 * * *"          # recomputes everything and checks it against the live half
#   keep: {last: 24, daily: 35, monthly: 13}

# limits: {memory: 4GB, log: 8GB, batch_threads: 1, batch_memory: 2GB}
`
}

func (s *sample) readme() string {
	var names []string
	for file := range s.views() {
		if name, ok := strings.CutSuffix(strings.TrimPrefix(file, "views/"), ".sql"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return fmt.Sprintf(`# %s

Written from %s by duet init. streams/ declares the events, views/ what is computed from them.

    duet check --project .
    duet up --project . --data ./duet-data &
    duet ingest --stream %s %s
    duet query %s
`, s.project, s.file, s.stream, s.file, names[0])
}

// streamText writes streams/NAME.yaml.
func (s *sample) streamText() string {
	var b strings.Builder
	seen := "all " + thousands(s.rows)
	if !s.whole {
		seen = "the first " + thousands(s.rows)
	}
	fmt.Fprintf(&b, "# yaml-language-server: $schema=../schemas/stream.schema.json\n# From %s lines of %s.\n\n", seen, s.file)
	s.timeText(&b)
	s.idText(&b)
	b.WriteString("\ncolumns: # TYPE [NOT NULL]; from: the name in the file\n")
	width := 0
	for _, c := range s.types {
		width = max(width, len(yamlKey(c.Name)))
	}
	for i, c := range s.types {
		fmt.Fprintf(&b, "  %s:%s %s # %s\n", yamlKey(c.Name), strings.Repeat(" ", width-len(yamlKey(c.Name))), columnText(c), s.evidence(i))
	}
	s.csvText(&b)
	return b.String()
}

func (s *sample) timeText(b *strings.Builder) {
	b.WriteString("# When an event happened. With a zone, times without an offset are local, and every\n# event also has the columns NAME_local and business_date:\n")
	example := "COLUMN"
	if len(s.moments) > 0 {
		example = s.types[s.moments[0]].Name
	}
	fmt.Fprintf(b, "#   event_time: {column: %s, zone: Europe/London, day_starts: \"04:00\"}\n", example)
	switch {
	case s.eventTime >= 0:
		fmt.Fprintf(b, "event_time: %s # UTC\n", s.types[s.eventTime].Name)
	case len(s.moments) > 1:
		for _, i := range s.moments {
			fmt.Fprintf(b, "# event_time: %s\n", s.types[i].Name)
		}
	default:
		b.WriteString("# No column is a TIMESTAMP in every line, so none is declared.\n")
	}
}

func (s *sample) idText(b *strings.Builder) {
	b.WriteString("\n# The columns that identify an event; a second event with the same id is a duplicate.\n# Without an id every line of a file is an event, and sending the file again adds nothing.\n")
	scope := "in all lines"
	if !s.whole {
		scope = "in the lines that were read"
	}
	found := false
	for i, c := range s.columns {
		kind := s.types[i].Type.Kind
		if !c.repeated && c.rows > 1 && c.null(s.csv.Nulls) == 0 && kind != project.Double && kind != project.Timestamp && kind != project.Date {
			if kind == project.Decimal && s.types[i].Type.Scale > 0 {
				continue
			}
			fmt.Fprintf(b, "# id: [%s]  # unique %s\n", c.name, scope)
			found = true
		}
	}
	if p := s.pair; !found && p.b >= 0 && s.rows > 1 {
		if p.repeated {
			fmt.Fprintf(b, "# No column is unique, nor is (%s): declaring that would lose lines.\n", p.names)
		} else {
			fmt.Fprintf(b, "# id: [%s]  # unique %s\n", p.names, scope)
		}
	} else if !found {
		b.WriteString("# No column is unique.\n")
	}
}

// columnText returns the short or long form of a column.
func columnText(c project.Column) string {
	sql := c.SQL()
	if c.From == c.Name && c.Format == "" {
		return sql
	}
	if strings.Contains(sql, ",") {
		sql = strconv.Quote(sql)
	}
	text := "{type: " + sql
	if c.From != c.Name {
		text += ", from: " + yamlText(c.From)
	}
	if c.Format != "" {
		text += ", format: " + strconv.Quote(c.Format)
	}
	return text + "}"
}

// evidence returns a comment that describes the column's values.
func (s *sample) evidence(i int) string {
	c := s.columns[i]
	var parts []string
	switch {
	case c.rows == 0:
		parts = append(parts, "no values seen")
	case len(c.distinct) == 1:
		parts = append(parts, "always "+yamlText(c.examples[0]))
	case c.distinct != nil && len(c.distinct) <= 50 && len(c.distinct)*2 <= c.rows:
		parts = append(parts, fmt.Sprintf("%d values, such as %s", len(c.distinct), yamlText(c.examples[0])))
	case len(c.examples) > 0:
		parts = append(parts, "such as "+yamlText(c.examples[0]))
	}
	if other, _ := c.ambiguous(); other != "" && s.types[i].Format != "" {
		parts = append(parts, "or "+other+": no value distinguishes them")
	}
	if n := c.null(s.csv.Nulls); n > 0 {
		parts = append(parts, thousands(n)+" missing")
	}
	if c.wholeZeros && c.decimals > 0 && s.types[i].Type.Kind == project.BigInt {
		parts = append(parts, "written with .0")
	}
	return strings.Join(parts, "; ")
}

func (s *sample) csvText(b *strings.Builder) {
	if s.format != source.CSV {
		return
	}
	nulls := make([]string, len(s.csv.Nulls))
	for i, n := range s.csv.Nulls {
		nulls[i] = strconv.Quote(n)
	}
	fmt.Fprintf(b, "\ncsv: {delimiter: %s, decimal: %s, encoding: %s, nulls: [%s]}\n",
		strconv.Quote(s.csv.Delimiter), strconv.Quote(s.csv.Decimal), s.csv.Encoding, strings.Join(nulls, ", "))
}

// yamlText returns a YAML scalar for a text, valid within { } too.
func yamlText(s string) string {
	if r := []rune(s); len(r) > 60 {
		return strconv.Quote(s)
	}
	if s == "" || !isPlain(s) {
		return strconv.Quote(s)
	}
	return s
}

// yamlKey quotes a name that YAML would read as something else.
func yamlKey(s string) string {
	if isPlain(s) {
		return s
	}
	return strconv.Quote(s)
}

func isPlain(s string) bool {
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf":
		return false
	}
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || r != '_' && r != '.' && (r < '0' || r > '9') && (r != ' ' || i == len(s)-1)) {
			return false
		}
	}
	return true
}
