// AVX-512 with VNNI (Cascade Lake, Ice Lake, Zen 4 and later): 16 output channels a vector.
#include "native.h"

#if !defined(__x86_64__)

const nat_path *nat_avx512vnni(void) { return NULL; }

#else

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")
#include "epilogue_avx2.h"

#define VEC __m512i
#define VECS 1
#define PIXELS1 16
#define TAPS_PIXELS1 16
#define PIXELS2 12
#define MAX_PIXELS 16
#define LOAD_SUMS(p) _mm512_load_si512(p)
#define LOAD_WEIGHTS(p) _mm512_load_si512(p)
#define BROADCAST(i) _mm512_set1_epi32(i)
#define DOT(sums, in, weights) _mm512_dpbusd_epi32(sums, in, weights)

// finish_block takes the sums four vectors at a time: four pixels of one group, or two pixels of two.
INLINE void finish_block(const nat_op *op, const nat_work *w, int x, int c, VEC sums[2][MAX_PIXELS][VECS], const int groups,
	const int pixels) {
#pragma GCC unroll 2
	for (int g = 0; g < groups; g++) {
#pragma GCC unroll 16
		for (int i = 0; i < pixels; i += 2) {
			VEC a = sums[g][i][0], b = sums[g][i + 1][0];
			sums2 s = {_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1), _mm512_castsi512_si256(b),
				_mm512_extracti64x4_epi64(b, 1)};
			finish2(op, w, 0, x + i, c + g * NAT_LANES, op->mul, s, 0);
		}
	}
}

#include "quads.h"

const nat_path *nat_avx512vnni(void) {
	static const nat_path path = {"avx512vnni", quads_lines, quads_scratch, quads_conv, finish_plane};
	return &path;
}

#pragma GCC pop_options
#endif
