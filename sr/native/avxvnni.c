// AVX-VNNI (Alder Lake, Sierra Forest and later, without AVX-512): two vectors of 8 output channels.
#include "native.h"

#if !defined(__x86_64__)

const nat_path *nat_avxvnni(void) { return NULL; }

#else

#pragma GCC push_options
#pragma GCC target("avx2,fma,avxvnni")
#include <immintrin.h>

#define VEC __m256i
#define VECS 2
#define PIXELS 6
#define LOAD_SUMS(p) _mm256_load_si256((const __m256i *)(p))
#define LOAD_WEIGHTS(p) _mm256_load_si256((const __m256i *)(p))
#define BROADCAST(i) _mm256_set1_epi32(i)
#define DOT(sums, in, weights) _mm256_dpbusd_avx_epi32(sums, in, weights)
#define SPLIT(s, a, b) (s).a0 = (a)[0], (s).a1 = (a)[1], (s).b0 = (b)[0], (s).b1 = (b)[1]
#include "quads.h"

const nat_path *nat_avxvnni(void) {
	static const nat_path path = {"avxvnni", quads_lines, quads_scratch, quads_conv, finish_plane};
	return &path;
}

#pragma GCC pop_options
#endif
