package eventlog

import (
	"fmt"

	"duet/schemas"
)

// IncarnationOf returns the incarnation of the log in dir without opening the log.
// It fails if the folder holds none.
func IncarnationOf(dir string) (schemas.Incarnation, error) {
	f, err := readIncarnation(dir)
	if err != nil {
		return schemas.Incarnation{}, err
	}
	if f == nil {
		return schemas.Incarnation{}, fmt.Errorf("%s is missing: %s is no log of Duet", incarnationPath(dir), dir)
	}
	return f.Incarnation, nil
}
