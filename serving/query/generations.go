package query

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/schemas"
	"duet/serving/reason"
)

// published is one view of a published generation.
type published struct {
	cut        schemas.Position
	definition string // the version it was computed under
	partials   string // SQL relation of its partial rows
}

// published opens one view of a kept generation and verifies the one file that
// the answer needs (H6). The keep policy may delete the generation at any time;
// reading its cells then fails.
func (e *Engine) published(number uint64, name string) (published, error) {
	g, err := e.cfg.Catalog.Get(number)
	if err != nil {
		return published{}, err
	}
	v := g.View(name)
	if v == nil {
		return published{}, reason.New(reason.DefinitionDiffers, "generation %d does not hold view %q, which was added later; ask for a later generation", number, name)
	}
	if v.Suspended != nil {
		return published{}, reason.New(reason.ViewSuspended, "view %q was suspended in generation %d: %s; %s", name, number, v.Suspended.Message, v.Suspended.Remedy)
	}
	path := e.cfg.Catalog.Path(*v)
	sum, err := durable.SumFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// It was deleted by the keep policy since, or it is lost.
		if _, again := e.cfg.Catalog.Get(number); again != nil {
			return published{}, again
		}
		return published{}, &durable.DamageError{Path: path, Reason: fmt.Sprintf("it is missing; generation %d needs it for view %s", number, name)}
	case err != nil:
		return published{}, fmt.Errorf("generation %d: %w", number, err)
	case sum != v.Sum:
		return published{}, &durable.DamageError{Path: path, Reason: fmt.Sprintf("it has %d bytes with checksum %s, generation %d says %d with %s", sum.Bytes, sum.XXH3, number, v.Bytes, v.XXH3)}
	}
	var cols []string
	for _, c := range append(append([]string(nil), v.Keys...), v.Cells...) {
		cols = append(cols, duck.Ident(c))
	}
	return published{
		cut: g.Cut.Position(), definition: v.Definition,
		partials: "(SELECT " + strings.Join(cols, ", ") + " FROM " + duck.Parquet(path) + ")",
	}, nil
}
