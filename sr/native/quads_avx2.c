// The code of the VNNI paths with their one instruction spelled out in AVX2, so that everything around it is tested on CPUs
// without it. Not chosen for work: avx2.c is faster.
#include "native.h"

#if !defined(__x86_64__)

const nat_path *nat_quads_avx2(void) { return NULL; }

#else

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include <immintrin.h>

static inline __attribute__((always_inline)) __m256i dot(__m256i sums, __m256i in, __m256i weights) {
	__m256i even = _mm256_madd_epi16(_mm256_and_si256(in, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8));
	__m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(in, 8), _mm256_srai_epi16(weights, 8));
	return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}

#define DOT(sums, in, weights) dot(sums, in, weights)
#include "quads256.h"

const nat_path *nat_quads_avx2(void) {
	static const nat_path path = {"quads-avx2", lines, scratch, quads_conv, finish_plane};
	return &path;
}

#pragma GCC pop_options
#endif
