// The code of quads.h for 256-bit vectors, of which a group of output channels is two. Included by the paths that use it, after they
// define DOT.
#include "epilogue_avx2.h"

#define VEC __m256i
#define VECS 2
#define PIXELS1 6
#define TAPS_PIXELS1 4
#define PIXELS2 0
#define MAX_PIXELS 6
#define BIAS(op) (op)->bias
#define LOAD_SUMS(p) _mm256_load_si256((const __m256i *)(p))
#define LOAD_WEIGHTS(p) _mm256_load_si256((const __m256i *)(p))
#define BROADCAST(i) _mm256_set1_epi32(i)
#define OPAQUE(v) __asm__("" : "+v"(v))

INLINE void finish_block(const nat_op *op, const nat_work *w, int x, int c, VEC sums[2][MAX_PIXELS][VECS], const int groups,
	const int pixels) {
	(void)groups;
#pragma GCC unroll 3
	for (int i = 0; i < pixels; i += 2) {
		sums2 s = {sums[0][i][0], sums[0][i][1], sums[0][i + 1][0], sums[0][i + 1][1]};
		finish2(op, w, 0, x + i, c, op->mul, s, 0);
	}
}

#include "quads.h"

static int lines(const nat_op *op) {
	(void)op;
	return 1;
}

static size_t scratch(const nat_op *op, int width) {
	(void)op, (void)width;
	return 0;
}
