package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte("# of the studio\nalpha\n\n beta \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := readTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	const method = "/upscale.v1.UpscaleService/Upscale"
	table := []struct {
		name, header, method string
		want                 codes.Code
	}{
		{"first", "Bearer alpha", method, codes.OK},
		{"trimmed", "Bearer beta", method, codes.OK},
		{"wrong", "Bearer gamma", method, codes.Unauthenticated},
		{"comment", "Bearer # of the studio", method, codes.Unauthenticated},
		{"empty", "Bearer ", method, codes.Unauthenticated},
		{"no scheme", "alpha", method, codes.Unauthenticated},
		{"none", "", method, codes.Unauthenticated},
		{"health", "", "/grpc.health.v1.Health/Check", codes.OK},
		{"looks like health", "", "/grpc.health.v1.HealthX/Check", codes.Unauthenticated},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			ctx := context.Background()
			if c.header != "" {
				ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", c.header))
			}
			if got := status.Code(tokens.check(ctx, c.method)); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestTokenFileMustHoldOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte("\n# none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readTokens(path); err == nil {
		t.Error("a file without tokens was accepted; it would let nobody in, or everybody")
	}
}

func TestSecurityFlagsFitTogether(t *testing.T) {
	table := map[string]security{
		"certificate without key": {cert: "c.pem"},
		"key without certificate": {key: "k.pem"},
		"client CA without TLS":   {clientCA: "ca.pem"},
		"missing files":           {cert: "none.pem", key: "none.pem"},
		"missing token file":      {tokenFile: "none"},
	}
	for name, s := range table {
		t.Run(name, func(t *testing.T) {
			if _, err := s.serverOptions("127.0.0.1:0", slog.New(slog.DiscardHandler)); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestLocalOnly(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:50051": true, "localhost:1": true, "[::1]:1": true, "unix:/run/x": true,
		":50051": false, "0.0.0.0:1": false, "192.168.1.2:1": false, "example.org:1": false, "nonsense": false,
	} {
		if got := localOnly(addr); got != want {
			t.Errorf("localOnly(%q) = %v, want %v", addr, got, want)
		}
	}
}
