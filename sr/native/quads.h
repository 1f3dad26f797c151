// Convolutions by instructions that multiply four bytes with four signed bytes and add the products to a 32-bit sum. Included
// by the paths that have them, after they define
//
//   VEC, VECS               a vector of sums, and how many make a group of 16 output channels
//   PIXELS                  pixels whose sums are kept in registers at once; even
//   LOAD_SUMS(p)            a vector of bias from memory
//   LOAD_WEIGHTS(p)         a vector of weights, four bytes a lane
//   BROADCAST(i)            a vector with the 32-bit integer i in every lane
//   DOT(sums, in, weights)  the instruction
//   SPLIT(sums2, a, b)      two pixels' sums as the epilogue wants them
#include <string.h>

#include "epilogue_avx2.h"

// quads_block computes PIXELS pixels of `groups` groups of output channels.
INLINE void quads_block(const nat_op *op, const nat_work *w, const uint8_t *const *at, int x, int c, int groups) {
	VEC sums[2][PIXELS][VECS];
	for (int g = 0; g < groups; g++) {
		for (int v = 0; v < VECS; v++) {
			for (int i = 0; i < PIXELS; i++) {
				sums[g][i][v] = LOAD_SUMS(op->bias + c + g * NAT_LANES + v * (NAT_LANES / VECS));
			}
		}
	}
	const int8_t *weights = op->quads + (size_t)c / NAT_LANES * op->steps * NAT_LANES * 4;
	size_t group = (size_t)op->steps * NAT_LANES * 4, pixel = op->pixel;
	for (int s = 0; s < op->steps; s++, weights += NAT_LANES * 4) {
		const uint8_t *in = at[s] + x * pixel;
		VEC m[2][VECS];
		for (int g = 0; g < groups; g++) {
			for (int v = 0; v < VECS; v++) {
				m[g][v] = LOAD_WEIGHTS(weights + g * group + v * (NAT_LANES * 4 / VECS));
			}
		}
#pragma GCC unroll 16
		for (int i = 0; i < PIXELS; i++) {
			int32_t four;
			memcpy(&four, in + i * pixel, 4);
			VEC b = BROADCAST(four);
			for (int g = 0; g < groups; g++) {
				for (int v = 0; v < VECS; v++) {
					sums[g][i][v] = DOT(sums[g][i][v], b, m[g][v]);
				}
			}
		}
	}
	for (int g = 0; g < groups; g++) {
#pragma GCC unroll 8
		for (int i = 0; i < PIXELS; i += 2) {
			sums2 s;
			SPLIT(s, sums[g][i], sums[g][i + 1]);
			finish2(op, w, 0, x + i, c + g * NAT_LANES, op->mul, s, 0);
		}
	}
}

static void quads_conv(const nat_op *op, const nat_work *w) {
	const uint8_t *at[NAT_MAX_STEPS];
	for (int s = 0; s < op->steps; s++) {
		at[s] = w->row[0][op->step[s].row] + op->step[s].offset;
	}
	for (int x = 0; x < w->width; x += PIXELS) {
		int c = 0;
		if (VECS == 1) { // registers for two groups
			for (; c + 2 * NAT_LANES <= op->cpad; c += 2 * NAT_LANES) {
				quads_block(op, w, at, x, c, 2);
			}
		}
		for (; c < op->cpad; c += NAT_LANES) {
			quads_block(op, w, at, x, c, 1);
		}
	}
}

static int quads_lines(const nat_op *op) {
	(void)op;
	return 1;
}

static size_t quads_scratch(const nat_op *op, int width) {
	(void)op, (void)width;
	return 0;
}
