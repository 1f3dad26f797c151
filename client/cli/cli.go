// Package cli is the sr-client program: its commands, what they print, and their exit codes.
package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"

	"upscaler/client"
	"upscaler/internal/version"
)

// The program's exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as a shell reports a program that SIGINT ended
)

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// usageError is a mistake in the command line: the program ends with exitUsage and names the help.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// reportedError was told to the user already; only the exit code is left to do.
type reportedError struct{ err error }

func (e *reportedError) Error() string { return e.err.Error() }
func (e *reportedError) Unwrap() error { return e.err }

// app is one run of the program.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer

	// Flags of every command.
	server    string
	private   bool
	tls       bool
	ca        string
	cert, key string
	tokenFile string

	// running is set once the command line was understood: what fails before is a usage error.
	running bool
}

// Main runs the program with its arguments (without the program's name) and returns its exit code. Ctrl+C ends what is
// going on in order; a second one ends the process at once.
func Main(args []string) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case <-signals:
			signal.Stop(signals) // from here on a signal does what it does by default
			cancel(errInterrupted)
		case <-ctx.Done():
		}
	}()
	// A reader that closes its end of `sr-client ... -o - | reader` is an error of a write here, not the end of the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	var usage *usageError
	var reported *reportedError
	switch {
	case errors.Is(err, errInterrupted):
		if !errors.As(err, &reported) {
			fmt.Fprintln(a.stderr, "sr-client: interrupted")
		}
		return exitInterrupted
	case errors.As(err, &usage), !a.running:
		fmt.Fprintf(a.stderr, "sr-client: %s\n%s --help tells how it is used.\n", printable(err.Error()), command.CommandPath())
		return exitUsage
	case !errors.As(err, &reported):
		fmt.Fprintf(a.stderr, "sr-client: %s\n", printableLines(err.Error()))
	}
	return exitFailed
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "sr-client",
		Short: "Upscale videos with super-resolution networks",
		Long: `sr-client sends videos to an upscaling server and stores what comes back: the picture upscaled by a
super-resolution network, everything else as it was.

Without --server it uses the server that listens on ` + client.DefaultAddress + `, or starts one for itself and stops it at the end.`,
		Example: `  sr-client upscale video.mp4                     # -> video.x2.mp4
  sr-client upscale in.mkv -o out.mkv --scale 4 --server gpu-box:50051
  sr-client probe video.mp4                       # what would happen to every stream`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", "", "address of the server: HOST:PORT or unix:PATH\n(default: the one on "+client.DefaultAddress+", else a private one)")
	flags.BoolVar(&a.private, "private", false, "start a private server even when one is listening")
	flags.BoolVar(&a.tls, "tls", false, "encrypt the connection, trusting the system's certificate authorities")
	flags.StringVar(&a.ca, "ca", "", "encrypt the connection, trusting the certificate authorities in this PEM `file`")
	flags.StringVar(&a.cert, "cert", "", "this client's own certificate, a PEM `file`, for servers that ask for one")
	flags.StringVar(&a.key, "key", "", "the private key of --cert, a PEM `file`")
	flags.StringVar(&a.tokenFile, "token-file", "", "`file` whose first line is the token for servers that ask for one")
	root.MarkFlagsMutuallyExclusive("server", "private")
	root.MarkFlagsRequiredTogether("cert", "key")
	for _, name := range []string{"ca", "cert", "key"} {
		_ = root.MarkPersistentFlagFilename(name, "pem", "crt", "key")
	}
	_ = root.RegisterFlagCompletionFunc("server", cobra.NoFileCompletions)
	root.AddCommand(a.upscaleCommand(), a.liveCommand(), a.probeCommand(), a.modelsCommand(), a.infoCommand(), a.versionCommand())
	for _, command := range root.Commands() {
		run := command.RunE
		command.RunE = func(cmd *cobra.Command, args []string) error {
			a.running = true // cobra has found no fault with the command line
			return run(cmd, args)
		}
	}
	return root
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print this program's version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.stdout, "sr-client %s (%s, %s/%s)\n", version.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

const (
	// lookTimeout bounds the look for a server on the default address: one that is there answers in milliseconds.
	lookTimeout = time.Second
	// exitNotice is how long to wait for the end of a private server whose connection broke, for its log.
	exitNotice = 2 * time.Second
)

// session is the connection to the server that a command uses.
type session struct {
	*client.Client
	private *client.Private // set when the server was started for this command
}

// connect returns a connection to the server that the flags name. It says on stderr when it starts one, since that takes
// a moment. The caller must close the session.
func (a *app) connect(ctx context.Context, say func(string)) (*session, error) {
	o, err := a.dialOptions()
	if err != nil {
		return nil, err
	}
	if a.server != "" {
		c, err := client.Dial(a.server, o)
		var address *client.AddressError
		if errors.As(err, &address) {
			return nil, &usageError{err}
		}
		return &session{Client: c}, err
	}
	if !a.private {
		c, err := client.Dial(client.DefaultAddress, o)
		if err != nil {
			return nil, err
		}
		look, cancel := context.WithTimeout(ctx, lookTimeout)
		serving := c.Serving(look)
		cancel()
		if serving {
			return &session{Client: c}, nil
		}
		_ = c.Close()
	}
	if o.TLS != nil {
		return nil, usagef("an encrypted connection needs --server: no server takes jobs at %s", client.DefaultAddress)
	}
	return a.startPrivate(ctx, say)
}

// startPrivate starts a server for this command, with further arguments.
func (a *app) startPrivate(ctx context.Context, say func(string), args ...string) (*session, error) {
	program, err := client.FindServer()
	if err != nil {
		return nil, fmt.Errorf("no server takes jobs at %s, and %s is neither beside sr-client nor in PATH to start one; "+
			"name a server with --server", client.DefaultAddress, client.ServerProgram)
	}
	say("starting a private server")
	p, err := client.StartPrivate(ctx, program, args...)
	if err != nil {
		return nil, err
	}
	c, err := client.Dial(p.Address(), client.Options{})
	if err != nil {
		p.Stop()
		return nil, err
	}
	return &session{Client: c, private: p}, nil
}

// close ends the connection, and the server if it is a private one.
func (s *session) close() {
	_ = s.Close()
	if s.private != nil {
		s.private.Stop()
	}
}

// explain adds the private server's log to an error that its end has caused.
func (s *session) explain(err error) error {
	var e *client.Error
	if errors.As(err, &e) && e.Reason == "RESUME" {
		return &resumeError{e}
	}
	if s.private == nil || !errors.As(err, &e) || e.Code != codes.Unavailable || e.Reason != "" {
		return err
	}
	select {
	case <-s.private.Exited():
		return fmt.Errorf("the private server ended unexpectedly%s", s.private.Log())
	case <-time.After(exitNotice):
		return err
	}
}

// dialOptions reads the files that the flags name.
func (a *app) dialOptions() (client.Options, error) {
	var o client.Options
	if a.tokenFile != "" {
		text, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return o, usagef("--token-file: %w", err)
		}
		line, _, _ := strings.Cut(string(text), "\n")
		if o.Token = strings.TrimSpace(line); o.Token == "" {
			return o, usagef("--token-file: the first line of %s is empty", a.tokenFile)
		}
	}
	if !a.tls && a.ca == "" && a.cert == "" {
		return o, nil
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if a.ca != "" {
		pem, err := os.ReadFile(a.ca)
		if err != nil {
			return o, usagef("--ca: %w", err)
		}
		o.TLS.RootCAs = x509.NewCertPool()
		if !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return o, usagef("--ca: %s holds no PEM certificate", a.ca)
		}
	}
	if a.cert != "" {
		pair, err := tls.LoadX509KeyPair(a.cert, a.key)
		if err != nil {
			return o, usagef("--cert and --key: %w", err)
		}
		o.TLS.Certificates = []tls.Certificate{pair}
	}
	return o, nil
}

// minBarTerminal is the narrowest terminal that gets bars, in columns; one that does not tell its width is 0 wide.
const minBarTerminal = 40

// showsBars reports whether w is a terminal that bars can be drawn on.
func showsBars(w any) bool {
	if !isTerminal(w) || os.Getenv("TERM") == "dumb" {
		return false
	}
	width, _, err := term.GetSize(int(w.(*os.File).Fd())) //nolint:gosec // a file descriptor is a small number
	return err == nil && width >= minBarTerminal
}

// isTerminal reports whether w (or a reader) is a terminal.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor is a small number
}
