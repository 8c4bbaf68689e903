package project

import (
	"path"
	"strings"
)

// loadView reads views/NAME.sql and its optional NAME.yaml; it returns nil after a
// fault. It does not check the SQL, which is the compiler's task.
func loadView(file string, files map[string]string, faults *Faults) *View {
	name := strings.TrimSuffix(path.Base(file), ".sql")
	v := &View{Name: name, File: file, SQL: files[file]}
	before := len(*faults)
	if reason, remedy := checkName("the view's", name); reason != "" {
		*faults = append(*faults, Fault{File: file, Reason: reason, Remedy: "rename the file: " + remedy})
	}
	if strings.TrimSpace(v.SQL) == "" {
		*faults = append(*faults, Fault{File: file, Line: 1, Column: 1, Reason: "is empty", Remedy: "write one SELECT ... FROM stream GROUP BY ALL"})
	}
	settings := strings.TrimSuffix(file, ".sql") + ".yaml"
	if text, ok := files[settings]; ok {
		v.settings(settings, text, faults)
	}
	if (*faults)[before:].Fatal() {
		return nil
	}
	return v
}

func (v *View) settings(file, text string, faults *Faults) {
	d := &document{file: file, faults: faults}
	top, ok := d.parse(text)
	if !ok {
		return
	}
	for _, e := range d.mapping(top, "the view's settings", viewKeys) {
		switch e.key {
		case "description":
			v.Description, _ = d.text(e, "description", "write description: a sentence")
			v.Description = strings.TrimSpace(v.Description)
		case "units":
			v.Units = map[string]string{}
			for _, e := range d.mapping(e.value, "units", nil) {
				if s, ok := d.text(e, "the unit of "+e.key, "write column: unit, such as revenue: GBP"); ok {
					v.Units[e.key] = s
				}
			}
		case "max_groups":
			v.MaxGroups, _ = d.integer(e, "max_groups", 0, 1_000_000_000)
		}
	}
}

// orphanView reports settings without a view.
func orphanView(file string, files map[string]string, faults *Faults) {
	view := strings.TrimSuffix(file, ".yaml") + ".sql"
	if _, ok := files[view]; ok {
		return
	}
	var names []string
	for name := range files {
		if strings.HasPrefix(name, "views/") && strings.HasSuffix(name, ".sql") {
			names = append(names, name)
		}
	}
	remedy := "write " + view + ", or remove the file"
	if near := Nearest(view, names); near != "" {
		remedy = "did you mean " + strings.TrimSuffix(near, ".sql") + ".yaml?"
	}
	*faults = append(*faults, Fault{File: file, Reason: "describes a view that does not exist: there is no " + view, Remedy: remedy})
}
