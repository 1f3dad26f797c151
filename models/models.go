// Package models holds the networks that the server carries with it. README.md tells what they are.
package models

import "embed"

// FS holds the .onnx files. What each one is stands in its metadata (see sr/onnx.Catalog); the names mean nothing.
//
//go:embed *.onnx
var FS embed.FS
