package native

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// What a model file may hold at most. The files are ours, but an operator may point the server at any; each limit is some
// ten times what the largest LMSWN needs, and keeps a damaged file from costing more than milliseconds and megabytes.
const (
	maxFileBytes   = 16 << 20
	maxNodes       = 8192
	maxTensors     = 8192
	maxNodeIO      = 64 // inputs or outputs of one node
	maxAttributes  = 32
	maxDims        = 8
	maxTensorElems = 4 << 20
)

// TensorProto.DataType of the ONNX format, as far as a quantized convolutional network uses them.
const (
	typeFloat = 1
	typeUint8 = 2
	typeInt8  = 3
	typeInt32 = 6
	typeInt64 = 7
)

var errTruncated = errors.New("the file ends in the middle of a field or is damaged")

// onnxGraph is the part of an ONNX ModelProto that this package reads.
type onnxGraph struct {
	nodes   []onnxNode
	tensors map[string]*onnxTensor // initializers by name
	inputs  []string               // graph inputs that are no initializers
	outputs []string
}

type onnxNode struct {
	op      string
	inputs  []string
	outputs []string
	attrs   map[string]onnxAttr
}

// onnxAttr holds the one field that is set.
type onnxAttr struct {
	i      int64
	s      string
	ints   []int64
	tensor *onnxTensor
}

// onnxTensor is a constant. Only the slice of its type is set.
type onnxTensor struct {
	name   string
	dtype  int
	dims   []int
	elems  int
	floats []float32
	bytes  []byte  // uint8 and int8
	ints   []int64 // int32 and int64
}

// parseONNX reads the graph of a serialized ModelProto. Unknown fields are skipped, as protobuf wants it; what is read is
// bounded by the limits above.
func parseONNX(data []byte) (*onnxGraph, error) {
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("the file has %d bytes, more than the %d a model may have", len(data), maxFileBytes)
	}
	var graph []byte
	err := fields(data, func(num protowire.Number, v value) error {
		if num == 7 { // graph
			graph = v.bytes
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if graph == nil {
		return nil, errors.New("the file holds no graph; is it an ONNX model?")
	}
	g := &onnxGraph{tensors: map[string]*onnxTensor{}}
	err = fields(graph, func(num protowire.Number, v value) error {
		switch num {
		case 1: // node
			if len(g.nodes) == maxNodes {
				return fmt.Errorf("more than %d nodes", maxNodes)
			}
			n, err := parseNode(v.bytes)
			if err != nil {
				return fmt.Errorf("node %d: %w", len(g.nodes), err)
			}
			g.nodes = append(g.nodes, n)
		case 5: // initializer
			if len(g.tensors) == maxTensors {
				return fmt.Errorf("more than %d constants", maxTensors)
			}
			t, err := parseTensor(v.bytes)
			if err != nil {
				return fmt.Errorf("a constant: %w", err)
			}
			g.tensors[t.name] = t
		case 11, 12: // input, output
			name := ""
			if err := fields(v.bytes, func(num protowire.Number, v value) error {
				if num == 1 {
					name = string(v.bytes)
				}
				return nil
			}); err != nil {
				return err
			}
			list := &g.inputs
			if num == 12 {
				list = &g.outputs
			}
			if len(*list) == maxNodeIO {
				return fmt.Errorf("more than %d inputs or outputs", maxNodeIO)
			}
			*list = append(*list, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	kept := g.inputs[:0]
	for _, name := range g.inputs { // files of IR version 3 list initializers as inputs too
		if g.tensors[name] == nil {
			kept = append(kept, name)
		}
	}
	g.inputs = kept
	return g, nil
}

func parseNode(data []byte) (onnxNode, error) {
	n := onnxNode{attrs: map[string]onnxAttr{}}
	err := fields(data, func(num protowire.Number, v value) error {
		switch num {
		case 1, 2: // input, output
			list := &n.inputs
			if num == 2 {
				list = &n.outputs
			}
			if len(*list) == maxNodeIO {
				return fmt.Errorf("more than %d inputs or outputs", maxNodeIO)
			}
			*list = append(*list, string(v.bytes))
		case 4: // op_type
			n.op = string(v.bytes)
		case 7: // domain: operators outside ONNX's own mean something else under the same name
			if d := string(v.bytes); d != "" && d != "ai.onnx" {
				return fmt.Errorf("operator domain %q", d)
			}
		case 5: // attribute
			if len(n.attrs) == maxAttributes {
				return fmt.Errorf("more than %d attributes", maxAttributes)
			}
			name, a, err := parseAttr(v.bytes)
			if err != nil {
				return err
			}
			n.attrs[name] = a
		}
		return nil
	})
	return n, err
}

func parseAttr(data []byte) (string, onnxAttr, error) {
	var a onnxAttr
	name := ""
	err := fields(data, func(num protowire.Number, v value) (err error) {
		switch num {
		case 1:
			name = string(v.bytes)
		case 3:
			a.i = int64(v.varint)
		case 4:
			a.s = string(v.bytes)
		case 5:
			a.tensor, err = parseTensor(v.bytes)
		case 8:
			a.ints, err = appendInts(a.ints, v, maxNodeIO)
		}
		return err
	})
	return name, a, err
}

func parseTensor(data []byte) (*onnxTensor, error) {
	t := &onnxTensor{}
	var dims []int64
	var raw, floats []byte
	var ints []int64
	hasRaw := false
	err := fields(data, func(num protowire.Number, v value) (err error) {
		switch num {
		case 1:
			dims, err = appendInts(dims, v, maxDims)
		case 2:
			t.dtype = int(int32(v.varint))
		case 4: // float_data, packed or one by one
			if v.typ == protowire.Fixed32Type {
				floats = binary.LittleEndian.AppendUint32(floats, v.fixed32)
			} else {
				floats = append(floats, v.bytes...)
			}
		case 5, 7: // int32_data (also for the 8-bit types), int64_data
			ints, err = appendInts(ints, v, maxTensorElems)
		case 8:
			t.name = string(v.bytes)
		case 9:
			raw, hasRaw = v.bytes, true
		case 13:
			err = errors.New("constants outside the file are not read")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	t.elems = 1
	for _, d := range dims {
		if d < 0 || d > maxTensorElems || int64(t.elems)*d > maxTensorElems {
			return nil, fmt.Errorf("%q has the shape %v, more than %d elements", t.name, dims, maxTensorElems)
		}
		t.elems *= int(d)
		t.dims = append(t.dims, int(d))
	}
	size := map[int]int{typeFloat: 4, typeUint8: 1, typeInt8: 1, typeInt32: 4, typeInt64: 8}[t.dtype]
	if size == 0 {
		return nil, fmt.Errorf("%q has the element type %d, which a quantized LMSWN does not have", t.name, t.dtype)
	}
	wrong := fmt.Errorf("%q holds less or more than its shape %v says", t.name, dims)
	if !hasRaw {
		switch {
		case t.dtype == typeFloat:
			raw = floats
		case len(ints) != t.elems:
			return nil, wrong
		case t.dtype == typeUint8 || t.dtype == typeInt8:
			for _, v := range ints {
				t.bytes = append(t.bytes, byte(v))
			}
			return t, nil
		default:
			t.ints = ints
			return t, nil
		}
	}
	if len(raw) != t.elems*size {
		return nil, wrong
	}
	switch t.dtype {
	case typeFloat:
		t.floats = make([]float32, t.elems)
		for i := range t.floats {
			t.floats[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	case typeUint8, typeInt8:
		t.bytes = raw
	case typeInt32, typeInt64:
		t.ints = make([]int64, t.elems)
		for i := range t.ints {
			if size == 4 {
				t.ints[i] = int64(int32(binary.LittleEndian.Uint32(raw[4*i:])))
			} else {
				t.ints[i] = int64(binary.LittleEndian.Uint64(raw[8*i:]))
			}
		}
	}
	return t, nil
}

// value is one field's content; which member is set depends on the wire type.
type value struct {
	typ     protowire.Type
	varint  uint64
	fixed32 uint32
	bytes   []byte // points into the file
}

// fields calls f for every field of one protobuf message.
func fields(msg []byte, f func(num protowire.Number, v value) error) error {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return errTruncated
		}
		msg = msg[n:]
		v := value{typ: typ}
		switch typ {
		case protowire.VarintType:
			v.varint, n = protowire.ConsumeVarint(msg)
		case protowire.Fixed32Type:
			v.fixed32, n = protowire.ConsumeFixed32(msg)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(num, typ, msg)
		}
		if n < 0 {
			return errTruncated
		}
		msg = msg[n:]
		if err := f(num, v); err != nil {
			return err
		}
	}
	return nil
}

// appendInts appends a repeated integer field, which may come packed or one by one.
func appendInts(list []int64, v value, most int) ([]int64, error) {
	if v.typ == protowire.VarintType {
		if len(list) == most {
			return nil, fmt.Errorf("a list longer than %d", most)
		}
		return append(list, int64(v.varint)), nil
	}
	for b := v.bytes; len(b) > 0; {
		x, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return nil, errTruncated
		}
		if len(list) == most {
			return nil, fmt.Errorf("a list longer than %d", most)
		}
		list = append(list, int64(x))
		b = b[n:]
	}
	return list, nil
}
