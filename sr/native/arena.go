package native

/*
#include <stdlib.h>
#include <string.h>
#include "native.h"
*/
import "C"

import (
	"slices"
	"unsafe"
)

// arena owns C memory that lives as long as a network: its constants, in the layout of native.h.
type arena struct{ blocks []unsafe.Pointer }

func (a *arena) free() {
	for _, b := range a.blocks {
		C.free(b)
	}
	a.blocks = nil
}

// alloc returns n zeroed elements, 64-byte aligned, with 64 bytes after them that may be read.
func alloc[T any](a *arena, n int) []T {
	var t T
	size := (n*int(unsafe.Sizeof(t)) + 64 + 63) &^ 63
	p := C.aligned_alloc(64, C.size_t(size))
	if p == nil {
		panic("native: out of memory")
	}
	C.memset(p, 0, C.size_t(size))
	a.blocks = append(a.blocks, p)
	return unsafe.Slice((*T)(p), n)
}

// keep copies a Go slice into the arena; nil for an empty one. C and Go types of one size may stand for each other.
func keep[C, G any](a *arena, s []G) *C {
	if len(s) == 0 {
		return nil
	}
	m := alloc[G](a, len(s))
	copy(m, s)
	return (*C)(unsafe.Pointer(&m[0]))
}

// program copies a program into C memory.
func (a *arena) program(p *program) *C.nat_net {
	net := &alloc[C.nat_net](a, 1)[0]
	ops, buffers := alloc[C.nat_op](a, len(p.ops)), alloc[C.nat_buffer](a, len(p.buffers))
	net.scale = C.int(p.scale)
	net.ops, net.op = C.int(len(ops)), &ops[0]
	net.buffers, net.buffer = C.int(len(buffers)), &buffers[0]
	for depth, t := range p.input {
		net.input[depth] = keep[C.uint8_t](a, t)
	}
	for i, b := range p.buffers {
		buffers[i] = C.nat_buffer{
			stride: C.int(b.stride), pad: C.int(b.pad), rows: C.int(b.rows), padding: keep[C.uint8_t](a, b.padding),
		}
	}
	for i := range p.ops {
		a.op(p, &p.ops[i], &ops[i])
	}
	return net
}

func (a *arena) op(p *program, o *op, c *C.nat_op) {
	c.kind = C.int(o.kind)
	c.k, c.cin, c.cout, c.cpad = C.int(o.k), C.int(o.cin), C.int(o.cout), C.int(o.cpad)
	c.lead = C.int(o.lead)
	c.residual = C.int(o.residual)
	c.copies = C.int(len(o.copies))
	for i, k := range o.copies {
		c.copy[i] = C.nat_copy{
			buffer: C.int(k.buffer), stride: C.int(p.buffers[k.buffer].stride), lut: keep[C.uint8_t](a, k.tables),
			stages: C.int(k.stages), a: keep[C.float](a, k.a), b: keep[C.float](a, k.b),
		}
	}
	if o.kind == opInput {
		return
	}
	c.sources = C.int(len(o.sources))
	for i, s := range o.sources {
		c.source[i] = C.nat_source{buffer: C.int(s.buffer), first: C.int(s.first), n: C.int(s.n)}
		c.source_stride[i] = C.int(p.buffers[s.buffer].stride)
	}
	if o.residual >= 0 {
		c.residual_stride = C.int(p.buffers[o.residual].stride)
	}
	c.weights = keep[C.int8_t](a, o.weights)
	c.bias, c.mul, c.shift = keep[C.int32_t](a, o.bias), keep[C.float](a, o.mul), keep[C.float](a, o.shift)
	c.zero, c.lo = C.int(o.zero), C.int(o.lo)
	c.add_q, c.add_r, c.add_c = C.float(o.addQ), C.float(o.addR), C.float(o.dC)

	pairs, rowPairs := o.pairs()
	c.pairs, c.row_pairs = keep[C.int16_t](a, pairs), C.int(rowPairs)
	c.winograd = keep[C.int16_t](a, o.winograd())
	mul4, bias4, signedBias := make([]float32, o.cpad), make([]int32, o.cpad), slices.Clone(o.bias)
	for i := range mul4 {
		mul4[i], bias4[i] = o.mul[i]/4, o.bias[i]*4
	}
	for i, w := range o.weights {
		signedBias[i/(o.k*o.k*o.cin)] += 128 * int32(w)
	}
	c.signed_bias = keep[C.int32_t](a, signedBias)
	c.mul4, c.bias4 = keep[C.float](a, mul4), keep[C.int32_t](a, bias4)

	pixel := p.buffers[o.sources[0].buffer].stride
	q := o.quads(pixel)
	c.quads, c.taps = keep[C.int8_t](a, q.weights), C.int(q.taps)
	list := alloc[C.nat_step](a, len(q.steps))
	for i, s := range q.steps {
		list[i] = C.nat_step{row: C.int(s.row), offset: C.int(s.offset)}
	}
	c.step, c.steps, c.pixel = &list[0], C.int(len(q.steps)), C.int(pixel)
}
