// Command sr-client upscales videos with the help of an upscaling server; see sr-client --help.
package main

import (
	"os"

	"upscaler/client/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
