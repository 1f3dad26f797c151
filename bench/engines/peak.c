#include "peak.h"

#ifdef __x86_64__
#include <immintrin.h>

// Twelve independent sums, as the kernels keep; the compiler must neither drop nor merge them.
__attribute__((target("avx2"))) long peak_multiply_adds(long rounds) {
	__m256i s[12], v = _mm256_set1_epi16((short)rounds), w = _mm256_set1_epi16(3);
	for (int i = 0; i < 12; i++) {
		s[i] = _mm256_set1_epi16((short)i);
	}
	for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
		for (int i = 0; i < 12; i++) {
			s[i] = _mm256_add_epi32(v, _mm256_madd_epi16(s[i], w));
			__asm__ volatile("" : "+x"(s[i]));
		}
	}
	for (int i = 1; i < 12; i++) {
		s[0] = _mm256_add_epi32(s[0], s[i]);
	}
	return rounds * 12 * 16 + (_mm256_extract_epi32(s[0], 0) & 0);
}
#else
long peak_multiply_adds(long rounds) {
	(void)rounds;
	return 0;
}
#endif
