// AVX-VNNI (Alder Lake, Sierra Forest and later, without AVX-512): two vectors of 8 output channels.
#include "native.h"

#if !defined(__x86_64__)

const nat_path *nat_avxvnni(void) { return NULL; }

#else

#pragma GCC push_options
#pragma GCC target("avx2,fma,avxvnni")
#include <immintrin.h>

#define DOT(sums, in, weights) _mm256_dpbusd_avx_epi32(sums, in, weights)
#include "quads256.h"

const nat_path *nat_avxvnni(void) {
	static const nat_path path = {"avxvnni", lines, scratch, quads_conv, finish_plane};
	return &path;
}

#pragma GCC pop_options
#endif
