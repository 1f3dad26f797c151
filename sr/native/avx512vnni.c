// AVX-512 with VNNI (Cascade Lake, Ice Lake, Zen 4 and later): 16 output channels a vector.
#include "native.h"

#if !defined(__x86_64__)

const nat_path *nat_avx512vnni(void) { return NULL; }

#else

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")
#include <immintrin.h>

#define VEC __m512i
#define VECS 1
#define PIXELS 12
#define LOAD_SUMS(p) _mm512_load_si512(p)
#define LOAD_WEIGHTS(p) _mm512_load_si512(p)
#define BROADCAST(i) _mm512_set1_epi32(i)
#define DOT(sums, in, weights) _mm512_dpbusd_epi32(sums, in, weights)
#define SPLIT(s, a, b) \
	(s).a0 = _mm512_castsi512_si256((a)[0]), (s).a1 = _mm512_extracti64x4_epi64((a)[0], 1), \
	(s).b0 = _mm512_castsi512_si256((b)[0]), (s).b1 = _mm512_extracti64x4_epi64((b)[0], 1)
#include "quads.h"

const nat_path *nat_avx512vnni(void) {
	static const nat_path path = {"avx512vnni", quads_lines, quads_scratch, quads_conv, finish_plane};
	return &path;
}

#pragma GCC pop_options
#endif
