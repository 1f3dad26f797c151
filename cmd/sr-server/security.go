package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// security says who may use the server, and how the way to it is protected.
type security struct {
	cert, key, clientCA, tokenFile string
}

func (s *security) register(p *pflag.FlagSet) {
	p.StringVar(&s.cert, "tls-cert", "", "PEM file with the server's certificate chain")
	p.StringVar(&s.key, "tls-key", "", "PEM file with its private key")
	p.StringVar(&s.clientCA, "tls-client-ca", "", "PEM file with the authorities whose client certificates are accepted; then every client needs one")
	p.StringVar(&s.tokenFile, "token-file", "", "file with one bearer token a line; then every call needs one of them")
}

// serverOptions checks that the flags fit together and turns them into what gRPC takes.
func (s *security) serverOptions(listen string, log *slog.Logger) ([]grpc.ServerOption, error) {
	var options []grpc.ServerOption
	switch {
	case (s.cert == "") != (s.key == ""):
		return nil, errors.New("--tls-cert and --tls-key go together")
	case s.cert != "":
		config, err := s.tlsConfig()
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	case s.clientCA != "":
		return nil, errors.New("--tls-client-ca needs --tls-cert and --tls-key")
	case !localOnly(listen):
		log.Warn("other machines can reach this server, and nothing is encrypted; give --tls-cert and --tls-key", "listen", listen)
	}
	if s.tokenFile != "" {
		tokens, err := readTokens(s.tokenFile)
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.ChainUnaryInterceptor(tokens.unary), grpc.ChainStreamInterceptor(tokens.stream))
	}
	return options, nil
}

func (s *security) tlsConfig() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(s.cert, s.key)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert %s: %w", s.cert, err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if s.clientCA != "" {
		pem, err := os.ReadFile(s.clientCA)
		if err != nil {
			return nil, fmt.Errorf("--tls-client-ca: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--tls-client-ca %s holds no certificate", s.clientCA)
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}

// localOnly reports whether nobody outside this machine can reach addr.
func localOnly(addr string) bool {
	if strings.HasPrefix(addr, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// tokens are the digests of the accepted bearer tokens: comparing digests takes the same time wherever tokens differ.
type tokens [][sha256.Size]byte

func readTokens(path string) (tokens, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--token-file: %w", err)
	}
	defer f.Close()
	var t tokens
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if token := strings.TrimSpace(lines.Text()); token != "" && !strings.HasPrefix(token, "#") {
			t = append(t, sha256.Sum256([]byte(token)))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("--token-file: %w", err)
	}
	if len(t) == 0 {
		return nil, fmt.Errorf("--token-file %s holds no token", path)
	}
	return t, nil
}

func (t tokens) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := t.check(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (t tokens) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := t.check(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, ss)
}

func (t tokens) check(ctx context.Context, method string) error {
	if strings.HasPrefix(method, "/grpc.health.v1.Health/") {
		return nil // load balancers ask for it and learn nothing from it
	}
	for _, value := range metadata.ValueFromIncomingContext(ctx, "authorization") {
		token, ok := strings.CutPrefix(value, "Bearer ")
		if !ok {
			continue
		}
		digest, match := sha256.Sum256([]byte(token)), 0
		for _, want := range t {
			match |= subtle.ConstantTimeCompare(digest[:], want[:])
		}
		if match == 1 {
			return nil
		}
	}
	return status.Error(codes.Unauthenticated, "this server asks for a bearer token in the authorization header; give sr-client one with --token-file")
}
