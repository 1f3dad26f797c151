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

// quantize2 quantizes the products of sum and mul, and adds the residual if there is one, up to the last rounding.
INLINE void quantize2(const nat_op *op, const nat_work *w, int line, int x, int c, __m256 v[4]) {
	const __m256 zero = _mm256_set1_ps((float)op->zero), lo = _mm256_set1_ps((float)op->lo);
#pragma GCC unroll 4
	for (int k = 0; k < 4; k++) {
		v[k] = clamp_ps(_mm256_add_ps(round_ps(v[k]), zero), lo);
	}
	if (op->residual < 0) {
		return;
	}
	const __m256 q = _mm256_set1_ps(op->add_q), r = _mm256_set1_ps(op->add_r), d = _mm256_set1_ps(op->add_c);
	const uint8_t *residual = w->residual[line] + (ptrdiff_t)x * op->residual_stride + c;
#pragma GCC unroll 4
	for (int k = 0; k < 4; k++) {
		v[k] = _mm256_fmadd_ps(v[k], q, _mm256_fmadd_ps(load_bytes_ps(residual + k / 2 * op->residual_stride + k % 2 * 8), r, d));
	}
}

INLINE __m256i pack2(const __m256 v[4], __m256i zero) {
	return bytes2(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]), _mm256_cvtps_epi32(v[2]), _mm256_cvtps_epi32(v[3]), zero);
}

// finish2_copies does tables and several copies; the vectors are the products of sum and mul.
__attribute__((noinline)) static void finish2_copies(const nat_op *op, const nat_work *w, int line, int x, int c, __m256 a0, __m256 a1,
	__m256 b0, __m256 b1) {
	const __m256 none = _mm256_setzero_ps();
	__m256 v[4] = {a0, a1, b0, b1};
	quantize2(op, w, line, x, c, v);
	for (int k = 0; k < 4 && op->residual >= 0; k++) {
		v[k] = clamp_ps(round_ps(v[k]), none);
	}
	for (int i = 0; i < op->copies; i++) {
		const nat_copy *copy = &op->copy[i];
		__m256 u[4] = {v[0], v[1], v[2], v[3]};
		for (int s = 0; s < copy->stages; s++) {
			const float *a = copy->a + (size_t)s * op->cpad + c, *b = copy->b + (size_t)s * op->cpad + c;
			for (int k = 0; k < 4; k++) {
				u[k] = clamp_ps(round_ps(_mm256_fmadd_ps(u[k], _mm256_load_ps(a + k % 2 * 8), _mm256_load_ps(b + k % 2 * 8))), none);
			}
		}
		store2(w->out[line][i] + (ptrdiff_t)x * copy->stride + c, copy->stride, pack2(u, _mm256_setzero_si256()));
	}
}

// one tells whether the result goes to one place as it is.
INLINE int one(const nat_op *op) { return op->copies == 1 && op->copy[0].stages == 0; }

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
	__m256 v[4] = {_mm256_mul_ps(_mm256_cvtepi32_ps(s.a0), m0), _mm256_mul_ps(_mm256_cvtepi32_ps(s.a1), m1),
		_mm256_mul_ps(_mm256_cvtepi32_ps(s.b0), m0), _mm256_mul_ps(_mm256_cvtepi32_ps(s.b1), m1)};
	if (!one(op)) {
		finish2_copies(op, w, line, x, c, v[0], v[1], v[2], v[3]);
		return;
	}
	__m256i bytes;
	if (op->residual >= 0) {
		quantize2(op, w, line, x, c, v);
		bytes = pack2(v, _mm256_setzero_si256());
	} else {
		bytes = _mm256_max_epu8(pack2(v, _mm256_set1_epi16((short)op->zero)), _mm256_set1_epi8((char)op->lo));
	}
	store2(w->out[line][0] + (ptrdiff_t)x * op->copy[0].stride + c, op->copy[0].stride, bytes);
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

INLINE void store12(uint8_t *out, __m128i v) {
	_mm_storel_epi64((__m128i *)out, v);
	int32_t last = _mm_extract_epi32(v, 2);
	__builtin_memcpy(out + 8, &last, 4);
}

// finish_pixels writes what four pixels of input become. in02, in13: the input, four times each; s: the first pixel's sums.
INLINE void finish_pixels(const float *s, int lanes, __m256 in02, __m256 in13, __m256 most, const int scale, const int bytes, uint8_t *out,
	ptrdiff_t stride) {
	for (int row = 0; row < (scale == 2 ? 1 : scale); row++, s += scale, out += stride) {
		__m256 s02 = _mm256_set_m128(_mm_loadu_ps(s + 2 * lanes), _mm_loadu_ps(s));
		__m256 s13 = _mm256_set_m128(_mm_loadu_ps(s + 3 * lanes), _mm_loadu_ps(s + lanes));
		// 16 bits a code: four of each pixel, which are two rows of a scale of 2, and one too many of a scale of 3.
		__m256i v = _mm256_packus_epi32(codes(s02, in02, most), codes(s13, in13, most));
		if (scale == 2) {
			v = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
		} else if (scale == 3) {
			v = _mm256_shuffle_epi8(v, _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1,
				0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1));
		}
		__m128i lo = _mm256_castsi256_si128(v), hi = _mm256_extracti128_si256(v, 1), both = _mm_packus_epi16(lo, hi);
		if (scale == 2 && bytes == 1) {
			_mm_storel_epi64((__m128i *)out, both);
			_mm_storel_epi64((__m128i *)(out + stride), _mm_srli_si128(both, 8));
		} else if (scale == 2) {
			_mm_storeu_si128((__m128i *)out, lo);
			_mm_storeu_si128((__m128i *)(out + stride), hi);
		} else if (scale == 3 && bytes == 1) {
			store12(out, _mm_shuffle_epi8(both, _mm_setr_epi8(0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1)));
		} else if (scale == 3) {
			store12(out, lo);
			store12(out + 12, hi);
		} else if (bytes == 1) {
			_mm_storeu_si128((__m128i *)out, both);
		} else {
			_mm256_storeu_si256((__m256i *)out, v);
		}
	}
}

INLINE void finish_row(const float *sums, int lanes, const uint8_t *src, int width, const int scale, int depth, const int bytes,
	uint8_t *dst, ptrdiff_t dst_stride) {
	const __m256 most = _mm256_set1_ps((float)((1 << depth) - 1));
	int x = 0;
	for (; x + 4 <= width; x += 4) {
		__m128 in = input4(src, x, depth, _mm256_castps256_ps128(most));
		__m256 in02 = _mm256_set_m128(_mm_permute_ps(in, 0xaa), _mm_permute_ps(in, 0x00));
		__m256 in13 = _mm256_set_m128(_mm_permute_ps(in, 0xff), _mm_permute_ps(in, 0x55));
		finish_pixels(sums + (size_t)x * lanes, lanes, in02, in13, most, scale, bytes, dst + (size_t)x * scale * bytes, dst_stride);
	}
	nat_scalar()->finish(sums + (size_t)x * lanes, lanes, src + (size_t)x * bytes, width - x, scale, depth,
		dst + (size_t)x * scale * bytes, dst_stride);
}

// finish_plane writes a row of the output, four pixels of input at a time where the scale is one that models have.
static void finish_plane(const float *sums, int lanes, const uint8_t *src, int width, int scale, int depth, uint8_t *dst,
	ptrdiff_t dst_stride) {
	switch (scale * 2 + (depth == 8)) {
	case 5:
		return finish_row(sums, lanes, src, width, 2, depth, 1, dst, dst_stride);
	case 4:
		return finish_row(sums, lanes, src, width, 2, depth, 2, dst, dst_stride);
	case 7:
		return finish_row(sums, lanes, src, width, 3, depth, 1, dst, dst_stride);
	case 6:
		return finish_row(sums, lanes, src, width, 3, depth, 2, dst, dst_stride);
	case 9:
		return finish_row(sums, lanes, src, width, 4, depth, 1, dst, dst_stride);
	case 8:
		return finish_row(sums, lanes, src, width, 4, depth, 2, dst, dst_stride);
	default:
		nat_scalar()->finish(sums, lanes, src, width, scale, depth, dst, dst_stride);
	}
}
