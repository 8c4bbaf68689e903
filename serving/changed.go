package serving

import (
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"duet/schemas/project"
)

// changedEvery is how often the project's folder is read at most.
const changedEvery = 3 * time.Second

// changedFiles compares the project's folder with what the server runs. It is
// safe for concurrent use.
type changedFiles struct {
	folder fs.FS // nil if there is none
	runs   map[string]string
	now    func() time.Time

	mu    sync.Mutex
	read  time.Time
	names []string
}

// list returns the names of files that were changed, added or removed since the
// server started, sorted.
func (c *changedFiles) list() []string {
	if c.folder == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); c.read.IsZero() || now.Sub(c.read) >= changedEvery {
		c.read, c.names = now, c.compare()
	}
	return c.names
}

func (c *changedFiles) compare() []string {
	p, _ := project.Load(c.folder) // a folder with faults differs all the same
	if p == nil {
		return nil
	}
	changed := map[string]bool{}
	for name, text := range c.runs {
		if now, ok := p.Files[name]; !ok || now != text {
			changed[name] = true
		}
	}
	for name := range p.Files {
		if _, ok := c.runs[name]; !ok {
			changed[name] = true
		}
	}
	return slices.Sorted(maps.Keys(changed))
}

// sentence describes changed files; "" if there are none.
func changedSentence(names []string) string {
	if len(names) == 0 {
		return ""
	}
	if len(names) > 5 {
		names = append(slices.Clone(names[:5]), "...")
	}
	return "the project's files differ from what the server runs (" + strings.Join(names, ", ") + "); restart it to apply them"
}
