package eventlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// childEnv makes the test binary the process that a test kills or traces. Its value
// is "mode dir": the process opens the log in dir, does what the mode says, and
// prints what was acknowledged.
const childEnv = "DUET_EVENTLOG_CHILD"

func child(spec string) int {
	mode, dir, _ := strings.Cut(spec, " ")
	limit := int64(256 << 20)
	if mode == "trim" {
		limit = smallBlocks
	}
	if mode == "traced" || mode == "traced-lazily" {
		limit, syncAlways = tracedLimit, mode == "traced"
	}
	l, err := Open(context.Background(), Config{Dir: dir, Project: "shop", MaxBytes: limit, Logger: quiet()})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	switch mode {
	case "publish":
		return childPublish(l)
	case "disk":
		return childDisk(l, dir)
	case "trim":
		return childTrim(l)
	case "traced", "traced-lazily":
		return childTraced(l, dir)
	}
	return 2
}

// childTrim appends and trims until it is killed. Each acknowledged message is
// a line "last sequence".
func childTrim(l *Log) int {
	for i := 0; ; i++ {
		at, err := l.Append(context.Background(), "orders", body(i, 1000))
		if err == nil {
			fmt.Println("last", at.Sequence())
			err = l.Trim(context.Background(), at)
		}
		if err != nil {
			fmt.Println("error", err)
			return 1
		}
	}
}

// childPublish has 8 producers append through an Appender until it is killed. Each
// acknowledged number is a line "producer number".
func childPublish(l *Log) int {
	lasts := map[string]uint64{}
	if err := eachRecord(l, func(producer string, number uint64, _ []byte) { lasts[producer] = number }); err != nil {
		fmt.Println("error", err)
		return 1
	}
	d := NewAppender(l, lasts)
	var out sync.Mutex
	var wg sync.WaitGroup
	for p := range 8 {
		name := "p" + strconv.Itoa(p)
		wg.Go(func() {
			for n := lasts[name] + 1; ; n += 3 {
				records := [][]byte{childRecord(name, n), childRecord(name, n+1), childRecord(name, n+2)}
				if _, err := d.Append(context.Background(), Request{Stream: "orders", Records: records, Producer: name, Number: n}); err != nil {
					out.Lock()
					fmt.Println("error", err)
					out.Unlock()
					return
				}
				out.Lock()
				fmt.Println(name, n+2)
				out.Unlock()
			}
		})
	}
	wg.Wait()
	return 1
}

func childRecord(producer string, number uint64) []byte {
	return fmt.Appendf(nil, "%s-%d", producer, number)
}

// childDisk makes all writes to files fail, as a full disk does, and then succeed
// again. The log must refuse, keep what it acknowledged, and recover by itself.
func childDisk(l *Log, dir string) int {
	signal.Ignore(syscall.SIGXFSZ)
	fail := func(format string, args ...any) int {
		fmt.Printf("error "+format+"\n", args...)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	acked := 0
	for range 20 {
		if _, err := l.Append(ctx, "orders", body(acked, 1000)); err != nil {
			return fail("%v", err)
		}
		acked++
	}
	st, err := os.Stat(blockDir(dir) + "/1.blk")
	if err != nil {
		return fail("%v", err)
	}
	r, err := l.Read(ctx, 0)
	if err != nil {
		return fail("%v", err)
	}
	var whole syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &whole); err != nil {
		return fail("%v", err)
	}
	// The next record but one is torn.
	full := syscall.Rlimit{Cur: uint64(st.Size()) + 1500, Max: whole.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		return fail("%v", err)
	}
	for {
		_, err := l.Append(ctx, "orders", body(acked, 1000))
		if err != nil {
			if !errors.Is(err, ErrUnavailable) {
				return fail("on a full disk: %v", err)
			}
			break
		}
		acked++
	}
	if level, why := l.Health(); level != Refusing {
		return fail("on a full disk the log is %s %s", level, why)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &whole); err != nil {
		return fail("%v", err)
	}
	for {
		changed := l.change()
		if _, err := l.Append(ctx, "orders", body(acked, 1000)); err == nil {
			acked++
			break
		} else if !errors.Is(err, ErrUnavailable) {
			return fail("after the disk was freed: %v", err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fail("the log did not heal")
		}
	}
	for i := range acked + 1 {
		m, err := r.Next(ctx)
		if err != nil || i > 0 && string(m.Data) != string(body(i-1, 1000)) {
			return fail("message %d (%s): %v", i, m.At, err)
		}
	}
	if _, ok, err := r.TryNext(); ok || err != nil {
		return fail("more than was acknowledged (%v)", err)
	}
	r.Close()
	if err := l.Close(); err != nil {
		return fail("%v", err)
	}
	fmt.Println("done", acked)
	return 0
}
