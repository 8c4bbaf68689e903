package scaffold

import (
	"bytes"
	"io"

	"duet/schemas/project"
	"duet/schemas/source"
)

// textBytes of a file's beginning are looked at.
const textBytes = 4096

// RefuseBinary looks at the beginning of a file and refuses what is not text,
// before its bytes are shown as lines that are wrong. What can be read there but
// is wrong otherwise is left to the reader. It gives a reader of the whole: in
// itself if that can seek. allow are control characters that the file may hold,
// such as its delimiter.
func RefuseBinary(in io.Reader, name, allow string) (io.Reader, error) {
	raw := make([]byte, textBytes)
	var whole io.Reader
	var n int
	if seeker, ok := in.(io.Seeker); ok {
		if at, err := seeker.Seek(0, io.SeekCurrent); err == nil {
			n, _ = io.ReadFull(in, raw) // what cannot be read is told by the reader
			if _, err := seeker.Seek(at, io.SeekStart); err != nil {
				return nil, err
			}
			whole = in
		}
	}
	if whole == nil {
		n, _ = in.Read(raw) // as above; a pipe gives what is there
		whole = io.MultiReader(bytes.NewReader(raw[:n]), in)
	}
	head, format, err := source.Head(io.MultiReader(bytes.NewReader(raw[:n])), name, textBytes)
	if err == nil && format != source.Parquet && binary(head, allow) {
		return nil, project.Fault{File: name, Reason: "this is not text", Remedy: "name a CSV, NDJSON or Parquet file"}
	}
	return whole, nil
}

// binary reports whether control characters are more than a few by mistake.
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
