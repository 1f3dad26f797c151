package onnx

import (
	"io/fs"
	"testing"

	"upscaler/models"
)

func TestCatalogRefusesIncompleteMetadata(t *testing.T) {
	for name, data := range badModels {
		if m, err := ReadModel(data); err == nil {
			t.Errorf("%s: read as %+v, want an error", name, m)
		}
	}
}

var badModels = map[string][]byte{
	"empty":          {},
	"not an ONNX":    []byte("hello, world"),
	"no metadata":    appendBytes(nil, modelGraph, nil),
	"halo too large": metadata("receptive_field", "100000"),
	"scale is text":  metadata("scale", "two"),
}

// metadata returns a model file of nothing but complete metadata, with one value replaced.
func metadata(key, value string) []byte {
	props := map[string]string{
		"name": "a", "version": "1", "scale": "2", "tier": "s", "flavour": "clean", "precision": "fp32", "receptive_field": "17",
		"parameters": "5", "license": "none",
	}
	props[key] = value
	var b []byte
	for k, v := range props {
		b = appendBytes(b, modelMetadata, appendBytes(appendBytes(nil, entryKey, []byte(k)), entryValue, []byte(v)))
	}
	return b
}

func TestReadModel(t *testing.T) {
	m, err := ReadModel(metadata("name", "b"))
	if err != nil || m.Name != "b" || m.Scale != 2 || m.Halo != 17 || m.Parameters != 5 {
		t.Errorf("got %+v, %v", m, err)
	}
}

// FuzzModel reads damaged model files: an error or a graph, never a crash, and a graph that can be read again.
func FuzzModel(f *testing.F) {
	for _, data := range badModels {
		f.Add(data)
	}
	f.Add(probeModel())
	names, err := fs.Glob(models.FS, "*.onnx")
	if err != nil || len(names) == 0 {
		f.Fatal("no models", err)
	}
	data, err := models.FS.ReadFile(names[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := ReadModel(data); err == nil && (m.Scale < 1 || m.Halo < 0 || m.Name == "") {
			t.Errorf("accepted %+v", m)
		}
		out, err := instrument(data, elemUint8)
		if err != nil {
			return
		}
		if err := fields(out, func(field) error { return nil }); err != nil {
			t.Errorf("instrument made what cannot be read: %v", err)
		}
	})
}
