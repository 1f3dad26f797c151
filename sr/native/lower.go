package native

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// maxMultiplyAdds is the most work a pixel of input may take: some five times the largest LMSWN's. It keeps the self-check of a
// strange file short of a second or two.
const maxMultiplyAdds = 4 << 20

// Bounds of the C code, as in native.h.
const (
	maxRows   = 16
	maxCopies = 4
	maxStages = 3
	lanes     = 16
	band      = 2
	maxOps    = 512
	maxBufs   = 1024
	maxStepsC = 4096
)

type opKind int

const (
	opInput opKind = iota // the luma plane's samples become bytes
	opBytes               // a convolution whose result is quantized
	opPlane               // the last convolution
)

// program is a network in the order and the numbers in which it is computed. It mirrors nat_net in native.h.
type program struct {
	scale   int
	ops     []op
	buffers []buffer
	input   [17][]byte // by depth, 8..16: the byte that stands for each code value
	radius  int        // rows of input, above and below, that one row of output depends on
	macs    int64      // multiply-adds an input pixel
}

type buffer struct {
	stride, pad, rows int
	padding           []byte
}

type source struct{ buffer, first, n int }

type op struct {
	kind           opKind
	k, cin, cout   int
	cpad           int
	lead           int
	sources        []source
	weights        []int8 // cout x k x k x cin
	bias           []int32
	mul, shift     []float32
	zero, lo       int
	residual       int // buffer, or -1
	addQ, addR, dC float32
	copies         []opCopy
}

// opCopy is one place an op's result goes to. Several exist where readers want the same channels quantized differently.
type opCopy struct {
	buffer int
	uses   []*channelUse // by channel; nil: nobody reads it
	tables []byte        // 256 for each channel; nil: the result as it is
	stages int
	a, b   []float32 // stages x cpad
}

// channelUse is how the readers of one copy want a channel.
type channelUse struct {
	table lut
	steps []*lut // that make up the table
	zero  int    // what padding holds; -1: no reader pads
}

// lowering is the state while a network becomes a program.
type lowering struct {
	net   *network
	prog  *program
	opOf  []int // by root: the op that computes it; -1: part of another root's op
	reads [][]read
}

// read is one op's use of another's result, in a buffer that does not exist yet.
type read struct {
	op, copy  int
	from      tensor
	radius    int
	residual  bool
	sourcePos int
}

var identity = func() (t lut) {
	for i := range t {
		t[i] = uint8(i)
	}
	return
}()

// table returns the tensor's steps as one table.
func (t tensor) table() lut {
	out := identity
	for _, s := range t.steps {
		for i, v := range out {
			out[i] = s[v]
		}
	}
	return out
}

// lower turns a network into a program: sums are fused into the convolution before them, re-quantizations into what made
// their input, slices and concatenations into channel offsets.
func lower(net *network) (*program, error) {
	l := &lowering{net: net, prog: &program{scale: net.scale}, opOf: make([]int, len(net.roots))}
	if len(net.roots) == 0 || net.roots[0].conv != nil || net.roots[0].sum != nil {
		return nil, errors.New("the input is not quantized before anything else")
	}
	fused, err := l.fusedConvs()
	if err != nil {
		return nil, err
	}
	for i, r := range net.roots {
		l.opOf[i] = -1
		if slices.Contains(fused, i) {
			continue
		}
		l.opOf[i] = len(l.prog.ops)
		var err error
		switch {
		case r.sum != nil:
			err = l.addSum(r, net.roots[fused[i]])
		case r.conv != nil:
			_, err = l.addConv(opBytes, r.conv, r.out)
		default:
			l.addOp(op{kind: opInput, k: 1, cin: 1, cout: 1, cpad: lanes, residual: -1})
		}
		if err != nil {
			return nil, err
		}
	}
	if _, err := l.addConv(opPlane, net.last, quant{scale: 1}); err != nil {
		return nil, err
	}
	if l.prog.macs > maxMultiplyAdds {
		return nil, fmt.Errorf("%d multiply-adds a pixel, more than %d", l.prog.macs, maxMultiplyAdds)
	}
	if len(l.prog.ops) > maxOps {
		return nil, fmt.Errorf("%d operations, more than %d", len(l.prog.ops), maxOps)
	}
	if err := l.addBuffers(); err != nil {
		return nil, err
	}
	l.inputTables()
	return l.prog, nil
}

// fusedConvs returns for each sum's root the convolution's root it is computed with, -1 for other roots: that one of the two
// operands which nothing else reads.
func (l *lowering) fusedConvs() ([]int, error) {
	uses := make([]int, len(l.net.roots))
	count := func(c *conv) {
		for _, t := range c.src {
			uses[t.root]++
		}
	}
	for _, r := range l.net.roots {
		if r.conv != nil {
			count(r.conv)
		}
		if r.sum != nil {
			uses[r.sum[0].root]++
			uses[r.sum[1].root]++
		}
	}
	count(l.net.last)
	fused := slices.Repeat([]int{-1}, len(l.net.roots))
	for i, r := range l.net.roots {
		if r.sum == nil {
			continue
		}
		for j, t := range r.sum {
			whole := t.first == 0 && t.n == l.net.roots[t.root].channels && len(t.steps) == 0 && len(t.factors) == 0
			if l.net.roots[t.root].conv != nil && uses[t.root] == 1 && whole {
				fused[i] = t.root
				if j == 1 {
					r.sum[0], r.sum[1] = r.sum[1], r.sum[0]
				}
				break
			}
		}
		other := r.sum[1]
		if fused[i] < 0 || other.first != 0 || other.n != l.net.roots[other.root].channels {
			return nil, errors.New("a sum is not of a convolution's result and another whole tensor")
		}
	}
	return fused, nil
}

func (l *lowering) addOp(o op) *op {
	l.prog.ops = append(l.prog.ops, o)
	l.reads = append(l.reads, nil)
	return &l.prog.ops[len(l.prog.ops)-1]
}

func (l *lowering) addConv(kind opKind, c *conv, out quant) (*op, error) {
	o := l.addOp(op{kind: kind, k: c.k, cin: c.cin, cout: c.cout, cpad: (c.cout + lanes - 1) / lanes * lanes, residual: -1})
	if err := o.numbers(c, out); err != nil {
		return nil, err
	}
	if len(c.src) > 1 && c.k > 1 {
		return nil, fmt.Errorf("a %dx%d convolution reads a concatenation; only 1x1 may", c.k, c.k)
	}
	if len(c.src)*c.k > maxRows {
		return nil, fmt.Errorf("a convolution reads %d rows, more than %d", len(c.src)*c.k, maxRows)
	}
	for i, t := range c.src {
		if err := l.addRead(t, c.in.zero, c.k/2, read{sourcePos: i}); err != nil {
			return nil, err
		}
	}
	l.prog.macs += o.multiplyAdds()
	return o, nil
}

// multiplyAdds returns how many multiply-adds a pixel takes.
func (o *op) multiplyAdds() int64 { return int64(o.cin) * int64(o.cout) * int64(o.k) * int64(o.k) }

func (l *lowering) addSum(r, conv root) error {
	o, err := l.addConv(opBytes, conv.conv, conv.out)
	if err != nil {
		return err
	}
	a, b := r.sum[0], r.sum[1]
	scaleB := b.quant.scale
	for _, f := range b.factors {
		scaleB *= f
	}
	o.addQ, o.addR = a.quant.scale/r.out.scale, scaleB/r.out.scale
	o.dC = float32(r.out.zero) - float32(float32(o.addQ*float32(a.quant.zero))+float32(o.addR*float32(b.quant.zero)))
	for _, v := range []float32{o.addQ, o.addR, o.dC} {
		if !(math.Abs(float64(v)) < 1e6) {
			return errors.New("a sum's scales are too far apart")
		}
	}
	o.residual = 0
	return l.addRead(b.tensor, -1, 0, read{residual: true})
}

// numbers computes what the epilogue needs, with float32 operations in the order in which ONNX Runtime does them.
func (o *op) numbers(c *conv, out quant) error {
	o.zero = out.zero
	if c.relu {
		o.lo = out.zero
	}
	o.bias, o.mul, o.shift = make([]int32, o.cpad), make([]float32, o.cpad), make([]float32, o.cpad)
	o.weights = make([]int8, len(c.weights))
	taps := c.k * c.k
	for oc := range c.cout {
		unit := c.in.scale * c.scales[oc] // what 1 in a sum stands for
		weightSum, magnitude := int64(0), int64(0)
		for ci := range c.cin {
			for t := range taps {
				w := c.weights[(oc*c.cin+ci)*taps+t]
				o.weights[(oc*taps+t)*c.cin+ci] = w
				weightSum += int64(w)
				magnitude += max(int64(w), -int64(w))
			}
		}
		bias := 0.0
		if o.kind == opPlane {
			o.mul[oc], o.shift[oc] = unit, c.bias[oc]
		} else {
			o.mul[oc] = unit / out.scale
			bias = math.RoundToEven(float64(c.bias[oc] / unit))
		}
		bias -= float64(int64(c.in.zero) * weightSum)
		most := math.Abs(bias) + float64(255*magnitude)
		// Four times a sum must fit 32 bits (winograd), and so must a sum in units of the output's scale.
		if !(most < 1<<28) || !(most*float64(o.mul[oc]) < 1<<28) || !(float64(o.mul[oc]) > 1e-30) {
			return errors.New("a convolution's sums do not fit 32 bits")
		}
		o.bias[oc] = int32(bias)
	}
	return nil
}

// addRead notes that the last op reads t, whose padding (where radius > 0) is zero, and finds the copy of it to read.
func (l *lowering) addRead(t tensor, zero, radius int, r read) error {
	from := l.opOf[t.root]
	if from < 0 {
		return errors.New("the result of a convolution is added and also used otherwise")
	}
	if radius == 0 {
		zero = -1
	}
	p := &l.prog.ops[from]
	table := t.table()
	r.op, r.from, r.radius = len(l.prog.ops)-1, t, radius
	r.copy = -1
	for i := range p.copies {
		if p.copies[i].fits(t.first, t.n, &table, zero) {
			r.copy = i
			break
		}
	}
	if r.copy < 0 {
		if len(p.copies) == maxCopies || p.kind == opInput && len(p.copies) == 1 {
			return errors.New("a result is quantized in too many ways")
		}
		r.copy = len(p.copies)
		p.copies = append(p.copies, opCopy{uses: make([]*channelUse, p.cout)})
	}
	uses := p.copies[r.copy].uses
	for i := t.first; i < t.first+t.n; i++ {
		if uses[i] == nil {
			uses[i] = &channelUse{table: table, steps: t.steps, zero: zero}
		}
		if zero >= 0 {
			uses[i].zero = zero
		}
	}
	l.reads[from] = append(l.reads[from], r)
	return nil
}

// fits tells whether the copy holds, or may hold, the channels looked up in the table and padded with zero.
func (c *opCopy) fits(first, n int, table *lut, zero int) bool {
	for _, u := range c.uses[first : first+n] {
		if u != nil && (u.table != *table || zero >= 0 && u.zero >= 0 && u.zero != zero) {
			return false
		}
	}
	return true
}

// addBuffers makes a buffer for every copy, large enough for its readers, and points the readers at it.
func (l *lowering) addBuffers() error {
	p := l.prog
	stride := 0 // one for all buffers, so that a step over several sources is the same for each
	for _, o := range p.ops {
		stride = max(stride, o.cpad)
	}
	for i := len(p.ops) - 1; i >= 0; i-- {
		o := &p.ops[i]
		if o.kind != opPlane && len(l.reads[i]) == 0 {
			return errors.New("a result is computed and never used")
		}
		for _, r := range l.reads[i] {
			o.lead = max(o.lead, p.ops[r.op].lead+r.radius)
		}
		if o.kind != opPlane && o.kind != opInput {
			for j := range o.copies {
				if err := o.copies[j].solve(o.cout, o.cpad); err != nil {
					return err
				}
			}
		}
		for j := range o.copies {
			c := &o.copies[j]
			c.buffer = len(p.buffers)
			b := buffer{stride: stride}
			if o.kind == opInput {
				b.stride = 1
			}
			b.padding = make([]byte, b.stride)
			for ch, u := range c.uses {
				if u != nil {
					b.padding[ch] = uint8(max(u.zero, 0))
				}
			}
			for _, r := range l.reads[i] {
				if r.copy == j {
					b.pad = max(b.pad, r.radius)
					b.rows = max(b.rows, band+o.lead-p.ops[r.op].lead+r.radius)
				}
			}
			p.buffers = append(p.buffers, b)
		}
	}
	if len(p.buffers) > maxBufs {
		return fmt.Errorf("%d buffers, more than %d", len(p.buffers), maxBufs)
	}
	for i := range p.ops {
		slices.SortStableFunc(l.reads[i], func(a, b read) int { return a.sourcePos - b.sourcePos })
	}
	for i, reads := range l.reads {
		for _, r := range reads {
			buf := p.ops[i].copies[r.copy].buffer
			o := &p.ops[r.op]
			if r.residual {
				o.residual = buf
				continue
			}
			for len(o.sources) <= r.sourcePos {
				o.sources = append(o.sources, source{})
			}
			o.sources[r.sourcePos] = source{buf, r.from.first, r.from.n}
		}
	}
	for _, o := range p.ops {
		if o.k*o.k*(o.cin/4+maxRows) > maxStepsC {
			return fmt.Errorf("a %dx%d convolution of %d channels is too large", o.k, o.k, o.cin)
		}
	}
	p.radius = p.ops[0].lead
	return nil
}

// inputTables computes for every depth which byte stands for a luma sample of each code value.
func (l *lowering) inputTables() {
	table := l.prog.ops[0].copies[0].uses[0].table
	for depth := 8; depth <= 16; depth++ {
		most := 1<<depth - 1
		t := make([]byte, most+1)
		for code := range t {
			t[code] = table[l.net.input.byteOf(float32(code)/float32(most))]
		}
		l.prog.input[depth] = t
	}
}

// solve finds multiply-adds that do exactly what the copy's tables do, for the paths that have no fast table look-up: up to
// maxStages of them, each rounded and saturated.
func (c *opCopy) solve(cout, cpad int) error {
	chains := make([][]stage, cout)
	for ch, u := range c.uses {
		if u == nil || u.table == identity {
			continue
		}
		s, ok := solveStages(u)
		if !ok {
			return errors.New("a quantization cannot be expressed in multiply-adds")
		}
		chains[ch] = s
		c.stages = max(c.stages, len(s))
	}
	if c.stages == 0 {
		return nil
	}
	c.tables = make([]byte, 256*cout)
	c.a, c.b = make([]float32, c.stages*cpad), make([]float32, c.stages*cpad)
	for i := range c.a {
		c.a[i] = 1 // stands for itself
	}
	for ch := range cout {
		table := identity
		if u := c.uses[ch]; u != nil {
			table = u.table
		}
		copy(c.tables[256*ch:], table[:])
		for i, s := range chains[ch] {
			c.a[i*cpad+ch], c.b[i*cpad+ch] = s.a, s.b
		}
	}
	return nil
}
