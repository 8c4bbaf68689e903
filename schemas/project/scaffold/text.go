package scaffold

import (
	"bytes"
	"io"

	"duet/schemas/project"
	"duet/schemas/source"
)

// textBytes is the size of the part of a file that RefuseBinary examines.
const textBytes = 4096

// RefuseBinary examines the beginning of a file and returns an error if it is not
// text, so that binary data is not reported line by line. It ignores other errors,
// which the reader of the file reports. It returns a reader of the whole file: in
// itself if that can seek. allow are control characters that the file may contain,
// such as its delimiter.
func RefuseBinary(in io.Reader, name, allow string) (io.Reader, error) {
	raw := make([]byte, textBytes)
	var whole io.Reader
	var n int
	if seeker, ok := in.(io.Seeker); ok {
		if at, err := seeker.Seek(0, io.SeekCurrent); err == nil {
			n, _ = io.ReadFull(in, raw) // the reader of the file reports the error
			if _, err := seeker.Seek(at, io.SeekStart); err != nil {
				return nil, err
			}
			whole = in
		}
	}
	if whole == nil {
		n, _ = in.Read(raw) // as above; a pipe returns what is available
		whole = io.MultiReader(bytes.NewReader(raw[:n]), in)
	}
	head, format, err := source.Head(io.MultiReader(bytes.NewReader(raw[:n])), name, textBytes)
	if err == nil && format != source.Parquet && binary(head, allow) {
		return nil, project.Fault{File: name, Reason: "this is not text", Remedy: "name a CSV, NDJSON or Parquet file"}
	}
	return whole, nil
}

// binary reports whether a text has more than a few control characters.
func binary(head []byte, allow string) bool {
	if bytes.HasPrefix(head, []byte("%PDF-")) {
		return true
	}
	controls := 0
	for _, b := range head {
		if (b < ' ' || b == 0x7f) && (b < '\t' || b > '\r') && bytes.IndexByte([]byte(allow), b) < 0 {
			controls++
		}
	}
	return controls > 3 && controls*50 > len(head)
}
