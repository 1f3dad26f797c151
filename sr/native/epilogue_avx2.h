// What follows the sums, 16 channels of two neighbouring pixels at a time, with 256-bit vectors. Included by the paths that
// use them, inside their target region.
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

// Sums of two pixels, a and b: eight output channels in each vector.
typedef struct {
	__m256i a0, a1, b0, b1;
} sums2;

// bytes2 packs integers to bytes with saturation after adding `zero`: pixel a's 16 channels, then pixel b's.
INLINE __m256i bytes2(__m256i a0, __m256i a1, __m256i b0, __m256i b1, __m256i zero) {
	__m256i a = _mm256_adds_epi16(_mm256_packs_epi32(a0, a1), zero);
	__m256i b = _mm256_adds_epi16(_mm256_packs_epi32(b0, b1), zero);
	// Packing works within 128-bit halves: dwords a0 a1 b0 b1 (low halves), a0 a1 b0 b1 (high halves).
	return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

INLINE void store2(uint8_t *out, int stride, __m256i v) {
	if (stride == 16) {
		_mm256_storeu_si256((__m256i *)out, v);
	} else {
		_mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(v));
		_mm_storeu_si128((__m128i *)(out + stride), _mm256_extracti128_si256(v, 1));
	}
}

INLINE __m256 round_ps(__m256 v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

INLINE __m256 clamp_ps(__m256 v, __m256 lo) { return _mm256_min_ps(_mm256_max_ps(v, lo), _mm256_set1_ps(255)); }

INLINE __m256 load_bytes_ps(const uint8_t *p) {
	return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

// finish2_slow does residual and tables; the vectors are the products of sum and mul.
__attribute__((noinline)) static void finish2_slow(const nat_op *op, const nat_work *w, int line, int x, int c, __m256 a0, __m256 a1,
	__m256 b0, __m256 b1) {
	const __m256 zero = _mm256_set1_ps((float)op->zero), lo = _mm256_set1_ps((float)op->lo), none = _mm256_setzero_ps();
	a0 = clamp_ps(_mm256_add_ps(round_ps(a0), zero), lo);
	a1 = clamp_ps(_mm256_add_ps(round_ps(a1), zero), lo);
	b0 = clamp_ps(_mm256_add_ps(round_ps(b0), zero), lo);
	b1 = clamp_ps(_mm256_add_ps(round_ps(b1), zero), lo);
	if (op->residual >= 0) {
		const uint8_t *ra = w->residual[line] + (ptrdiff_t)x * op->residual_stride + c, *rb = ra + op->residual_stride;
		const __m256 q = _mm256_set1_ps(op->add_q), r = _mm256_set1_ps(op->add_r), d = _mm256_set1_ps(op->add_c);
		a0 = clamp_ps(round_ps(_mm256_fmadd_ps(a0, q, _mm256_fmadd_ps(load_bytes_ps(ra), r, d))), none);
		a1 = clamp_ps(round_ps(_mm256_fmadd_ps(a1, q, _mm256_fmadd_ps(load_bytes_ps(ra + 8), r, d))), none);
		b0 = clamp_ps(round_ps(_mm256_fmadd_ps(b0, q, _mm256_fmadd_ps(load_bytes_ps(rb), r, d))), none);
		b1 = clamp_ps(round_ps(_mm256_fmadd_ps(b1, q, _mm256_fmadd_ps(load_bytes_ps(rb + 8), r, d))), none);
	}
	for (int k = 0; k < op->copies; k++) {
		const nat_copy *copy = &op->copy[k];
		__m256 v0 = a0, v1 = a1, v2 = b0, v3 = b1;
		for (int s = 0; s < copy->stages; s++) {
			const float *a = copy->a + (size_t)s * op->cpad + c, *b = copy->b + (size_t)s * op->cpad + c;
			__m256 m0 = _mm256_load_ps(a), m1 = _mm256_load_ps(a + 8), d0 = _mm256_load_ps(b), d1 = _mm256_load_ps(b + 8);
			v0 = clamp_ps(round_ps(_mm256_fmadd_ps(v0, m0, d0)), none);
			v1 = clamp_ps(round_ps(_mm256_fmadd_ps(v1, m1, d1)), none);
			v2 = clamp_ps(round_ps(_mm256_fmadd_ps(v2, m0, d0)), none);
			v3 = clamp_ps(round_ps(_mm256_fmadd_ps(v3, m1, d1)), none);
		}
		store2(w->out[line][k] + (ptrdiff_t)x * copy->stride + c, copy->stride,
			bytes2(_mm256_cvtps_epi32(v0), _mm256_cvtps_epi32(v1), _mm256_cvtps_epi32(v2), _mm256_cvtps_epi32(v3),
				_mm256_setzero_si256()));
	}
}

// plain tells whether what follows the sums is nothing but one rounding.
INLINE int plain(const nat_op *op) { return op->residual < 0 && op->copies == 1 && op->copy[0].stages == 0; }

// finish2 stores pixels x and x + 1 of output channels c..c+15 (c..c+7 where half). mul: of those channels.
INLINE void finish2(const nat_op *op, const nat_work *w, int line, int x, int c, const float *mul, sums2 s, int half) {
	__m256 m0 = _mm256_load_ps(mul + c), m1 = half ? _mm256_setzero_ps() : _mm256_load_ps(mul + c + 8);
	if (op->kind == NAT_PLANE) {
		float *out = w->sums[line] + (size_t)x * op->cpad + c;
		__m256 t = _mm256_load_ps(op->shift + c);
		_mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(s.a0), m0, t));
		_mm256_storeu_ps(out + op->cpad, _mm256_fmadd_ps(_mm256_cvtepi32_ps(s.b0), m0, t));
		if (!half) {
			t = _mm256_load_ps(op->shift + c + 8);
			_mm256_storeu_ps(out + 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(s.a1), m1, t));
			_mm256_storeu_ps(out + op->cpad + 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(s.b1), m1, t));
		}
		return;
	}
	__m256 a0 = _mm256_mul_ps(_mm256_cvtepi32_ps(s.a0), m0), a1 = _mm256_mul_ps(_mm256_cvtepi32_ps(s.a1), m1);
	__m256 b0 = _mm256_mul_ps(_mm256_cvtepi32_ps(s.b0), m0), b1 = _mm256_mul_ps(_mm256_cvtepi32_ps(s.b1), m1);
	if (!plain(op)) {
		finish2_slow(op, w, line, x, c, a0, a1, b0, b1);
		return;
	}
	__m256i v = bytes2(_mm256_cvtps_epi32(a0), _mm256_cvtps_epi32(a1), _mm256_cvtps_epi32(b0), _mm256_cvtps_epi32(b1),
		_mm256_set1_epi16((short)op->zero));
	v = _mm256_max_epu8(v, _mm256_set1_epi8((char)op->lo));
	store2(w->out[line][0] + (ptrdiff_t)x * op->copy[0].stride + c, op->copy[0].stride, v);
}

// codes returns eight results as code values: the sums plus the input, clamped, times the largest code value.
INLINE __m256i codes(__m256 sum, __m256 in, __m256 most) {
	__m256 v = _mm256_mul_ps(_mm256_add_ps(sum, in), most);
	return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(v, _mm256_setzero_ps()), most));
}

INLINE __m128 input4(const uint8_t *src, int x, int depth, __m128 most) {
	__m128i v;
	if (depth == 8) {
		int32_t four;
		__builtin_memcpy(&four, src + x, 4);
		v = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(four));
	} else {
		v = _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)(src + 2 * (size_t)x)));
	}
	return _mm_div_ps(_mm_min_ps(_mm_cvtepi32_ps(v), most), most);
}

// finish_plane writes a row of the output, four pixels of input at a time.
static void finish_plane(const float *sums, int lanes, const uint8_t *src, int width, int scale, int depth, uint8_t *dst,
	ptrdiff_t dst_stride) {
	int bytes = depth == 8 ? 1 : 2, x = 0;
	__m256 most = _mm256_set1_ps((float)((1 << depth) - 1));
	for (; x + 4 <= width; x += 4) {
		__m128 in = input4(src, x, depth, _mm256_castps256_ps128(most));
		uint8_t *out = dst + (size_t)x * scale * bytes;
		const float *s = sums + (size_t)x * lanes;
		if (scale == 2) {
			__m256 s01 = _mm256_set_m128(_mm_load_ps(s + lanes), _mm_load_ps(s));
			__m256 s23 = _mm256_set_m128(_mm_load_ps(s + 3 * lanes), _mm_load_ps(s + 2 * lanes));
			__m256 in01 = _mm256_set_m128(_mm_permute_ps(in, 0x55), _mm_permute_ps(in, 0x00));
			__m256 in23 = _mm256_set_m128(_mm_permute_ps(in, 0xff), _mm_permute_ps(in, 0xaa));
			// 16-bit pairs by pixel and output row: 0.0 0.1 2.0 2.1, 1.0 1.1 3.0 3.1; wanted: row 0, then row 1.
			__m256i v = _mm256_packus_epi32(codes(s01, in01, most), codes(s23, in23, most));
			v = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7));
			__m128i row0 = _mm256_castsi256_si128(v), row1 = _mm256_extracti128_si256(v, 1);
			if (depth == 8) {
				row0 = _mm_packus_epi16(row0, row1);
				_mm_storel_epi64((__m128i *)out, row0);
				_mm_storel_epi64((__m128i *)(out + dst_stride), _mm_srli_si128(row0, 8));
			} else {
				_mm_storeu_si128((__m128i *)out, row0);
				_mm_storeu_si128((__m128i *)(out + dst_stride), row1);
			}
			continue;
		}
		float ins[4];
		_mm_storeu_ps(ins, in);
		for (int i = 0; i < 4; i++) {
			int32_t v[8 * 8];
			for (int c = 0; c < scale * scale; c += 8) {
				_mm256_storeu_si256((__m256i *)(v + c), codes(_mm256_loadu_ps(s + i * lanes + c), _mm256_set1_ps(ins[i]), most));
			}
			for (int c = 0; c < scale * scale; c++) {
				uint8_t *o = out + c / scale * dst_stride + (i * scale + c % scale) * bytes;
				o[0] = (uint8_t)v[c];
				if (bytes == 2) {
					o[1] = (uint8_t)(v[c] >> 8);
				}
			}
		}
	}
	nat_scalar()->finish(sums + (size_t)x * lanes, lanes, src + (size_t)x * bytes, width - x, scale, depth,
		dst + (size_t)x * scale * bytes, dst_stride);
}
