package duck

import (
	"errors"
	"strings"

	duckdb "github.com/duckdb/duckdb-go/v2"
)

// Evaluates reports whether err says that an expression could not be computed
// for some row: an overflow, a CAST, a division. Both halves ask here, for such
// an error suspends a view in both of them. The list is closed: anything else
// (memory, disk, an interrupt, a fault of ours) suspends nothing.
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
