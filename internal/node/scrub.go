package node

import (
	"context"

	"duet/batch/scrub"
)

// openScrubber opens the weekly verification of the archive's and generations'
// files.
func (n *Node) openScrubber(context.Context) (err error) {
	n.scrubber, err = scrub.New(scrub.Config{
		Archive: n.lane.archive, Catalog: n.catalog, Path: n.data.sub("scrub.json"),
		Damaged: func(d scrub.Damage) {
			n.logger.Error("a scrub found a damaged file", "path", d.Path, "problem", d.Problem, "repaired", d.Repaired)
		},
		Failed: func(err error) {
			n.logger.Error("how far the scrub is cannot be written; a restart repeats it", "error", err)
		},
	})
	return err
}

// startScrubber lets it read files, when everything else runs.
func (n *Node) startScrubber(ctx context.Context) error {
	return n.scrubber.Start(context.WithoutCancel(ctx))
}
