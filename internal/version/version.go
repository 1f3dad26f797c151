// Package version holds the program's version.
package version

// Version is set by the linker to what git describes.
var Version = "dev"
