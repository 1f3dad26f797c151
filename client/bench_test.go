package client

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	upscalev1 "upscaler/gen/upscale/v1"

	"upscaler/client/internal/scripted"
)

// BenchmarkChunkSize is what chunkSize was chosen by: uploads to a server that only reads.
func BenchmarkChunkSize(b *testing.B) {
	const total = 64 << 20
	drain := func(s scripted.Upscale) error {
		for {
			if _, err := s.Recv(); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
	for _, network := range []string{"tcp", "unix"} {
		path := ""
		if network == "unix" {
			path = filepath.Join(b.TempDir(), "s")
		}
		server, err := scripted.Start(path, scripted.Script{OnUpscale: drain})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(server.Stop)
		c, err := Dial(server.Address(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		for _, kib := range []int{16, 31, 64, 256, 1024} {
			b.Run(fmt.Sprintf("%s/%dKiB", network, kib), func(b *testing.B) {
				b.SetBytes(total)
				for b.Loop() {
					stream, err := c.api.Upscale(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					err = sendAll(io.LimitReader(&endless{}, total), kib<<10, uploadStream{
						start: func() error { return nil },
						chunk: func(chunk *upscalev1.Chunk) error {
							return stream.Send(&upscalev1.UpscaleRequest{Payload: &upscalev1.UpscaleRequest_Chunk{Chunk: chunk}})
						},
						end: stream.CloseSend,
					})
					if err != nil {
						b.Fatal(err)
					}
					if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
