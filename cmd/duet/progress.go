package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// A statusLine shows how far something is: one line that is written over on a
// terminal, otherwise a plain line every few seconds. Safe for concurrent use.
type statusLine struct {
	mu    sync.Mutex
	w     io.Writer
	tty   bool
	last  time.Time // when something was shown
	drawn bool      // the terminal's line is not empty
}

// How often a line is drawn.
const (
	redraw    = 100 * time.Millisecond
	plainPace = 5 * time.Second
)

func newStatusLine(w io.Writer) *statusLine {
	line := &statusLine{w: w, last: time.Now()}
	if file, ok := w.(*os.File); ok {
		info, err := file.Stat()
		line.tty = err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	}
	return line
}

// show draws text unless the last was drawn just now.
func (l *statusLine) show(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pace := plainPace
	if l.tty {
		pace = redraw
	}
	if time.Since(l.last) < pace {
		return
	}
	l.last = time.Now()
	if l.tty {
		fmt.Fprintf(l.w, "\r\033[K%s", text)
		l.drawn = true
		return
	}
	fmt.Fprintln(l.w, text)
}

// Write writes p after removing the line: a log that shares the terminal is
// written through it.
func (l *statusLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wipe()
	return l.w.Write(p)
}

// clear removes the line, before something else is printed.
func (l *statusLine) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wipe()
}

func (l *statusLine) wipe() {
	if l.drawn {
		fmt.Fprint(l.w, "\r\033[K")
		l.drawn = false
	}
}
