package project

import "strings"

// The keys of each mapping of duet.yaml and of a view's YAML, in the order that
// Print writes them in.
var (
	configKeys = []string{"version", "name", "batch", "limits"}
	batchKeys  = []string{"incremental", "full", "keep"}
	keepKeys   = []string{"last", "daily", "monthly"}
	limitsKeys = []string{"memory", "log", "batch_threads", "batch_memory"}
	viewKeys   = []string{"description", "units", "max_groups"}
)

// Defaults of duet.yaml.
const (
	defaultName        = "project"
	defaultIncremental = "@every 1m"
	defaultFull        = "15 3 * * *"
	defaultMemory      = 4_000_000_000
	defaultLog         = 8_000_000_000
	defaultBatchMemory = 2_000_000_000
)

// configure sets the defaults and then the values of duet.yaml.
func (p *Project) configure(text string, faults *Faults) {
	p.Name = defaultName
	p.Batch = Batch{Incremental: defaultIncremental, Full: defaultFull, Keep: Keep{Last: 24, Daily: 35, Monthly: 13}}
	p.Limits = Limits{Memory: defaultMemory, Log: defaultLog, BatchThreads: 1, BatchMemory: defaultBatchMemory}
	d := &document{file: configFile, faults: faults}
	top, ok := d.parse(text)
	if !ok {
		return
	}
	for _, e := range d.mapping(top, "duet.yaml", configKeys) {
		switch e.key {
		case "version":
			if s, ok := d.text(e, "version", "write version: 1"); ok && s != "1" {
				d.faultAtValue(e, "version is "+quote(s)+"; this program reads version 1", "write version: 1, or use a newer duet")
			}
		case "name":
			if s, ok := d.text(e, "name", "write name: retail"); ok {
				p.Name = s
				if reason, remedy := checkName("the project's", s); reason != "" {
					d.faultAtValue(e, reason, remedy)
				}
			}
		case "batch":
			d.batch(e, &p.Batch)
		case "limits":
			d.limits(e, &p.Limits)
		}
	}
}

func (d *document) batch(e entry, b *Batch) {
	for _, e := range d.mapping(e.value, "batch", batchKeys) {
		switch e.key {
		case "incremental":
			d.schedule(e, "batch.incremental", &b.Incremental)
		case "full":
			d.schedule(e, "batch.full", &b.Full)
		case "keep":
			for _, e := range d.mapping(e.value, "batch.keep", keepKeys) {
				low, target := 0, &b.Keep.Daily
				switch e.key {
				case "last":
					low, target = 1, &b.Keep.Last
				case "monthly":
					target = &b.Keep.Monthly
				}
				if n, ok := d.integer(e, "batch.keep."+e.key, low, 10_000); ok {
					*target = n
				}
			}
		}
	}
}

func (d *document) schedule(e entry, what string, target *string) {
	const remedy = `write five fields such as "15 3 * * *", or "@every 1m", or off`
	s, ok := d.text(e, what, remedy)
	if !ok {
		return
	}
	s = strings.TrimSpace(s)
	if strings.EqualFold(s, "off") || strings.EqualFold(s, "false") || s == "never" {
		*target = ""
		return
	}
	if s == "" {
		d.faultAtValue(e, what+" is empty", remedy)
		return
	}
	if _, err := ParseSchedule(s); err != nil {
		d.faultAtValue(e, what+": "+err.Error(), remedy)
		return
	}
	*target = s
}

func (d *document) limits(e entry, l *Limits) {
	for _, e := range d.mapping(e.value, "limits", limitsKeys) {
		what := "limits." + e.key
		switch e.key {
		case "memory":
			d.size(e, what, 64<<20, &l.Memory)
		case "log":
			d.size(e, what, 1<<20, &l.Log)
		case "batch_memory":
			d.size(e, what, 64<<20, &l.BatchMemory)
		case "batch_threads":
			if n, ok := d.integer(e, what, 1, 256); ok {
				l.BatchThreads = n
			}
		}
	}
}

func (d *document) size(e entry, what string, low int64, target *int64) {
	const remedy = "write a size such as 4GB or 512MB"
	s, ok := d.text(e, what, remedy)
	if !ok {
		return
	}
	n, err := ParseSize(s)
	switch {
	case err != nil:
		d.faultAtValue(e, what+": "+err.Error(), remedy)
	case n < low:
		d.faultAtValue(e, what+" is "+s+", which is too little", "write at least "+FormatSize(low))
	default:
		*target = n
	}
}
