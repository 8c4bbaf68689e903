// Command duet is all of Duet in one binary: the server (up), the tools for a
// project's folder (init, check) and the clients of a running server (ingest,
// query, batch, ...). The package parses flags and prints; the work is done by
// internal/client, internal/node and schemas.
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

	Up        upCommand        `cmd:"" help:"Run the server: log, live half, batch half and serving."`
	Init      initCommand      `cmd:"" help:"Create a project folder, from a sample file if you have one."`
	Check     checkCommand     `cmd:"" help:"Validate a project and list its views' columns."`
	Ingest    ingestCommand    `cmd:"" help:"Append files to a stream: CSV, NDJSON or Parquet, also .gz and .zst; - is stdin."`
	Query     queryCommand     `cmd:"" help:"Query a view; the proof goes to stderr."`
	Verify    verifyCommand    `cmd:"" help:"Recompute a view with plain DuckDB and compare; exit 1 if it differs."`
	Batch     batchCommand     `cmd:"" help:"Run and control the batch half."`
	Reconcile reconcileCommand `cmd:"" help:"Show how the two halves compare; exit 1 if they differ."`
	Rejects   rejectsCommand   `cmd:"" help:"List rejected events and why."`
	Scrub     scrubCommand     `cmd:"" help:"Verify every stored file from the disk now; exit 1 if one is damaged and cannot be rebuilt."`
	Status    statusCommand    `cmd:"" help:"Show how the server is doing; exit 1 if something needs attention."`
	Inspect   inspectCommand   `cmd:"" help:"Show what is stored: log, archive, generation or live."`
	Log       logCommand       `cmd:"" help:"Replace a log that is lost."`
	Version   versionCommand   `cmd:"" help:"Print the version."`

	BatchChild batchChildCommand `cmd:"" hidden:"" help:"Compute one generation; started by the batch half."`
}

// terminal is where a command reads and writes. Results go to out; progress,
// proofs and errors go to err.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	width    int    // of out in columns, if it is a terminal; else 0
	addr     string // of the server, for client commands
}

// dial returns a client of the server at --addr.
func (t *terminal) dial() (*client.Client, error) {
	c, err := client.Dial(t.addr)
	if err != nil {
		return nil, usageError("--addr: %v", err)
	}
	return c, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], &terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr, width: widthOf(os.Stdout)})
	stop()
	os.Exit(code)
}

// parser returns a parser that reads a command line into c. It calls exit after
// --help and --version.
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

// run parses and executes one command line and returns the exit code.
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

// parseError returns the usage error of a command line that does not parse; it
// names the help to read.
func parseError(args []string, err error) error {
	var parse *kong.ParseError
	command := ""
	if errors.As(err, &parse) && parse.Context != nil {
		command = parse.Context.Command()
	}
	// Command returns "batch rollback <generation>"; keep the words only.
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
