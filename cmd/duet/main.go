// Command duet is the whole of Duet in one binary: the platform (up), the
// tools for a project's folder (init, check) and the clients of a running
// server (ingest, query, batch, ...). The package holds flags, wiring and
// printing; what a command does stands in internal/client, internal/node and
// schemas.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"duet/internal/client"
)

// version is set by the Makefile, from git.
var version = "unknown"

// commands is the command line.
type commands struct {
	Addr string `help:"Server to talk to, host:port." env:"DUET_ADDR" default:"127.0.0.1:7401" placeholder:"ADDR"`

	ShowVersion versionFlag `name:"version" help:"Print the version."`

	Up        upCommand        `cmd:"" help:"Run the platform: log, live half, batch half and serving, in this process."`
	Init      initCommand      `cmd:"" help:"Write a new project's folder, from a file if there is one."`
	Check     checkCommand     `cmd:"" help:"Validate a project and show what its views mean."`
	Ingest    ingestCommand    `cmd:"" help:"Append files to a stream: CSV, NDJSON or Parquet, also .gz and .zst, - for stdin."`
	Query     queryCommand     `cmd:"" help:"Ask a view; the proof goes to stderr."`
	Verify    verifyCommand    `cmd:"" help:"Recompute a view with plain DuckDB over archive and tail, and compare."`
	Batch     batchCommand     `cmd:"" help:"Run and steer the batch half."`
	Reconcile reconcileCommand `cmd:"" help:"Show how both halves compare; exit 1 if they differ."`
	Rejects   rejectsCommand   `cmd:"" help:"What was refused, and why."`
	Status    statusCommand    `cmd:"" help:"Is it up and well? Exit 1 if something needs a person."`
	Inspect   inspectCommand   `cmd:"" help:"Show what is stored, as it is stored."`
	Version   versionCommand   `cmd:"" help:"Print the version."`

	BatchChild batchChildCommand `cmd:"" hidden:"" help:"Compute one generation; started by the batch half."`
}

// terminal is where a command reads and writes. Answers go to out; progress,
// proofs and errors to err.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	addr     string // of the server that client commands talk to
}

// dial connects to the server of --addr.
func (t *terminal) dial() (*client.Client, error) {
	c, err := client.Dial(t.addr)
	if err != nil {
		return nil, usageError("--addr: %v", err)
	}
	return c, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], &terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	stop()
	os.Exit(code)
}

// parser reads a command line into c. What ends parsing with all said, such as
// --help, calls exit.
func parser(ctx context.Context, c *commands, t *terminal, exit func(code int)) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("duet"),
		kong.Description("Sales analytics with one SQL definition, computed live and in batch, and one exact answer."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(t.out, t.err),
		kong.Exit(exit),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(t),
	)
}

// run parses and executes one command line and gives the exit code.
func run(ctx context.Context, args []string, t *terminal) int {
	var c commands
	exited := -1
	parser, err := parser(ctx, &c, t, func(code int) { exited = code })
	if err != nil {
		return report(t, fmt.Errorf("the command line's definition: %w", err))
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 { // --help has been printed
		return exited
	}
	if err != nil {
		return report(t, parseError(args, err))
	}
	t.addr = c.Addr
	return report(t, parsed.Run())
}

// parseError says what to write instead of a command line that does not parse.
func parseError(args []string, err error) error {
	var parse *kong.ParseError
	command := ""
	if errors.As(err, &parse) && parse.Context != nil {
		command = parse.Context.Command()
	}
	// Command gives "batch rollback <generation>"; help wants the words.
	words := strings.FieldsFunc(command, func(r rune) bool { return r == ' ' })
	n := 0
	for _, word := range words {
		if strings.HasPrefix(word, "<") {
			break
		}
		n++
	}
	help := strings.Join(append([]string{"duet"}, words[:n]...), " ")
	return usageError("%v. See %s --help", err, help)
}
