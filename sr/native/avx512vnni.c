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

INLINE __m512 round512(__m512 v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

INLINE __m512 clamp512(__m512 v, __m512 lo) { return _mm512_min_ps(_mm512_max_ps(v, lo), _mm512_set1_ps(255)); }

// pack4 packs integers to bytes with saturation after adding `zero`: 16 of each vector, one after the other.
INLINE __m512i pack4(const __m512 v[4], __m512i zero) {
	__m512i a = _mm512_packs_epi32(_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]));
	__m512i b = _mm512_packs_epi32(_mm512_cvtps_epi32(v[2]), _mm512_cvtps_epi32(v[3]));
	__m512i bytes = _mm512_packus_epi16(_mm512_adds_epi16(a, zero), _mm512_adds_epi16(b, zero));
	// Packing works within 128-bit parts: each holds four bytes of each vector.
	return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes);
}

// store4 stores what pack4 returned for finish4's vectors. out: that of the first vector.
INLINE void store4(uint8_t *out, ptrdiff_t stride, const int groups, __m512i v) {
	if (stride == groups * NAT_LANES) {
		_mm512_storeu_si512(out, v);
	} else if (groups == 2) {
		_mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(v));
		_mm256_storeu_si256((__m256i *)(out + stride), _mm512_extracti64x4_epi64(v, 1));
	} else {
		_mm_storeu_si128((__m128i *)out, _mm512_castsi512_si128(v));
		_mm_storeu_si128((__m128i *)(out + stride), _mm512_extracti32x4_epi32(v, 1));
		_mm_storeu_si128((__m128i *)(out + 2 * stride), _mm512_extracti32x4_epi32(v, 2));
		_mm_storeu_si128((__m128i *)(out + 3 * stride), _mm512_extracti32x4_epi32(v, 3));
	}
}

// Where vector k of four lies, from the first one: pixels and channels.
#define PIXEL_OF(k) (groups == 2 ? (k) / 2 : (k))
#define CHANNEL_OF(k) (groups == 2 ? (k) % 2 * NAT_LANES : 0)

// add_residual quantizes four vectors of products of sum and mul, and adds the residual.
INLINE void add_residual(const nat_op *op, const nat_work *w, int x, int c, __m512 v[4], const int groups) {
	const __m512 zero = _mm512_set1_ps((float)op->zero), lo = _mm512_set1_ps((float)op->lo);
	const __m512 q = _mm512_set1_ps(op->add_q), r = _mm512_set1_ps(op->add_r), d = _mm512_set1_ps(op->add_c);
	const ptrdiff_t stride = op->residual_stride;
	const uint8_t *residual = w->residual[0] + x * stride + c;
#pragma GCC unroll 4
	for (int k = 0; k < 4; k++) {
		__m128i b = _mm_loadu_si128((const __m128i *)(residual + PIXEL_OF(k) * stride + CHANNEL_OF(k)));
		v[k] = clamp512(_mm512_add_ps(round512(v[k]), zero), lo);
		v[k] = _mm512_fmadd_ps(v[k], q, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b)), r, d));
	}
}

// finish4_slow does residual, tables and several copies; the vectors are the products of sum and mul.
__attribute__((noinline)) static void finish4_slow(const nat_op *op, const nat_work *w, int x, int c, __m512 v0, __m512 v1, __m512 v2,
	__m512 v3, int groups) {
	__m512 v[4] = {v0, v1, v2, v3};
	const __m512 none = _mm512_setzero_ps();
	if (op->residual >= 0) {
		add_residual(op, w, x, c, v, groups);
		for (int k = 0; k < 4; k++) {
			v[k] = clamp512(round512(v[k]), none);
		}
	} else {
		for (int k = 0; k < 4; k++) {
			v[k] = clamp512(_mm512_add_ps(round512(v[k]), _mm512_set1_ps((float)op->zero)), _mm512_set1_ps((float)op->lo));
		}
	}
	for (int i = 0; i < op->copies; i++) {
		const nat_copy *copy = &op->copy[i];
		__m512 u[4] = {v[0], v[1], v[2], v[3]};
		for (int s = 0; s < copy->stages; s++) {
			const float *a = copy->a + (size_t)s * op->cpad + c, *b = copy->b + (size_t)s * op->cpad + c;
			for (int k = 0; k < 4; k++) {
				__m512 m = _mm512_load_ps(a + CHANNEL_OF(k)), d = _mm512_load_ps(b + CHANNEL_OF(k));
				u[k] = clamp512(round512(_mm512_fmadd_ps(u[k], m, d)), none);
			}
		}
		store4(w->out[0][i] + (ptrdiff_t)x * copy->stride + c, copy->stride, groups, pack4(u, _mm512_setzero_si512()));
	}
}

// finish4 stores four vectors of sums: pixels x..x + 3 of the 16 channels from c on, or pixels x and x + 1 of two such groups.
INLINE void finish4(const nat_op *op, const nat_work *w, int x, int c, const VEC sums[4], const int groups) {
	__m512 v[4];
	if (op->kind == NAT_PLANE) {
#pragma GCC unroll 4
		for (int k = 0; k < 4; k++) {
			const int at = c + CHANNEL_OF(k);
			_mm512_storeu_ps(w->sums[0] + (size_t)(x + PIXEL_OF(k)) * op->cpad + at,
				_mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[k]), _mm512_load_ps(op->mul + at), _mm512_load_ps(op->shift + at)));
		}
		return;
	}
#pragma GCC unroll 4
	for (int k = 0; k < 4; k++) {
		v[k] = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[k]), _mm512_load_ps(op->mul + c + CHANNEL_OF(k)));
	}
	const nat_copy *copy = &op->copy[0];
	__m512i bytes;
	if (op->copies > 1 || copy->stages > 0) {
		finish4_slow(op, w, x, c, v[0], v[1], v[2], v[3], groups);
		return;
	}
	if (op->residual >= 0) {
		add_residual(op, w, x, c, v, groups);
		bytes = pack4(v, _mm512_setzero_si512());
	} else {
		bytes = _mm512_max_epu8(pack4(v, _mm512_set1_epi16((short)op->zero)), _mm512_set1_epi8((char)op->lo));
	}
	store4(w->out[0][0] + (ptrdiff_t)x * copy->stride + c, copy->stride, groups, bytes);
}

INLINE void finish_block(const nat_op *op, const nat_work *w, int x, int c, VEC sums[2][MAX_PIXELS][VECS], const int groups,
	const int pixels) {
#pragma GCC unroll 8
	for (int i = 0; i < pixels; i += 4 / groups) {
		VEC s[4];
#pragma GCC unroll 4
		for (int k = 0; k < 4; k++) {
			s[k] = sums[CHANNEL_OF(k) / NAT_LANES][i + PIXEL_OF(k)][0];
		}
		finish4(op, w, x + i, c, s, groups);
	}
}

#include "quads.h"

const nat_path *nat_avx512vnni(void) {
	static const nat_path path = {"avx512vnni", quads_lines, quads_scratch, quads_conv, finish_plane};
	return &path;
}

#pragma GCC pop_options
#endif
