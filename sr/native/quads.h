// Convolutions by instructions that multiply four bytes with four signed bytes and add the products to a 32-bit sum. Included
// by the paths that have them, after they define
//
//   VEC, VECS               a vector of sums, and how many make a group of 16 output channels
//   PIXELS1, PIXELS2        pixels whose sums are kept in registers at once, of one group and of two; 0: never two
//   TAPS_PIXELS1            the same where several taps' weights are kept beside them
//   BIAS(op)                what sums begin with, for each output channel
//   LOAD_SUMS(p)            a vector of it from memory
//   LOAD_WEIGHTS(p)         a vector of weights, four bytes a lane
//   BROADCAST(i)            a vector with the 32-bit integer i in every lane
//   DOT(sums, in, weights)  the instruction
//   OPAQUE(v)               lets the compiler believe that the vector changes here
//   finish_block            what follows the sums
//
// What a pixel holds is loaded and broadcast once for all the taps of a kernel row that it is under.
#include <string.h>

// quads_block computes `pixels` pixels of `groups` groups of output channels. All from groups on are constants.
INLINE void quads_block(const nat_op *op, const nat_work *w, const uint8_t *const *at, int x, int c, const int groups, const int taps,
	const int shift, const int pixels) {
	VEC sums[2][MAX_PIXELS][VECS];
#pragma GCC unroll 2
	for (int g = 0; g < groups; g++) {
#pragma GCC unroll 4
		for (int v = 0; v < VECS; v++) {
#pragma GCC unroll 32
			for (int i = 0; i < pixels; i++) {
				sums[g][i][v] = LOAD_SUMS(BIAS(op) + c + g * NAT_LANES + v * (NAT_LANES / VECS));
			}
		}
	}
	const int8_t *weights = op->quads + (size_t)c / NAT_LANES * op->steps * taps * NAT_LANES * 4;
	const size_t group = (size_t)op->steps * taps * NAT_LANES * 4, pixel = op->pixel;
	for (int s = 0; s < op->steps; s++, weights += taps * NAT_LANES * 4) {
		const uint8_t *in = at[s] + x * pixel;
		VEC m[3][2][VECS];
#pragma GCC unroll 3
		for (int t = 0; t < taps; t++) {
#pragma GCC unroll 2
			for (int g = 0; g < groups; g++) {
#pragma GCC unroll 4
				for (int v = 0; v < VECS; v++) {
					m[t][g][v] = LOAD_WEIGHTS(weights + g * group + (t * VECS + v) * (NAT_LANES * 4 / VECS));
				}
			}
		}
#pragma GCC unroll 40
		for (int j = 0; j < pixels + (taps - 1) * shift; j++) {
			int32_t four;
			memcpy(&four, in + j * pixel, 4);
			VEC b = BROADCAST(four);
#pragma GCC unroll 3
			for (int t = 0; t < taps; t++) {
				const int i = j - t * shift;
				if (i >= 0 && i < pixels) {
#pragma GCC unroll 2
					for (int g = 0; g < groups; g++) {
#pragma GCC unroll 4
						for (int v = 0; v < VECS; v++) {
							sums[g][i][v] = DOT(sums[g][i][v], b, m[t][g][v]);
						}
					}
				}
			}
		}
	}
	// The compiler is to see other values from here on: else it keeps some of them on the stack throughout the loop, for what follows.
#pragma GCC unroll 2
	for (int g = 0; g < groups; g++) {
#pragma GCC unroll 32
		for (int i = 0; i < pixels; i++) {
#pragma GCC unroll 4
			for (int v = 0; v < VECS; v++) {
				OPAQUE(sums[g][i][v]);
			}
		}
	}
	finish_block(op, w, x, c, sums, groups, pixels);
}

INLINE void quads_row(const nat_op *op, const nat_work *w, const uint8_t *const *at, int c, const int groups, const int taps,
	const int shift, const int pixels) {
	for (int x = 0; x < w->width; x += pixels) {
		quads_block(op, w, at, x, c, groups, taps, shift, pixels);
	}
}

INLINE void quads_taps(const nat_op *op, const nat_work *w, const uint8_t *const *at, int c, const int groups, const int pixels,
	const int taps_pixels) {
	if (op->taps == 3) {
		quads_row(op, w, at, c, groups, 3, 1, taps_pixels);
	} else if (op->taps == 2) {
		quads_row(op, w, at, c, groups, 2, 4, taps_pixels);
	} else {
		quads_row(op, w, at, c, groups, 1, 0, pixels);
	}
}

static void quads_conv(const nat_op *op, const nat_work *w) {
	const uint8_t *at[NAT_MAX_STEPS];
	for (int s = 0; s < op->steps; s++) {
		at[s] = w->row[0][op->step[s].row] + op->step[s].offset;
	}
	int c = 0;
	for (; PIXELS2 > 0 && c + 2 * NAT_LANES <= op->cpad; c += 2 * NAT_LANES) {
		quads_taps(op, w, at, c, 2, PIXELS2, PIXELS2);
	}
	for (; c < op->cpad; c += NAT_LANES) {
		quads_taps(op, w, at, c, 1, PIXELS1, TAPS_PIXELS1);
	}
}
