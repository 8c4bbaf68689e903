package duck

import (
	"errors"
	"strings"

	duckdb "github.com/duckdb/duckdb-go/v2"
)

// OutOfMemory reports whether err says that the instance's memory limit was
// reached, and that nothing more could be spilled.
func OutOfMemory(err error) bool {
	var de *duckdb.Error
	return errors.As(err, &de) && (de.Type == duckdb.ErrorTypeOutOfMemory || strings.Contains(de.Msg, "bad_alloc") || strings.Contains(de.Msg, "Out of Memory"))
}

// Evaluates reports whether err means that an expression could not be computed for
// a row: an overflow, a CAST, a division. Such an error suspends a view in both
// halves. The list is closed: any other error (memory, disk, an interrupt, a bug)
// suspends nothing.
func Evaluates(err error) bool {
	var de *duckdb.Error
	if !errors.As(err, &de) {
		return false
	}
	switch de.Type {
	case duckdb.ErrorTypeOutOfRange, duckdb.ErrorTypeConversion, duckdb.ErrorTypeMismatchType,
		duckdb.ErrorTypeDivideByZero, duckdb.ErrorTypeInvalidInput, duckdb.ErrorTypeExpression,
		duckdb.ErrorTypeInvalidType:
		return true
	}
	// Not ErrorTypeDecimal: the driver gives it the number of "Index Error".
	return strings.HasPrefix(de.Msg, "Decimal Error")
}
