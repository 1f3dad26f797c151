package native

import (
	"fmt"
	"math"
	"slices"
)

// What a network may look like at most; LMSWN's largest has 64 channels, 6 blocks and 36 convolutions.
const (
	maxChannels = 256
	maxRoots    = 512
	maxScale    = 8
	maxSteps    = 8 // quantizations or products in a row with no arithmetic between them
)

// quant is how a byte stands for a real number: real = (q - zero) * scale.
type quant struct {
	scale float32
	zero  int
}

// real returns what q stands for, computed as ONNX's DequantizeLinear does.
func (q quant) real(v int) float32 { return float32(v-q.zero) * q.scale }

// byteOf returns the byte that stands for x, computed as ONNX's QuantizeLinear does: round half to even, then saturate.
func (q quant) byteOf(x float32) uint8 {
	v := math.RoundToEven(float64(x/q.scale)) + float64(q.zero)
	return uint8(min(max(v, 0), 255)) // a NaN cannot come from finite scales
}

// lut maps every byte to a byte: what quantizing anew (a slice, a product with a constant, a concatenation) does to it.
type lut [256]uint8

// tensor is a run of channels of one root's output, each byte looked up in the tables of steps one after the other.
type tensor struct {
	root     int
	first, n int
	steps    []*lut
}

// real is a tensor of bytes together with what they stand for: (q - zero) * scale, times each factor in turn.
type realTensor struct {
	tensor
	quant   quant
	factors []float32
}

// root is where new bytes come from: the quantized input plane, a convolution, or a sum of two tensors. Everything else in
// the graph only renames, narrows, joins or re-quantizes bytes that a root made.
type root struct {
	channels int
	out      quant
	conv     *conv
	sum      *[2]realTensor
}

// conv is one convolution with stride 1 and "same" zero padding.
type conv struct {
	k         int // kernel size: 1, 3, 5 or 7
	cin, cout int
	src       []tensor  // the input's channels in order; more than one after a concatenation
	in        quant     // what the input's bytes stand for
	weights   []int8    // cout x cin x k x k
	scales    []float32 // of the weights, per output channel
	bias      []float32 // in real units, per output channel
	relu      bool
}

// network is a graph reduced to its arithmetic.
type network struct {
	scale int
	input quant // of the luma plane
	roots []root
	last  *conv // its cout = scale*scale outputs, plus the input, are the upscaled picture
}

// nodeValue is what a name in the graph stands for while it is being read. Exactly one member is set.
type nodeValue struct {
	isInput bool         // the float luma plane
	bytes   []tensor     // quantized
	reals   []realTensor // dequantized
	weights *onnxTensor  // dequantized constant, with wscales
	wscales []float32
	conv    *conv          // a convolution not yet quantized
	sum     *[2]realTensor // a sum not yet quantized
	last    *conv          // the last convolution plus the input
	output  bool
}

type reader struct {
	g      *onnxGraph
	values map[string]nodeValue
	net    *network
}

// readNetwork reduces a graph in QDQ form to a network. It returns an error that says which node is not understood when the
// graph is not a quantized LMSWN.
func readNetwork(g *onnxGraph) (*network, error) {
	if len(g.inputs) != 1 || len(g.outputs) != 1 {
		return nil, fmt.Errorf("the graph has %d inputs and %d outputs, not one of each", len(g.inputs), len(g.outputs))
	}
	r := &reader{g: g, values: map[string]nodeValue{g.inputs[0]: {isInput: true}}, net: &network{}}
	for i := range g.nodes {
		n := &g.nodes[i]
		v, err := r.node(n)
		if err != nil {
			return nil, fmt.Errorf("node %d (%s): %w", i, n.op, err)
		}
		if len(n.outputs) != 1 {
			return nil, fmt.Errorf("node %d (%s) has %d outputs", i, n.op, len(n.outputs))
		}
		r.values[n.outputs[0]] = v
	}
	if !r.values[g.outputs[0]].output {
		return nil, fmt.Errorf("the graph does not end in an upscaled picture (last convolution + input, DepthToSpace)")
	}
	return r.net, nil
}

func (r *reader) node(n *onnxNode) (nodeValue, error) {
	switch n.op {
	case "QuantizeLinear":
		return r.quantize(n)
	case "DequantizeLinear":
		return r.dequantize(n)
	case "Conv":
		return r.conv(n)
	case "Relu":
		v, err := r.value(n, 0)
		if err != nil || v.conv == nil {
			return v, orElse(err, "is not after a convolution")
		}
		c := *v.conv
		c.relu = true
		return nodeValue{conv: &c}, nil
	case "Slice":
		return r.slice(n)
	case "Concat":
		return r.concat(n)
	case "Mul":
		return r.mul(n)
	case "Add":
		return r.add(n)
	case "DepthToSpace":
		return r.depthToSpace(n)
	case "Constant":
		a := n.attrs["value"].tensor
		if a == nil || len(n.outputs) != 1 {
			return nodeValue{}, fmt.Errorf("holds no tensor")
		}
		r.g.tensors[n.outputs[0]] = a
		return nodeValue{}, nil
	}
	return nodeValue{}, fmt.Errorf("the operator is not part of a quantized LMSWN")
}

func orElse(err error, text string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%s", text)
}

// value returns what the node's i-th input stands for.
func (r *reader) value(n *onnxNode, i int) (nodeValue, error) {
	if i >= len(n.inputs) {
		return nodeValue{}, fmt.Errorf("has no input %d", i)
	}
	v, ok := r.values[n.inputs[i]]
	if !ok {
		return v, fmt.Errorf("input %q comes from no earlier node", n.inputs[i])
	}
	return v, nil
}

func (r *reader) constant(n *onnxNode, i int) (*onnxTensor, error) {
	if i >= len(n.inputs) || r.g.tensors[n.inputs[i]] == nil {
		return nil, fmt.Errorf("input %d is not a constant", i)
	}
	return r.g.tensors[n.inputs[i]], nil
}

// scaleAndZero reads the scale and the zero point of a (de)quantization of activations: one pair for the whole tensor.
func (r *reader) scaleAndZero(n *onnxNode) (quant, error) {
	s, err := r.constant(n, 1)
	if err != nil {
		return quant{}, err
	}
	z, err := r.constant(n, 2)
	if err != nil {
		return quant{}, err
	}
	if len(s.floats) != 1 || z.dtype != typeUint8 || z.elems != 1 {
		return quant{}, fmt.Errorf("activations must be uint8 with one scale and one zero point")
	}
	if err := checkScale(s.floats[0]); err != nil {
		return quant{}, err
	}
	return quant{s.floats[0], int(z.bytes[0])}, nil
}

// checkScale refuses scales whose products or quotients could leave float32's normal range.
func checkScale(s float32) error {
	if !(s > 1e-12 && s < 1e6) {
		return fmt.Errorf("the scale %g is not a sensible one", s)
	}
	return nil
}

func (r *reader) addRoot(t root) (nodeValue, error) {
	if len(r.net.roots) == maxRoots {
		return nodeValue{}, fmt.Errorf("more than %d quantized results", maxRoots)
	}
	r.net.roots = append(r.net.roots, t)
	return nodeValue{bytes: []tensor{{root: len(r.net.roots) - 1, n: t.channels}}}, nil
}

func (r *reader) quantize(n *onnxNode) (nodeValue, error) {
	v, err := r.value(n, 0)
	if err != nil {
		return v, err
	}
	q, err := r.scaleAndZero(n)
	if err != nil {
		return v, err
	}
	switch {
	case v.isInput:
		if len(r.net.roots) > 0 {
			return v, fmt.Errorf("the input is quantized twice")
		}
		r.net.input = q
		return r.addRoot(root{channels: 1, out: q})
	case v.conv != nil:
		return r.addRoot(root{channels: v.conv.cout, out: q, conv: v.conv})
	case v.sum != nil:
		return r.addRoot(root{channels: v.sum[0].n, out: q, sum: v.sum})
	case v.reals != nil:
		out := make([]tensor, len(v.reals))
		for i, t := range v.reals {
			out[i] = t.tensor
			if t.quant == q && len(t.factors) == 0 {
				continue // the same bytes again
			}
			if len(t.steps) == maxSteps {
				return v, fmt.Errorf("more than %d quantizations in a row", maxSteps)
			}
			table := &lut{}
			for b := range table {
				table[b] = q.byteOf(t.real(b))
			}
			out[i].steps = append(slices.Clone(t.steps), table)
		}
		return nodeValue{bytes: out}, nil
	}
	return v, fmt.Errorf("quantizes something that is not a result")
}

// real returns what byte b of the tensor stands for.
func (t realTensor) real(b int) float32 {
	x := t.quant.real(b)
	for _, f := range t.factors {
		x *= f
	}
	return x
}

func (r *reader) dequantize(n *onnxNode) (nodeValue, error) {
	if len(n.inputs) > 0 && r.g.tensors[n.inputs[0]] != nil {
		return r.dequantizeConstant(n, r.g.tensors[n.inputs[0]])
	}
	v, err := r.value(n, 0)
	if err != nil {
		return v, err
	}
	q, err := r.scaleAndZero(n)
	if err != nil {
		return v, err
	}
	if v.bytes == nil {
		return v, fmt.Errorf("dequantizes something that is not quantized")
	}
	out := make([]realTensor, len(v.bytes))
	for i, t := range v.bytes {
		out[i] = realTensor{tensor: t, quant: q}
	}
	return nodeValue{reals: out}, nil
}

func (r *reader) dequantizeConstant(n *onnxNode, t *onnxTensor) (nodeValue, error) {
	s, err := r.constant(n, 1)
	if err != nil {
		return nodeValue{}, err
	}
	for _, x := range s.floats {
		if err := checkScale(x); err != nil {
			return nodeValue{}, err
		}
	}
	if len(n.inputs) > 2 {
		z, err := r.constant(n, 2)
		if err != nil {
			return nodeValue{}, err
		}
		for i := range z.elems {
			if z.bytes != nil && z.bytes[i] != 0 || z.ints != nil && z.ints[i] != 0 {
				return nodeValue{}, fmt.Errorf("weights must be symmetric (zero point 0)")
			}
		}
	}
	if a, ok := n.attrs["axis"]; ok && a.i != 0 && s.elems > 1 {
		return nodeValue{}, fmt.Errorf("weights must be quantized along axis 0")
	}
	if s.elems == 0 || s.dtype != typeFloat {
		return nodeValue{}, fmt.Errorf("has no scale")
	}
	return nodeValue{weights: t, wscales: s.floats}, nil
}

func (r *reader) conv(n *onnxNode) (nodeValue, error) {
	x, err := r.value(n, 0)
	if err != nil {
		return x, err
	}
	w, err := r.value(n, 1)
	if err != nil {
		return x, err
	}
	if x.reals == nil || w.weights == nil || w.weights.dtype != typeInt8 {
		return x, fmt.Errorf("input and weights must be dequantized bytes")
	}
	t := w.weights
	if len(t.dims) != 4 || t.dims[2] != t.dims[3] || !slices.Contains([]int{1, 3, 5, 7}, t.dims[2]) {
		return x, fmt.Errorf("the weights' shape is %v; kernels are 1x1, 3x3, 5x5 or 7x7", t.dims)
	}
	c := &conv{cout: t.dims[0], cin: t.dims[1], k: t.dims[2], weights: make([]int8, t.elems)}
	if c.cout < 1 || c.cout > maxChannels || c.cin < 1 || c.cin > maxRoots*maxChannels {
		return x, fmt.Errorf("%d channels in and %d out", c.cin, c.cout)
	}
	for i, b := range t.bytes {
		c.weights[i] = int8(b)
	}
	if err := plainConv(n, c.k); err != nil {
		return x, err
	}
	channels := 0
	for i, p := range x.reals {
		channels += p.n
		if i == 0 {
			c.in = p.quant
		} else if p.quant != c.in {
			return x, fmt.Errorf("its inputs have several scales")
		}
		if len(p.factors) > 0 {
			return x, fmt.Errorf("its input is not quantized")
		}
		c.src = append(c.src, p.tensor)
	}
	if channels != c.cin {
		return x, fmt.Errorf("%d channels come in, the weights are for %d", channels, c.cin)
	}
	if len(w.wscales) == 1 {
		c.scales = slices.Repeat(w.wscales, c.cout)
	} else if c.scales = w.wscales; len(c.scales) != c.cout {
		return x, fmt.Errorf("%d scales for %d output channels", len(c.scales), c.cout)
	}
	if c.bias, err = r.bias(n, c); err != nil {
		return x, err
	}
	return nodeValue{conv: c}, nil
}

// plainConv refuses attributes that make a convolution other than stride 1, undilated, ungrouped and "same".
func plainConv(n *onnxNode, k int) error {
	for name, a := range n.attrs {
		want := int64(1)
		switch name {
		case "group":
			if a.i != 1 {
				return fmt.Errorf("grouped convolution")
			}
			continue
		case "auto_pad":
			if a.s != "" && a.s != "NOTSET" {
				return fmt.Errorf("auto_pad %q", a.s)
			}
			continue
		case "kernel_shape":
			want = int64(k)
		case "pads":
			want = int64(k / 2)
		case "strides", "dilations":
		default:
			return fmt.Errorf("attribute %q", name)
		}
		for _, v := range a.ints {
			if v != want {
				return fmt.Errorf("%s %v", name, a.ints)
			}
		}
	}
	if k > 1 && len(n.attrs["pads"].ints) != 4 {
		return fmt.Errorf("no padding")
	}
	return nil
}

// bias reads the optional third input: floats, or int32 in units of input scale times weight scale.
func (r *reader) bias(n *onnxNode, c *conv) ([]float32, error) {
	out := make([]float32, c.cout)
	if len(n.inputs) < 3 || n.inputs[2] == "" {
		return out, nil
	}
	if t := r.g.tensors[n.inputs[2]]; t != nil {
		if len(t.floats) != c.cout {
			return nil, fmt.Errorf("the bias has %d values for %d channels", len(t.floats), c.cout)
		}
		copy(out, t.floats)
	} else {
		v, err := r.value(n, 2)
		if err != nil {
			return nil, err
		}
		t := v.weights
		if t == nil || t.dtype != typeInt32 || len(t.ints) != c.cout || len(v.wscales) != 1 && len(v.wscales) != c.cout {
			return nil, fmt.Errorf("the bias is neither float nor dequantized int32")
		}
		for i, b := range t.ints {
			out[i] = float32(b) * v.wscales[i%len(v.wscales)]
		}
	}
	for _, b := range out {
		if !(math.Abs(float64(b)) < 1e6) {
			return nil, fmt.Errorf("the bias %g is not a sensible one", b)
		}
	}
	return out, nil
}

// ints returns a constant list of integers.
func (r *reader) ints(n *onnxNode, i int) ([]int64, error) {
	t, err := r.constant(n, i)
	if err != nil {
		return nil, err
	}
	if t.dtype != typeInt64 && t.dtype != typeInt32 {
		return nil, fmt.Errorf("input %d is not a list of integers", i)
	}
	return t.ints, nil
}

func (r *reader) slice(n *onnxNode) (nodeValue, error) {
	v, err := r.value(n, 0)
	if err != nil {
		return v, err
	}
	var start, end, axis []int64
	if start, err = r.ints(n, 1); err != nil {
		return v, err
	}
	if end, err = r.ints(n, 2); err != nil {
		return v, err
	}
	if axis, err = r.ints(n, 3); err != nil {
		return v, err
	}
	if len(n.inputs) > 4 && n.inputs[4] != "" {
		if step, err := r.ints(n, 4); err != nil || len(step) != 1 || step[0] != 1 {
			return v, orElse(err, "steps other than 1")
		}
	}
	if len(start) != 1 || len(end) != 1 || len(axis) != 1 || axis[0] != 1 {
		return v, fmt.Errorf("slices something other than channels")
	}
	total := 0
	for _, t := range v.bytes {
		total += t.n
	}
	for _, t := range v.reals {
		total += t.n
	}
	a, b := start[0], min(end[0], int64(total))
	if a < 0 || b <= a {
		return v, fmt.Errorf("slice %d:%d of %d channels", start[0], end[0], total)
	}
	var out nodeValue
	at := int64(0)
	cut := func(t tensor) (tensor, bool) {
		lo, hi := max(a-at, 0), min(b-at, int64(t.n))
		at += int64(t.n)
		if lo >= hi {
			return t, false
		}
		t.first, t.n = t.first+int(lo), int(hi-lo)
		return t, true
	}
	for _, t := range v.bytes {
		if c, ok := cut(t); ok {
			out.bytes = append(out.bytes, c)
		}
	}
	for _, t := range v.reals {
		if c, ok := cut(t.tensor); ok {
			t.tensor = c
			out.reals = append(out.reals, t)
		}
	}
	return out, nil
}

func (r *reader) concat(n *onnxNode) (nodeValue, error) {
	if n.attrs["axis"].i != 1 {
		return nodeValue{}, fmt.Errorf("joins something other than channels")
	}
	var out nodeValue
	for i := range n.inputs {
		v, err := r.value(n, i)
		if err != nil {
			return v, err
		}
		if v.bytes == nil && v.reals == nil {
			return v, fmt.Errorf("input %d is not quantized", i)
		}
		out.bytes = append(out.bytes, v.bytes...)
		out.reals = append(out.reals, v.reals...)
		if len(out.bytes)+len(out.reals) > maxRoots {
			return v, fmt.Errorf("joins more than %d parts", maxRoots)
		}
	}
	if out.bytes != nil && out.reals != nil {
		return out, fmt.Errorf("joins bytes and real numbers")
	}
	return out, nil
}

func (r *reader) mul(n *onnxNode) (nodeValue, error) {
	if len(n.inputs) != 2 {
		return nodeValue{}, fmt.Errorf("has %d inputs", len(n.inputs))
	}
	a, b := 0, 1
	if r.g.tensors[n.inputs[0]] != nil {
		a, b = 1, 0
	}
	v, err := r.value(n, a)
	if err != nil {
		return v, err
	}
	k, err := r.constant(n, b)
	if err != nil {
		return v, err
	}
	if len(k.floats) != 1 || v.reals == nil {
		return v, fmt.Errorf("multiplies something other than a dequantized tensor by one number")
	}
	if err := checkScale(max(k.floats[0], -k.floats[0])); err != nil {
		return v, err
	}
	var out nodeValue
	for _, t := range v.reals {
		if len(t.factors) == maxSteps {
			return v, fmt.Errorf("more than %d products in a row", maxSteps)
		}
		t.factors = append(slices.Clone(t.factors), k.floats[0])
		out.reals = append(out.reals, t)
	}
	return out, nil
}

func (r *reader) add(n *onnxNode) (nodeValue, error) {
	a, err := r.value(n, 0)
	if err != nil {
		return a, err
	}
	b, err := r.value(n, 1)
	if err != nil {
		return a, err
	}
	if a.isInput {
		a, b = b, a
	}
	if a.conv != nil && b.isInput {
		return nodeValue{last: a.conv}, nil
	}
	if len(a.reals) != 1 || len(b.reals) != 1 || a.reals[0].n != b.reals[0].n {
		return a, fmt.Errorf("adds something other than two dequantized tensors of one shape")
	}
	return nodeValue{sum: &[2]realTensor{a.reals[0], b.reals[0]}}, nil
}

func (r *reader) depthToSpace(n *onnxNode) (nodeValue, error) {
	v, err := r.value(n, 0)
	if err != nil {
		return v, err
	}
	s := int(n.attrs["blocksize"].i)
	// With one channel a pixel the two orders, DCR and CRD, are the same.
	if v.last == nil || v.last.relu || s < 1 || s > maxScale || v.last.cout != s*s {
		return v, fmt.Errorf("is not after the last convolution plus the input, or its block size does not fit")
	}
	r.net.scale, r.net.last = s, v.last
	return nodeValue{output: true}, nil
}
