package query

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"duet/batch/catalog"
	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/serving/reason"
)

// GenerationsOf is the catalog as an engine reads it.
func GenerationsOf(c *catalog.Catalog) Generations { return realGenerations{c} }

type realGenerations struct{ catalog *catalog.Catalog }

// Open reads a generation and checks the one file that the answer needs (H6).
func (r realGenerations) Open(_ context.Context, number uint64, name string) (Published, error) {
	g, err := r.catalog.Get(number)
	if err != nil {
		return Published{}, err
	}
	v := g.View(name)
	if v == nil {
		return Published{}, reason.New(reason.DefinitionDiffers, "generation %d does not hold view %q, which was added later; ask for a later generation", number, name)
	}
	if v.Suspended != nil {
		return Published{}, reason.New(reason.ViewSuspended, "view %q was suspended in generation %d: %s; %s", name, number, v.Suspended.Message, v.Suspended.Remedy)
	}
	path := r.catalog.Path(*v)
	sum, err := durable.SumFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Cleaned since it was read, or lost: the second look tells.
		if _, again := r.catalog.Get(number); again != nil {
			return Published{}, again
		}
		return Published{}, &durable.DamageError{Path: path, Reason: fmt.Sprintf("it is missing; generation %d needs it for view %s", number, name)}
	case err != nil:
		return Published{}, fmt.Errorf("generation %d: %w", number, err)
	case sum != v.Sum:
		return Published{}, &durable.DamageError{Path: path, Reason: fmt.Sprintf("it has %d bytes with checksum %s, generation %d says %d with %s", sum.Bytes, sum.XXH3, number, v.Bytes, v.XXH3)}
	}
	var cols []string
	for _, c := range append(append([]string(nil), v.Keys...), v.Cells...) {
		cols = append(cols, duck.Ident(c))
	}
	return Published{
		Cut: g.Cut.Position(), Definition: v.Definition,
		Partials: "(SELECT " + strings.Join(cols, ", ") + " FROM read_parquet(" + duck.Literal(path) + "))",
	}, nil
}
