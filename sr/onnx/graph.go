package onnx

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"upscaler/sr"
)

// Field numbers of onnx.proto (ONNX's IR specification) that are read or written here.
const (
	modelIRVersion = 1
	modelGraph     = 7
	modelOpset     = 8
	modelMetadata  = 14
	opsetVersion   = 2

	graphNode        = 1
	graphName        = 2
	graphInitializer = 5
	graphInput       = 11
	graphOutput      = 12

	nodeInput, nodeOutput, nodeOpType, nodeAttribute = 1, 2, 4, 5

	attributeName, attributeInt, attributeType = 1, 3, 20
	attributeTypeInt                           = 2

	valueName, valueType              = 1, 2
	typeTensor                        = 1
	tensorElemType, tensorShape       = 1, 2
	shapeDim                          = 1
	dimValue, dimParam                = 1, 2
	initType, initFloat, initName     = 2, 4, 8
	entryKey, entryValue              = 1, 2
	elemFloat, elemUint8, elemFloat16 = 1, 2, 10
	elemUint16                        = 4
)

// The names of the graph's inputs and output after instrument. All tensors have the batch as first dimension.
const (
	inLuma  = "upscaler_luma"   // N x 1 x H x W, uint8 or uint16: code values
	inUnit  = "upscaler_unit"   // N x 1 x 1 x 1, float32: 1/(2^depth-1), the value of one code step
	inPeak  = "upscaler_peak"   // N x 1 x 1 x 1, float32: 2^depth-1, the code value of 1.0
	outLuma = "upscaler_result" // N x 1 x sH x sW, of inLuma's type
)

// Catalog reads what every .onnx file in the root of fsys says about itself. A file without complete metadata is an error: it
// would be served wrongly.
func Catalog(fsys fs.FS) ([]sr.File, error) {
	names, err := fs.Glob(fsys, "*.onnx")
	if err != nil {
		return nil, err
	}
	seen := map[string]string{}
	var files []sr.File
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		m, err := ReadModel(data)
		if err != nil {
			return nil, fmt.Errorf("model file %s: %w", name, err)
		}
		if other := seen[m.Name]; other != "" {
			return nil, fmt.Errorf("model files %s and %s are both called %s in their metadata", other, name, m.Name)
		}
		seen[m.Name] = name
		files = append(files, sr.File{Model: m, Data: data})
	}
	return files, nil
}

// The largest values that metadata may claim; beyond them a file is damaged, not ambitious.
const (
	maxScale = 8
	maxHalo  = 256
)

// ReadModel reads the metadata of an .onnx file (ModelProto.metadata_props, written by train/metadata.py).
func ReadModel(data []byte) (sr.Model, error) {
	props := map[string]string{}
	err := fields(data, func(f field) error {
		if f.number != modelMetadata {
			return nil
		}
		var key, value string
		err := fields(f.bytes, func(f field) error {
			switch f.number {
			case entryKey:
				key = string(f.bytes)
			case entryValue:
				value = string(f.bytes)
			}
			return nil
		})
		props[key] = value
		return err
	})
	if err != nil {
		return sr.Model{}, err
	}
	number := func(key string, least, most int) int {
		n, e := strconv.Atoi(props[key])
		if e != nil || n < least || n > most {
			err = errors.Join(err, fmt.Errorf("metadata %s is %q, want a number from %d to %d", key, props[key], least, most))
		}
		return n
	}
	text := func(key string) string {
		if props[key] == "" {
			err = errors.Join(err, fmt.Errorf("metadata %s is missing", key))
		}
		return props[key]
	}
	m := sr.Model{
		Name: text("name"), Version: text("version"), Scale: number("scale", 1, maxScale), Tier: text("tier"), Flavour: text("flavour"),
		Precision: text("precision"), Halo: number("receptive_field", 0, maxHalo),
		Parameters: int64(number("parameters", 1, 1<<40)), License: text("license"), Training: props["training"],
	}
	return m, err
}

// instrument returns the model with conversions around the network: its input becomes code values of elem (elemUint8 or
// elemUint16), its output the same, clamped and rounded to the nearest. So no plane is converted in Go, and only bytes cross the bus
// to a GPU. Unit and peak are inputs, one value for each picture, so that pictures of different depths share a batch.
//
// The graph is edited as bytes: all of it is kept as it is but the declarations of its input and output, before and behind which
// nodes are put.
func instrument(data []byte, elem uint64) ([]byte, error) {
	var model, graph []byte
	err := fields(data, func(f field) error {
		if f.number == modelGraph {
			graph = f.bytes
		} else {
			model = append(model, f.raw...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var middle []byte
	var inputs, outputs []value
	err = fields(graph, func(f field) error {
		if f.number != graphInput && f.number != graphOutput {
			middle = append(middle, f.raw...)
			return nil
		}
		v, err := parseValue(f.bytes)
		if f.number == graphInput {
			inputs = append(inputs, v)
		} else {
			outputs = append(outputs, v)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(inputs) != 1 || len(outputs) != 1 {
		return nil, fmt.Errorf("the graph has %d inputs and %d outputs, want one each", len(inputs), len(outputs))
	}
	in, out := inputs[0], outputs[0]
	for _, v := range []value{in, out} {
		if v.elem != elemFloat && v.elem != elemFloat16 {
			return nil, fmt.Errorf("tensor %s has element type %d, want float32 or float16", v.name, v.elem)
		}
	}

	const p = "upscaler_" // before every name of ours, so that none is the network's
	var g []byte
	g = append(g, node("Cast", []string{inLuma}, p+"code", elemFloat)...)
	if in.elem == elemFloat {
		g = append(g, node("Mul", []string{p + "code", inUnit}, in.name, 0)...)
	} else {
		g = append(g, node("Mul", []string{p + "code", inUnit}, p+"in", 0)...)
		g = append(g, node("Cast", []string{p + "in"}, in.name, in.elem)...)
	}
	g = append(g, middle...)
	result := out.name
	if out.elem != elemFloat {
		result = p + "out"
		g = append(g, node("Cast", []string{out.name}, result, elemFloat)...)
	}
	g = append(g, node("Clip", []string{result, p + "zero", p + "one"}, p+"clipped", 0)...)
	g = append(g, node("Mul", []string{p + "clipped", inPeak}, p+"scaled", 0)...)
	g = append(g, node("Add", []string{p + "scaled", p + "half"}, p+"rounded", 0)...) // Cast drops the fraction
	g = append(g, node("Cast", []string{p + "rounded"}, outLuma, elem)...)
	g = append(g, constant(p+"zero", 0)...)
	g = append(g, constant(p+"one", 1)...)
	g = append(g, constant(p+"half", 0.5)...)
	g = append(g, declare(graphInput, inLuma, elem, "h", "w")...)
	g = append(g, declare(graphInput, inUnit, elemFloat, "", "")...)
	g = append(g, declare(graphInput, inPeak, elemFloat, "", "")...)
	g = append(g, declare(graphOutput, outLuma, elem, "sh", "sw")...)
	return appendBytes(model, modelGraph, g), nil
}

// value is the declaration of a graph's input or output.
type value struct {
	name string
	elem uint64
}

func parseValue(b []byte) (v value, err error) {
	err = fields(b, func(f field) error {
		switch f.number {
		case valueName:
			v.name = string(f.bytes)
		case valueType:
			return fields(f.bytes, func(f field) error {
				if f.number != typeTensor {
					return nil
				}
				return fields(f.bytes, func(f field) error {
					if f.number == tensorElemType {
						v.elem = f.varint
					}
					return nil
				})
			})
		}
		return nil
	})
	return v, err
}

// node returns a graph's field holding a node; to is Cast's attribute, 0 for other operators.
func node(op string, inputs []string, output string, to uint64) []byte {
	var b []byte
	for _, in := range inputs {
		b = appendBytes(b, nodeInput, []byte(in))
	}
	b = appendBytes(b, nodeOutput, []byte(output))
	b = appendBytes(b, nodeOpType, []byte(op))
	if to != 0 {
		a := appendBytes(nil, attributeName, []byte("to"))
		a = appendVarint(a, attributeInt, to)
		a = appendVarint(a, attributeType, attributeTypeInt)
		b = appendBytes(b, nodeAttribute, a)
	}
	return appendBytes(nil, graphNode, b)
}

// constant returns a graph's field holding a float32 scalar.
func constant(name string, v float32) []byte {
	b := appendVarint(nil, initType, elemFloat)
	b = appendBytes(b, initFloat, protowire.AppendFixed32(nil, math.Float32bits(v)))
	b = appendBytes(b, initName, []byte(name))
	return appendBytes(nil, graphInitializer, b)
}

// declare returns a graph's field declaring an input or output of shape n x 1 x h x w; an empty h or w stands for 1.
func declare(number protowire.Number, name string, elem uint64, h, w string) []byte {
	var shape []byte
	for _, d := range []string{"n", "", h, w} {
		var dim []byte
		if d == "" {
			dim = appendVarint(nil, dimValue, 1)
		} else {
			dim = appendBytes(nil, dimParam, []byte(d))
		}
		shape = appendBytes(shape, shapeDim, dim)
	}
	tensor := appendVarint(nil, tensorElemType, elem)
	tensor = appendBytes(tensor, tensorShape, shape)
	b := appendBytes(nil, valueName, []byte(name))
	b = appendBytes(b, valueType, appendBytes(nil, typeTensor, tensor))
	return appendBytes(nil, number, b)
}

// field is one field of a protobuf message.
type field struct {
	number protowire.Number
	raw    []byte // tag and value
	bytes  []byte // the value of a string, bytes or message field
	varint uint64 // the value of an integer field
}

// fields calls visit for each field of a message until it returns an error.
func fields(b []byte, visit func(field) error) error {
	for len(b) > 0 {
		number, typ, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return fmt.Errorf("not an ONNX file: %w", protowire.ParseError(tag))
		}
		n := protowire.ConsumeFieldValue(number, typ, b[tag:])
		if n < 0 {
			return fmt.Errorf("not an ONNX file: %w", protowire.ParseError(n))
		}
		f := field{number: number, raw: b[:tag+n]}
		switch typ {
		case protowire.BytesType:
			f.bytes, _ = protowire.ConsumeBytes(b[tag:])
		case protowire.VarintType:
			f.varint, _ = protowire.ConsumeVarint(b[tag:])
		}
		if err := visit(f); err != nil {
			return err
		}
		b = b[tag+n:]
	}
	return nil
}

func appendBytes(b []byte, number protowire.Number, value []byte) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return protowire.AppendBytes(b, value)
}

func appendVarint(b []byte, number protowire.Number, value uint64) []byte {
	b = protowire.AppendTag(b, number, protowire.VarintType)
	return protowire.AppendVarint(b, value)
}
