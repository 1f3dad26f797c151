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
#define BIAS(op) (op)->bias
#define LOAD_SUMS(p) _mm512_load_si512(p)
#define LOAD_WEIGHTS(p) _mm512_load_si512(p)
#define BROADCAST(i) _mm512_set1_epi32(i)
#define DOT(sums, in, weights) _mm512_dpbusd_epi32(sums, in, weights)
#define OPAQUE(v) __asm__("" : "+v"(v))

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

// quantize4 quantizes the products of sum and mul, and adds the residual if there is one, up to the last rounding.
INLINE void quantize4(const nat_op *op, const nat_work *w, int x, int c, __m512 v[4], const int groups) {
	const __m512 zero = _mm512_set1_ps((float)op->zero), lo = _mm512_set1_ps((float)op->lo);
#pragma GCC unroll 4
	for (int k = 0; k < 4; k++) {
		v[k] = clamp512(_mm512_add_ps(round512(v[k]), zero), lo);
	}
	if (op->residual < 0) {
		return;
	}
	const __m512 q = _mm512_set1_ps(op->add_q), r = _mm512_set1_ps(op->add_r), d = _mm512_set1_ps(op->add_c);
	const ptrdiff_t stride = op->residual_stride;
	const uint8_t *residual = w->residual[0] + x * stride + c;
#pragma GCC unroll 4
	for (int k = 0; k < 4; k++) {
		__m128i b = _mm_loadu_si128((const __m128i *)(residual + PIXEL_OF(k) * stride + CHANNEL_OF(k)));
		v[k] = _mm512_fmadd_ps(v[k], q, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b)), r, d));
	}
}

// finish4_copies does tables and several copies; the vectors are the products of sum and mul.
__attribute__((noinline)) static void finish4_copies(const nat_op *op, const nat_work *w, int x, int c, __m512 v0, __m512 v1, __m512 v2,
	__m512 v3, int groups) {
	__m512 v[4] = {v0, v1, v2, v3};
	const __m512 none = _mm512_setzero_ps();
	quantize4(op, w, x, c, v, groups);
	for (int k = 0; k < 4 && op->residual >= 0; k++) {
		v[k] = clamp512(round512(v[k]), none);
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
	if (!one(op)) {
		finish4_copies(op, w, x, c, v[0], v[1], v[2], v[3], groups);
		return;
	}
	if (op->residual >= 0) {
		quantize4(op, w, x, c, v, groups);
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

// With few output channels most of a vector's lanes would be idle. There the lanes are 16 pixels instead: the input is turned into
// planes, each of one step's four channels, a strip of pixels at a time, and weights are what is broadcast. Two rows of output share
// what is made of four rows of input.
enum {
	NARROW = 8,              // most output channels that are computed so
	STRIP = 192,             // pixels; their planes stay in the first-level cache
	PLANE_SIZE = STRIP + 32, // values a plane: the neighbours on both sides, in whole vectors, and some to keep strides uneven
};

static int use_narrow(const nat_op *op) {
	return op->taps == 3 && op->cout <= NARROW && (op->kind == NAT_PLANE || (one(op) && op->residual < 0));
}

static int lines(const nat_op *op) { return use_narrow(op) ? 2 : 1; }

static int narrow_planes(const nat_op *op) { return (op->steps / 3 + 3) / 4 * 4; } // of each of the four rows

static size_t scratch(const nat_op *op, int width) {
	(void)width;
	return use_narrow(op) ? (size_t)4 * narrow_planes(op) * PLANE_SIZE * sizeof(int32_t) : 0;
}

// transpose4 turns four vectors of 32-bit values within each 128-bit part.
INLINE void transpose4(__m512i v[4]) {
	__m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpacklo_epi32(v[2], v[3]);
	__m512i c = _mm512_unpackhi_epi32(v[0], v[1]), d = _mm512_unpackhi_epi32(v[2], v[3]);
	v[0] = _mm512_unpacklo_epi64(a, b), v[1] = _mm512_unpackhi_epi64(a, b);
	v[2] = _mm512_unpacklo_epi64(c, d), v[3] = _mm512_unpackhi_epi64(c, d);
}

INLINE __m128i load128(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }

// narrow_split writes `pixels` pixels, in whole vectors, of 16 channels from `in` on to four planes.
INLINE void narrow_split(int32_t *planes, const uint8_t *in, ptrdiff_t pixel, int pixels) {
	for (int x = 0; x < pixels; x += 16, in += 16 * pixel) {
		__m512i v[4];
		for (int j = 0; j < 4; j++) {
			const uint8_t *p = in + j * pixel;
			v[j] = _mm512_inserti32x4(_mm512_castsi128_si512(load128(p)), load128(p + 4 * pixel), 1);
			v[j] = _mm512_inserti32x4(_mm512_inserti32x4(v[j], load128(p + 8 * pixel), 2), load128(p + 12 * pixel), 3);
		}
		transpose4(v);
		for (int j = 0; j < 4; j++) {
			_mm512_store_si512(planes + j * PLANE_SIZE + x, v[j]);
		}
	}
}

// narrow_store writes four channels of 16 pixels.
INLINE void narrow_store(const nat_op *op, const nat_work *w, int line, int x, int c, const __m512i sums[4]) {
	__m512i v[4];
	if (op->kind == NAT_PLANE) {
		for (int k = 0; k < 4; k++) {
			v[k] = _mm512_castps_si512(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[k]), _mm512_set1_ps(op->mul[c + k]),
				_mm512_set1_ps(op->shift[c + k])));
		}
		transpose4(v);
		for (int k = 0; k < 4; k++) {
			float *out = w->sums[line] + (size_t)(x + k) * op->cpad + c;
			_mm_storeu_ps(out, _mm_castsi128_ps(_mm512_castsi512_si128(v[k])));
			_mm_storeu_ps(out + 4 * op->cpad, _mm_castsi128_ps(_mm512_extracti32x4_epi32(v[k], 1)));
			_mm_storeu_ps(out + 8 * op->cpad, _mm_castsi128_ps(_mm512_extracti32x4_epi32(v[k], 2)));
			_mm_storeu_ps(out + 12 * op->cpad, _mm_castsi128_ps(_mm512_extracti32x4_epi32(v[k], 3)));
		}
		return;
	}
	for (int k = 0; k < 4; k++) {
		v[k] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[k]), _mm512_set1_ps(op->mul[c + k])));
		v[k] = _mm512_max_epi32(_mm512_add_epi32(v[k], _mm512_set1_epi32(op->zero)), _mm512_set1_epi32(op->lo));
		v[k] = _mm512_slli_epi32(_mm512_min_epi32(v[k], _mm512_set1_epi32(255)), 8 * k);
	}
	int32_t pixels[16];
	_mm512_storeu_si512(pixels, _mm512_or_si512(_mm512_or_si512(v[0], v[1]), _mm512_or_si512(v[2], v[3])));
	uint8_t *out = w->out[line][0] + (ptrdiff_t)x * op->copy[0].stride + c;
	for (int i = 0; i < 16; i++) {
		memcpy(out + (ptrdiff_t)i * op->copy[0].stride, &pixels[i], 4);
	}
}

// narrow_block computes `channels` channels of `vectors` times 16 pixels. x: in the strip; `left` pixels of it are wanted.
INLINE void narrow_block(const nat_op *op, const nat_work *w, const int32_t *planes, int line, int x0, int x, int left,
	const int channels, const int vectors) {
	__m512i sums[NARROW][4];
#pragma GCC unroll 8
	for (int c = 0; c < channels; c++) {
#pragma GCC unroll 4
		for (int v = 0; v < vectors; v++) {
			sums[c][v] = _mm512_set1_epi32(op->bias[c]);
		}
	}
	const int8_t *weights = op->quads;
	for (int ky = 0; ky < 3; ky++, planes += narrow_planes(op) * PLANE_SIZE) {
		for (int q = 0; q < op->steps / 3; q++) {
			for (int kx = 0; kx < 3; kx++, weights += NAT_LANES * 4) {
				__m512i in[4];
#pragma GCC unroll 4
				for (int v = 0; v < vectors; v++) {
					in[v] = _mm512_loadu_si512(planes + q * PLANE_SIZE + x + kx + 16 * v);
				}
#pragma GCC unroll 8
				for (int c = 0; c < channels; c++) {
					int32_t four;
					memcpy(&four, weights + 4 * c, 4);
					__m512i b = _mm512_set1_epi32(four);
#pragma GCC unroll 4
					for (int v = 0; v < vectors; v++) {
						sums[c][v] = _mm512_dpbusd_epi32(sums[c][v], in[v], b);
					}
				}
			}
		}
	}
#pragma GCC unroll 4
	for (int v = 0; v < vectors; v++) {
		if (16 * v < left) {
#pragma GCC unroll 2
			for (int c = 0; c < channels; c += 4) {
				const __m512i four[4] = {sums[c][v], sums[c + 1][v], sums[c + 2][v], sums[c + 3][v]};
				narrow_store(op, w, line, x0 + x + 16 * v, c, four);
			}
		}
	}
}

INLINE void narrow_strip(const nat_op *op, const nat_work *w, const int32_t *planes, int x0, int n, const int channels,
	const int vectors) {
	for (int line = 0; line < 2; line++, planes += narrow_planes(op) * PLANE_SIZE) {
		for (int x = 0; x < n; x += 16 * vectors) {
			narrow_block(op, w, planes, line, x0, x, n - x, channels, vectors);
		}
	}
}

static void narrow(const nat_op *op, const nat_work *w) {
	int32_t *planes = w->scratch;
	const int row_steps = op->steps / 3;
	for (int x0 = 0; x0 < w->width; x0 += STRIP) {
		int n = w->width - x0 < STRIP ? w->width - x0 : STRIP;
		for (int y = 0; y < 4; y++) {
			const uint8_t *row = y < 3 ? w->row[0][y] : w->row[1][2];
			for (int s = 0; s < row_steps; s += 4) {
				narrow_split(planes + (y * narrow_planes(op) + s) * PLANE_SIZE, row + op->step[s].offset + (ptrdiff_t)x0 * op->pixel,
					op->pixel, n + 2);
			}
		}
		if (op->cout <= 4) {
			narrow_strip(op, w, planes, x0, n, 4, 4);
		} else {
			narrow_strip(op, w, planes, x0, n, NARROW, 2);
		}
	}
}

static void conv(const nat_op *op, const nat_work *w) {
	if (use_narrow(op)) {
		narrow(op, w);
	} else {
		quads_conv(op, w);
	}
}

const nat_path *nat_avx512vnni(void) {
	static const nat_path path = {"avx512vnni", lines, scratch, conv, finish_plane};
	return &path;
}

#pragma GCC pop_options
#endif
