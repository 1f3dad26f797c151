// The code of the VNNI paths with their one instruction spelled out in AVX2, so that everything around it is tested on CPUs
// without it. Not chosen for work: avx2.c is faster.
#include "native.h"

#if !defined(__x86_64__)

const nat_path *nat_quads_avx2(void) { return NULL; }

#else

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "epilogue_avx2.h"

static inline __attribute__((always_inline)) __m256i dot(__m256i sums, __m256i in, __m256i weights) {
	__m256i even = _mm256_madd_epi16(_mm256_and_si256(in, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8));
	__m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(in, 8), _mm256_srai_epi16(weights, 8));
	return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}

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
#define DOT(sums, in, weights) dot(sums, in, weights)
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

const nat_path *nat_quads_avx2(void) {
	static const nat_path path = {"quads-avx2", lines, scratch, quads_conv, finish_plane};
	return &path;
}

#pragma GCC pop_options
#endif
