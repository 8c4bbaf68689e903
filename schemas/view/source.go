package view

import (
	"strings"
	"unicode/utf8"

	"duet/schemas/project"
)

// source is the text of a definition. It converts DuckDB's offsets to lines and
// columns.
type source struct {
	file string
	text string
}

// place returns the line and the column, both from 1, the column in characters,
// of a byte offset. A negative offset means the SELECT keyword.
func (s source) place(at int) (line, column int) {
	if at < 0 {
		if at = s.keyword("select"); at < 0 {
			at = 0
		}
	}
	at = min(at, len(s.text))
	line = strings.Count(s.text[:at], "\n") + 1
	start := strings.LastIndexByte(s.text[:at], '\n') + 1
	return line, utf8.RuneCountInString(s.text[start:at]) + 1
}

// byteOf converts an offset in characters, as in parser errors, to bytes.
func (s source) byteOf(chars int) int {
	at := 0
	for range chars {
		if at >= len(s.text) {
			break
		}
		_, n := utf8.DecodeRuneInString(s.text[at:])
		at += n
	}
	return at
}

func (s source) fault(at int, reason, remedy string) project.Fault {
	line, column := s.place(at)
	return project.Fault{File: s.file, Line: line, Column: column, Reason: reason, Remedy: remedy}
}

// keyword returns the offset of the first occurrence of word, ignoring case,
// outside strings, quoted names and comments; -1 if there is none.
func (s source) keyword(word string) int {
	for _, t := range tokens(s.text) {
		if t.kind == wordToken && strings.EqualFold(t.text, word) {
			return t.at
		}
	}
	return -1
}

type tokenKind uint8

const (
	wordToken tokenKind = iota
	nameToken           // a quoted name
	textToken           // a string
	numberToken
	signToken // one byte of anything else
	commentToken
)

type token struct {
	kind tokenKind
	at   int
	text string
}

// tokens splits SQL into tokens. It is used to locate messages and to refuse
// comments and semicolons; what a text means is decided by DuckDB's parser only.
func tokens(text string) []token {
	var out []token
	for at := 0; at < len(text); {
		kind, end := nextToken(text, at)
		if end <= at {
			at++ // space
			continue
		}
		out = append(out, token{kind, at, text[at:end]})
		at = end
	}
	return out
}

// nextToken returns the kind and the end of the token at at. For space the end
// is at.
func nextToken(text string, at int) (tokenKind, int) {
	c := text[at]
	rest := text[at:]
	switch {
	case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
		return signToken, at
	case strings.HasPrefix(rest, "--"):
		if i := strings.IndexByte(rest, '\n'); i >= 0 {
			return commentToken, at + i
		}
		return commentToken, len(text)
	case strings.HasPrefix(rest, "/*"):
		return commentToken, blockCommentEnd(text, at)
	case c == '\'':
		return textToken, quotedEnd(text, at, '\'', false)
	case (c == 'e' || c == 'E') && strings.HasPrefix(rest[1:], "'"):
		return textToken, quotedEnd(text, at+1, '\'', true)
	case c == '"':
		return nameToken, quotedEnd(text, at, '"', false)
	case c == '$':
		return textToken, dollarEnd(text, at)
	case isLetter(c):
		end := at
		for end < len(text) && (isLetter(text[end]) || isDigit(text[end]) || text[end] == '$') {
			end++
		}
		return wordToken, end
	case isDigit(c):
		end := at
		for end < len(text) && (isLetter(text[end]) || isDigit(text[end]) || text[end] == '.') {
			end++
		}
		return numberToken, end
	}
	return signToken, at + 1
}

func isLetter(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func quotedEnd(text string, at int, quote byte, escapes bool) int {
	for i := at + 1; i < len(text); i++ {
		switch {
		case escapes && text[i] == '\\':
			i++
		case text[i] == quote && i+1 < len(text) && text[i+1] == quote:
			i++
		case text[i] == quote:
			return i + 1
		}
	}
	return len(text)
}

func blockCommentEnd(text string, at int) int {
	depth := 0
	for i := at; i < len(text)-1; i++ {
		switch text[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return len(text)
}

// dollarEnd returns the end of $tag$...$tag$, or of the sign alone.
func dollarEnd(text string, at int) int {
	i := strings.IndexByte(text[at+1:], '$')
	if i < 0 {
		return at + 1
	}
	tag := text[at : at+i+2]
	for j := 1; j < len(tag)-1; j++ {
		if !isLetter(tag[j]) && !isDigit(tag[j]) {
			return at + 1
		}
	}
	if len(tag) > 2 && isDigit(tag[1]) {
		return at + 1
	}
	if end := strings.Index(text[at+len(tag):], tag); end >= 0 {
		return at + len(tag) + end + len(tag)
	}
	return len(text)
}
