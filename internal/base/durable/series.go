package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// DamageError reports that a required file is missing or damaged. The caller must
// fail, not fall back on an older or smaller state (H6).
type DamageError struct {
	Path   string // the file
	Reason string // what is wrong with it
}

// Error names the file and what is wrong with it.
func (e *DamageError) Error() string { return e.Path + ": " + e.Reason }

// Seal encodes v as JSON, wrapped with its checksum, in the format that the
// package comment draws. Equal values give equal bytes.
func Seal(v any) ([]byte, error) {
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "{\"xxh3_128\":%q,\"content\":\n%s\n}\n", SumBytes(content).XXH3, content), nil
}

// Unseal decodes what Seal wrote into v. It uses path only in the [*DamageError].
func Unseal(path string, data []byte, v any) error {
	var sealed struct {
		Sum     string          `json:"xxh3_128"`
		Content json.RawMessage `json:"content"`
	}
	if err := json.Unmarshal(data, &sealed); err != nil {
		return &DamageError{path, "not a sealed JSON document: " + err.Error()}
	}
	if got := SumBytes(sealed.Content).XXH3; got != sealed.Sum {
		return &DamageError{path, fmt.Sprintf("the content has checksum %s, the seal says %q", got, sealed.Sum)}
	}
	// The checksum does not cover the bytes around the content, so compare them.
	if want := fmt.Appendf(nil, "{\"xxh3_128\":%q,\"content\":\n%s\n}\n", sealed.Sum, sealed.Content); !bytes.Equal(want, data) {
		return &DamageError{path, "the seal around the content has changed"}
	}
	dec := json.NewDecoder(bytes.NewReader(sealed.Content))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return &DamageError{path, "not in the format of this version: " + err.Error()}
	}
	return nil
}

// ReadSealed reads a sealed file into v. It returns a [*DamageError] if the file
// is damaged or missing.
func ReadSealed(path string, v any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &DamageError{path, "the file is missing"}
	}
	if err != nil {
		return err
	}
	return Unseal(path, data, v)
}

// Series is a directory of numbered files, of which the highest is current:
//
//	000000000001.json
//	000000000002.json
//	floor.json           {"floor": 2}: number 2 was published, so the highest
//	                     number cannot be lower
//
// There is no pointer to the current file: publishing the next number, by an
// exclusive link, makes it current (H10). The floor detects the loss of the
// newest file (H6). It is written after a number is published, so it may lag
// behind the highest number but never exceeds it.
type Series struct {
	dir   string
	files *Files
}

// NewSeries opens the series in dir, which it creates if it is missing.
func NewSeries(files *Files, dir string) (*Series, error) {
	if err := files.MkdirAll(dir); err != nil {
		return nil, err
	}
	return &Series{dir: dir, files: files}, nil
}

// Path returns the file of a number.
func (s *Series) Path(number uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%012d.json", number))
}

// Numbers returns the numbers that exist, ascending. It returns a [*DamageError]
// if the newest file is lost.
func (s *Series) Numbers() ([]uint64, error) {
	numbers, floor, err := s.Existing()
	if err != nil {
		return nil, err
	}
	if floor > 0 && (len(numbers) == 0 || numbers[len(numbers)-1] < floor) {
		return nil, &DamageError{s.Path(floor), "the file is missing, but floor.json beside it says that it was published; restore it from a copy"}
	}
	return numbers, nil
}

// Existing returns the numbers that exist, ascending, and the floor, which is
// higher than the last number if the newest file is lost.
func (s *Series) Existing() (numbers []uint64, floor uint64, err error) {
	if floor, err = s.floor(); err != nil {
		return nil, 0, err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(base, 10, 64); err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, floor, nil
}

// Latest returns the highest number; 0 if there is none.
func (s *Series) Latest() (uint64, error) {
	numbers, err := s.Numbers()
	if err != nil || len(numbers) == 0 {
		return 0, err
	}
	return numbers[len(numbers)-1], nil
}

// Read reads the sealed file of a number into v.
func (s *Series) Read(number uint64, v any) error { return ReadSealed(s.Path(number), v) }

// Publish publishes v under number, which must be new, and returns when that is
// durable. It returns [ErrExists] if another writer published that number. After
// any other error, [Series.Holds] reports whether v was published all the same.
func (s *Series) Publish(number uint64, v any) error {
	data, err := Seal(v)
	if err != nil {
		return err
	}
	if err := s.files.Publish(s.Path(number), data); err != nil {
		return err
	}
	s.raise(number)
	return nil
}

// Holds reports whether number holds exactly v. If so, it makes that durable,
// which completes a Publish that returned an error.
func (s *Series) Holds(number uint64, v any) (bool, error) {
	want, err := Seal(v)
	if err != nil {
		return false, err
	}
	got, err := os.ReadFile(s.Path(number))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !bytes.Equal(got, want) {
		return false, err
	}
	if err := s.files.syncDir(s.dir); err != nil {
		return false, err
	}
	s.raise(number)
	return true, nil
}

// Remove deletes numbers, which must be below the floor.
func (s *Series) Remove(numbers ...uint64) error {
	paths := make([]string, len(numbers))
	for i, n := range numbers {
		paths[i] = s.Path(n)
	}
	return s.files.Remove(paths...)
}

// RemoveTemps deletes the unfinished files of a killed process. Only the series'
// owner may call it, before it publishes.
func (s *Series) RemoveTemps() error { return s.files.RemoveTemps(s.dir, "") }

// floorFile is the content of floor.json.
type floorFile struct {
	Floor uint64 `json:"floor"`
}

func (s *Series) floorPath() string { return filepath.Join(s.dir, "floor.json") }

// floor reads the floor; 0 if none was written yet.
func (s *Series) floor() (uint64, error) {
	var f floorFile
	if _, err := os.Stat(s.floorPath()); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	err := ReadSealed(s.floorPath(), &f)
	return f.Floor, err
}

// raise raises the floor to number. It ignores errors: number is published all
// the same, and publishing the next number raises the floor again.
func (s *Series) raise(number uint64) {
	floor, err := s.floor()
	if err != nil || floor >= number {
		return
	}
	if data, err := Seal(floorFile{number}); err == nil {
		_ = s.files.WriteFile(s.floorPath(), data)
	}
}
