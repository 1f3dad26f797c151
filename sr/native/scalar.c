// The definition: what every other path must equal, bit for bit. Written to be read, not to be fast.
#include <math.h>

#include "native.h"

static int clamp(int v, int lo, int hi) { return v < lo ? lo : v > hi ? hi : v; }

static int lines(const nat_op *op) {
	(void)op;
	return 1;
}

static size_t scratch(const nat_op *op, int width) {
	(void)op, (void)width;
	return 0;
}

static int32_t sum_at(const nat_op *op, const nat_work *w, const int *stride, int x, int oc) {
	const int8_t *weight = op->weights + (size_t)oc * op->k * op->k * op->cin;
	int32_t sum = op->bias[oc];
	for (int ky = 0; ky < op->k; ky++) {
		for (int kx = 0; kx < op->k; kx++) {
			for (int s = 0; s < op->sources; s++) {
				const uint8_t *in = w->row[0][s * op->k + ky] + (ptrdiff_t)(x + kx - op->k / 2) * stride[s];
				for (int c = 0; c < op->source[s].n; c++) {
					sum += in[c] * *weight++;
				}
			}
		}
	}
	return sum;
}

static void conv(const nat_op *op, const nat_work *w) {
	for (int x = 0; x < w->width; x++) {
		for (int oc = 0; oc < op->cout; oc++) {
			float sum = (float)sum_at(op, w, op->source_stride, x, oc);
			if (op->kind == NAT_PLANE) {
				w->sums[0][(size_t)x * op->cpad + oc] = fmaf(sum, op->mul[oc], op->shift[oc]);
				continue;
			}
			int q = clamp((int)lrintf(sum * op->mul[oc]) + op->zero, op->lo, 255);
			if (op->residual >= 0) {
				float r = w->residual[0][(size_t)x * op->residual_stride + oc];
				q = clamp((int)lrintf(fmaf(q, op->add_q, fmaf(r, op->add_r, op->add_c))), 0, 255);
			}
			for (int i = 0; i < op->copies; i++) {
				const nat_copy *c = &op->copy[i];
				w->out[0][i][(size_t)x * c->stride + oc] = c->lut ? c->lut[oc * 256 + q] : q;
			}
		}
	}
}

static void finish(const float *sums, int lanes, const uint8_t *src, int width, int scale, int depth, uint8_t *dst,
	ptrdiff_t dst_stride) {
	int most = (1 << depth) - 1;
	for (int x = 0; x < width; x++) {
		int code = depth == 8 ? src[x] : src[2 * x] | src[2 * x + 1] << 8;
		float in = (float)(code > most ? most : code) / (float)most;
		for (int i = 0; i < scale * scale; i++) {
			float v = (sums[(size_t)x * lanes + i] + in) * (float)most;
			v = v < 0 ? 0 : v > most ? most : v;
			int q = (int)lrintf(v);
			uint8_t *out = dst + i / scale * dst_stride;
			size_t at = (size_t)x * scale + i % scale;
			if (depth == 8) {
				out[at] = (uint8_t)q;
			} else {
				out[2 * at] = (uint8_t)q;
				out[2 * at + 1] = (uint8_t)(q >> 8);
			}
		}
	}
}

const nat_path *nat_scalar(void) {
	static const nat_path path = {"scalar", lines, scratch, conv, finish};
	return &path;
}
