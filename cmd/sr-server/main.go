// Sr-server upscales videos for the clients that connect to it.
package main

import (
	"context"
	"fmt"
	"os"
)

func main() {
	if err := command().ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "sr-server:", err)
		os.Exit(1)
	}
}
