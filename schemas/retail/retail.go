// Package retail is the packaged project: a shop with branches in several
// countries, its orders, stock movements and payments. It is what duet up runs
// without --project.
package retail

import (
	"embed"
	"io/fs"
)

//go:embed files
var files embed.FS

// Files is the project's folder, as project.Load reads it.
func Files() fs.FS {
	sub, err := fs.Sub(files, "files")
	if err != nil {
		panic("the embedded folder has no valid name: " + err.Error()) // cannot be: the name is a constant
	}
	return sub
}
