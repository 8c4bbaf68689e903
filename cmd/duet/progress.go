package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// A statusLine shows progress: on a terminal one line that is overwritten,
// elsewhere a new line every few seconds. It is safe for concurrent use.
type statusLine struct {
	w   io.Writer
	tty bool

	mu    sync.Mutex
	last  time.Time // of the last show
	drawn bool      // the terminal's line is not empty
}

// Shortest time between two lines, on a terminal and elsewhere.
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

// show draws text, unless the last text is too recent.
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

// Write removes the line and writes p. A log that shares the terminal must write
// through it.
func (l *statusLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wipe()
	return l.w.Write(p)
}

// clear removes the line. Call it before printing anything else.
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
