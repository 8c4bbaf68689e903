package query

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"duet/schemas"
	"duet/serving/reason"
)

var logOne = schemas.Incarnation{Ordinal: 2, ID: "one"}

func TestTokenSaysWhatItWasMadeOf(t *testing.T) {
	want := Token{Generation: 300, Through: schemas.NewCut(logOne, schemas.NewPosition(2, 1<<40))}
	got, err := ParseToken(want.String(), logOne)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	// One of an earlier incarnation is passed by definition.
	old := Token{Through: schemas.NewCut(schemas.Incarnation{ID: "zero"}, schemas.NewPosition(1, 5))}
	if got, err := ParseToken(old.String(), logOne); err != nil || got.Through.Position() != schemas.NewPosition(1, 5) {
		t.Fatalf("%v, %v", got, err)
	}
}

func TestTokenThatIsNotOurs(t *testing.T) {
	good := Token{Generation: 3, Through: schemas.NewCut(logOne, schemas.NewPosition(2, 9))}.String()
	long := make([]byte, 4096)
	for i := range long {
		long[i] = 'A'
	}
	for name, s := range map[string]string{
		"not base64":  "%%%",
		"short":       "AQ",
		"cut off":     good[:len(good)-2],
		"one bit off": "B" + good[1:],
		"long":        string(long),
		"another log": Token{Through: schemas.NewCut(schemas.Incarnation{ID: "two"}, schemas.NewPosition(2, 9))}.String(),
		"a later log": Token{Through: schemas.NewCut(schemas.Incarnation{ID: "three"}, schemas.NewPosition(3, 9))}.String(),
	} {
		_, err := ParseToken(s, logOne)
		var e *reason.Error
		if !errors.As(err, &e) || e.Reason != reason.TokenInvalid || len(e.Violations) != 1 || e.Violations[0].Field != "not_before" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(Token{Generation: 3, Through: schemas.NewCut(logOne, schemas.NewPosition(2, 9))}.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s, logOne)
		if err != nil {
			return
		}
		if _, err := ParseToken(tok.String(), logOne); err != nil {
			t.Fatalf("%q was taken, and its own form is refused: %v", s, err)
		}
	})
}
