package client

import (
	"errors"
	"strings"
	"testing"
)

// addresses are what ParseAddress makes of what people write; an empty want is a refusal. FuzzParseAddress begins from them.
var addresses = []struct{ text, want string }{
	{"127.0.0.1:50051", "127.0.0.1:50051"},
	{"gpu-box:7000", "gpu-box:7000"},
	{"gpu-box", "gpu-box:50051"},
	{":50052", "localhost:50052"},
	{"[::1]:50051", "[::1]:50051"},
	{"::1", "[::1]:50051"},
	{"[2001:db8::1]", "[2001:db8::1]:50051"},
	{"unix:/run/sr.sock", "unix:/run/sr.sock"},
	{"unix:///run/sr.sock", "unix:/run/sr.sock"},
	{"100%X", "100%X:50051"},
	{"unix", ""},
	{"", ""},
	{":", ""},
	{":0", ""},
	{"host:", ""},
	{"host:http", ""},
	{"host:70000", ""},
	{"host:-1", ""},
	{"a:b:c", ""},
	{"[::1", ""},
	{"http://host:1", ""},
	{"/run/sr.sock", ""},
	{"unix:", ""},
	{"unix://", ""},
	{"two words", ""},
	{"host\x00:1", ""},
}

func TestParseAddress(t *testing.T) {
	for _, test := range addresses {
		a, err := ParseAddress(test.text)
		if test.want == "" {
			var e *AddressError
			if !errors.As(err, &e) {
				t.Errorf("ParseAddress(%q) = %v, %v, want an *AddressError", test.text, a, err)
			}
			continue
		}
		if err != nil || a.String() != test.want {
			t.Errorf("ParseAddress(%q) = %v, %v, want %q", test.text, a, err, test.want)
		}
	}
}

func TestParseAddressTakesRelativeSockets(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	a, err := ParseAddress("unix:sr.sock")
	if err != nil || !strings.HasSuffix(a.Host, "/sr.sock") || !strings.HasPrefix(a.Host, "/") {
		t.Errorf("got %v, %v", a, err)
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, test := range addresses {
		f.Add(test.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAddress(text)
		if err != nil {
			return
		}
		again, err := ParseAddress(a.String())
		if err != nil || again != a {
			t.Errorf("%q is %+v, and that again %+v, %v", text, a, again, err)
		}
		c, err := Dial(text, Options{})
		if err != nil {
			t.Fatalf("gRPC does not take %q: %v", text, err)
		}
		_ = c.Close()
	})
}
