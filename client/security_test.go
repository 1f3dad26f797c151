package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"upscaler/client/internal/scripted"
)

// testCertificate returns the certificate that httptest uses, which is good for 127.0.0.1, and what trusts it.
func testCertificate(t *testing.T) (server *tls.Config, client *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates, MinVersion: tls.VersionTLS12}, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

func TestTLSAndToken(t *testing.T) {
	const token = "s3cret"
	serverTLS, trusting := testCertificate(t)
	tests := []struct {
		name    string
		server  *tls.Config
		options Options
		code    codes.Code
		want    string
	}{
		{name: "encrypted, token", server: serverTLS, options: Options{TLS: trusting, Token: token}},
		{name: "plaintext on this machine, token", options: Options{Token: token}},
		{
			name: "no token", options: Options{}, code: codes.Unauthenticated, want: "refuses: a token is needed",
		},
		{
			name: "wrong token", server: serverTLS, options: Options{TLS: trusting, Token: "guess"},
			code: codes.Unauthenticated, want: "refuses: a token is needed",
		},
		{
			name: "unknown authority", server: serverTLS, options: Options{TLS: &tls.Config{MinVersion: tls.VersionTLS12}, Token: token},
			code: codes.Unavailable, want: "failed to verify certificate",
		},
		{
			name: "plaintext to an encrypted server", server: serverTLS, options: Options{Token: token},
			code: codes.Unavailable, want: "connection to the server",
		},
		{
			name: "encrypted to a plaintext server", options: Options{TLS: trusting, Token: token},
			code: codes.Unavailable, want: "TLS handshake",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server, err := scripted.Start("", scripted.Script{OnUpscale: scripted.Transform(nil), TLS: test.server, Token: token})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Stop()
			c, err := Dial(server.Address(), test.options)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_, err = c.Upscale(t.Context(), Job{In: strings.NewReader("x"), Out: ToStream(io.Discard)})
			if status.Code(err) != test.code || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %v with %q", err, test.code, test.want)
			}
		})
	}
}

func TestTokenDoesNotTravelInPlaintext(t *testing.T) {
	_, trusting := testCertificate(t)
	for _, test := range []struct {
		address string
		options Options
		ok      bool
	}{
		{"gpu-box:50051", Options{Token: "x"}, false},
		{"192.0.2.1:50051", Options{Token: "x"}, false},
		{"gpu-box:50051", Options{Token: "x", TLS: trusting}, true},
		{"localhost:50051", Options{Token: "x"}, true},
		{"127.8.9.10:50051", Options{Token: "x"}, true},
		{"[::1]:50051", Options{Token: "x"}, true},
		{"unix:/run/sr.sock", Options{Token: "x"}, true},
	} {
		c, err := Dial(test.address, test.options)
		if err == nil {
			_ = c.Close()
		}
		var e *AddressError
		if (err == nil) != test.ok || (err != nil && !errors.As(err, &e)) {
			t.Errorf("Dial(%q) with TLS %v: %v", test.address, test.options.TLS != nil, err)
		}
	}
}
