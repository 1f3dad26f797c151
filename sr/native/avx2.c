// AVX2 without VNNI. vpmaddubsw, which multiplies bytes, saturates its sums of two at 16 bits and so is not exact for every
// weight; here bytes are widened to 16 bits and vpmaddwd, which cannot overflow, does the work. Being in 16 bits anyway, 3x3
// convolutions go through Winograd's F(2x2, 3x3): 16 products instead of 36 for four outputs, in integers without any
// rounding (the factors of a half are cleared by computing four times the sum).
#include "native.h"

#if !defined(__x86_64__)

const nat_path *nat_avx2(void) { return NULL; }

#else

#include <string.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "epilogue_avx2.h"

enum {
	PIXELS = 6, // pixels or tiles whose sums are kept in registers at once: 12 of 16, with 16 channels
	CHUNK = 96, // pixels that direct convolutions widen at once, to stay in the first-level cache
	POSITIONS = 16,
};

static int use_winograd(const nat_op *op) { return op->winograd != NULL && op->sources == 1; }

static int lines(const nat_op *op) { return use_winograd(op) ? 2 : 1; }

static int padded_cin(const nat_op *op) { return (op->cin + 15) & ~15; }

// 64 bytes after each part may be read, and are the next part's or spare.
static size_t direct_row(const nat_op *op) { return (size_t)(CHUNK + op->k + PIXELS) * op->cin + 32; }

static size_t scratch(const nat_op *op, int width) {
	(void)width;
	if (use_winograd(op)) {
		return (size_t)POSITIONS * PIXELS * (padded_cin(op) * sizeof(int16_t) + NAT_LANES * sizeof(int32_t));
	}
	return (size_t)op->k * direct_row(op) * sizeof(int16_t) + 64;
}

INLINE __m256i broadcast_pair(const int16_t *p) {
	int32_t pair;
	memcpy(&pair, p, sizeof pair);
	return _mm256_set1_epi32(pair);
}

// multiply sets sums, for PIXELS inputs `step` values apart, to one pair of values times its weights. vectors: 1 or 2.
INLINE void multiply(__m256i sums[PIXELS][2], const int16_t *in, size_t step, const int16_t *weights, int vectors) {
	__m256i w0 = _mm256_load_si256((const __m256i *)weights), w1 = _mm256_load_si256((const __m256i *)(weights + 16));
#pragma GCC unroll 6
	for (int i = 0; i < PIXELS; i++) {
		__m256i v = broadcast_pair(in + i * step);
		sums[i][0] = _mm256_madd_epi16(v, w0);
		sums[i][1] = vectors == 2 ? _mm256_madd_epi16(v, w1) : _mm256_setzero_si256();
	}
}

// multiply_add adds n pairs of values times their weights to sums.
INLINE void multiply_add(__m256i sums[PIXELS][2], const int16_t *in, size_t step, const int16_t *weights, int n, int vectors) {
	for (int p = 0; p < n; p++) {
		__m256i w0 = _mm256_load_si256((const __m256i *)(weights + 32 * p)), w1 = w0;
		if (vectors == 2) {
			w1 = _mm256_load_si256((const __m256i *)(weights + 32 * p + 16));
		}
#pragma GCC unroll 6
		for (int i = 0; i < PIXELS; i++) {
			__m256i v = broadcast_pair(in + i * step + 2 * p);
			sums[i][0] = _mm256_add_epi32(sums[i][0], _mm256_madd_epi16(v, w0));
			if (vectors == 2) {
				sums[i][1] = _mm256_add_epi32(sums[i][1], _mm256_madd_epi16(v, w1));
			}
		}
	}
}

// widen_channels copies n channels, a multiple of 4, of each pixel.
INLINE void widen_channels(int16_t *out, int step, const uint8_t *in, int stride, int n, int pixels) {
	for (int x = 0; x < pixels; x++, in += stride, out += step) {
		int c = 0;
		for (; c + 16 <= n; c += 16) {
			_mm256_storeu_si256((__m256i *)(out + c), _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(in + c))));
		}
		for (; c + 8 <= n; c += 8) {
			_mm_storeu_si128((__m128i *)(out + c), _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(in + c))));
		}
		for (; c + 4 <= n; c += 4) {
			int32_t four;
			memcpy(&four, in + c, 4);
			_mm_storel_epi64((__m128i *)(out + c), _mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)));
		}
	}
}

// widen copies n channels of `pixels` pixels, `stride` bytes apart, to 16-bit values `step` values apart. It may write up to
// 15 values more after the last pixel.
static void widen(int16_t *out, int step, const uint8_t *in, int stride, int n, int pixels) {
	if (n == 1 && stride == 1 && step == 1) {
		for (int x = 0; x < pixels; x += 16) {
			_mm256_storeu_si256((__m256i *)(out + x), _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(in + x))));
		}
	} else if (n == 4) {
		widen_channels(out, step, in, stride, 4, pixels);
	} else if (n == 16) {
		widen_channels(out, step, in, stride, 16, pixels);
	} else if (n % 4 == 0) {
		widen_channels(out, step, in, stride, n, pixels);
	} else {
		for (int x = 0; x < pixels; x++) {
			for (int c = 0; c < n; c++) {
				out[(size_t)x * step + c] = in[(size_t)x * stride + c];
			}
		}
	}
}

INLINE void direct_group(const nat_op *op, const nat_work *w, const int16_t *rows, int x0, int n, int c, int vectors) {
	size_t row_values = direct_row(op);
	const int16_t *weights = op->pairs + (size_t)c / NAT_LANES * op->k * op->row_pairs * 32;
	for (int x = 0; x < n; x += PIXELS) {
		__m256i sums[PIXELS][2];
		for (int i = 0; i < PIXELS; i++) {
			sums[i][0] = _mm256_load_si256((const __m256i *)(op->bias + c));
			sums[i][1] = _mm256_load_si256((const __m256i *)(op->bias + c + 8));
		}
		for (int ky = 0; ky < op->k; ky++) {
			multiply_add(sums, rows + ky * row_values + (size_t)x * op->cin, op->cin, weights + (size_t)ky * op->row_pairs * 32,
				op->row_pairs, vectors);
		}
		for (int i = 0; i < PIXELS; i += 2) {
			sums2 s = {sums[i][0], sums[i][1], sums[i + 1][0], sums[i + 1][1]};
			finish2(op, w, 0, x0 + x + i, c, op->mul, s, vectors == 1);
		}
	}
}

// direct computes one row as it is written in the book. A kernel row's k * cin values lie next to one another once widened.
static void direct(const nat_op *op, const nat_work *w) {
	int16_t *rows = w->scratch;
	for (int x0 = 0; x0 < w->width; x0 += CHUNK) {
		int n = w->width - x0 < CHUNK ? w->width - x0 : CHUNK;
		for (int ky = 0; ky < op->k; ky++) {
			int first = 0;
			for (int s = 0; s < op->sources; s++) {
				const uint8_t *in = w->row[0][s * op->k + ky] + (ptrdiff_t)(x0 - op->k / 2) * op->source_stride[s];
				widen(rows + ky * direct_row(op) + first, op->cin, in, op->source_stride[s], op->source[s].n, n + op->k - 1);
				first += op->source[s].n;
			}
		}
		for (int c = 0; c < op->cpad; c += NAT_LANES) {
			if (op->cout - c <= 8) {
				direct_group(op, w, rows, x0, n, c, 1);
			} else {
				direct_group(op, w, rows, x0, n, c, 2);
			}
		}
	}
}

INLINE __m256i load16(const uint8_t *p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)); }

// transform_rows computes one row of B^T d B for PIXELS tiles that begin two columns apart at `p` and `q`: the row's values are
// p + q or p - q, 16 channels of each of the columns. out: column of the transform, tile, channel.
INLINE void transform_rows(int16_t *out, int channels, const uint8_t *p, const uint8_t *q, ptrdiff_t stride, int plus) {
#define COLUMN(x) \
	(plus ? _mm256_add_epi16(load16(p + (x)), load16(q + (x))) : _mm256_sub_epi16(load16(p + (x)), load16(q + (x))))
	size_t position = (size_t)PIXELS * channels;
	int16_t *out1 = out + position, *out2 = out + 2 * position, *out3 = out + 3 * position;
	__m256i a = COLUMN(0), b = COLUMN(stride);
#pragma GCC unroll 6
	for (int i = 0; i < PIXELS; i++) {
		p += 2 * stride;
		q += 2 * stride;
		__m256i d = COLUMN(0), e = COLUMN(stride);
		_mm256_store_si256((__m256i *)(out + (size_t)i * channels), _mm256_sub_epi16(a, d));
		_mm256_store_si256((__m256i *)(out1 + (size_t)i * channels), _mm256_add_epi16(b, d));
		_mm256_store_si256((__m256i *)(out2 + (size_t)i * channels), _mm256_sub_epi16(d, b));
		_mm256_store_si256((__m256i *)(out3 + (size_t)i * channels), _mm256_sub_epi16(b, e));
		a = d;
		b = e;
	}
#undef COLUMN
}

// transform_input computes B^T d B for PIXELS tiles of 4x4 pixels that begin at column x - 1, two columns apart. tiles:
// position, tile, channel.
INLINE void transform_input(int16_t *tiles, int channels, const uint8_t *const *rows, ptrdiff_t stride, int x) {
	size_t row = (size_t)4 * PIXELS * channels;
	for (int c = 0; c < channels; c += 16) {
		ptrdiff_t at = (x - 1) * stride + c;
		const uint8_t *d0 = rows[0] + at, *d1 = rows[1] + at, *d2 = rows[2] + at, *d3 = rows[3] + at;
		transform_rows(tiles + c, channels, d0, d2, stride, 0);
		transform_rows(tiles + c + row, channels, d1, d2, stride, 1);
		transform_rows(tiles + c + 2 * row, channels, d2, d1, stride, 0);
		transform_rows(tiles + c + 3 * row, channels, d1, d3, stride, 0);
	}
}

// transform_output computes A^T m A for eight output channels of one tile: 2x2 pixels.
INLINE void transform_output(__m256i out[2][2], const int32_t *m) {
	__m256i s[2][4];
#pragma GCC unroll 4
	for (int j = 0; j < 4; j++) {
		__m256i m0 = _mm256_load_si256((const __m256i *)(m + (size_t)(0 + j) * PIXELS * NAT_LANES));
		__m256i m1 = _mm256_load_si256((const __m256i *)(m + (size_t)(4 + j) * PIXELS * NAT_LANES));
		__m256i m2 = _mm256_load_si256((const __m256i *)(m + (size_t)(8 + j) * PIXELS * NAT_LANES));
		__m256i m3 = _mm256_load_si256((const __m256i *)(m + (size_t)(12 + j) * PIXELS * NAT_LANES));
		s[0][j] = _mm256_add_epi32(_mm256_add_epi32(m0, m1), m2);
		s[1][j] = _mm256_sub_epi32(_mm256_sub_epi32(m1, m2), m3);
	}
	for (int r = 0; r < 2; r++) {
		out[r][0] = _mm256_add_epi32(_mm256_add_epi32(s[r][0], s[r][1]), s[r][2]);
		out[r][1] = _mm256_sub_epi32(_mm256_sub_epi32(s[r][1], s[r][2]), s[r][3]);
	}
}

// winograd_products multiplies the tiles of every position with its weights. n: pairs of input channels.
INLINE void winograd_products(int32_t *products, const int16_t *tiles, int channels, const int16_t *weights, const int32_t *bias, int n,
	int vectors) {
	for (int p = 0; p < POSITIONS; p++, tiles += PIXELS * channels, weights += n * 32, products += PIXELS * NAT_LANES) {
		__m256i sums[PIXELS][2];
		multiply(sums, tiles, channels, weights, vectors);
		multiply_add(sums, tiles + 2, channels, weights + 32, n - 1, vectors);
		if (p == 5) { // position (1, 1) is added once to each of the four outputs: the place for the bias
			__m256i b0 = _mm256_load_si256((const __m256i *)bias), b1 = _mm256_load_si256((const __m256i *)(bias + 8));
			for (int i = 0; i < PIXELS; i++) {
				sums[i][0] = _mm256_add_epi32(sums[i][0], b0);
				sums[i][1] = _mm256_add_epi32(sums[i][1], b1);
			}
		}
		for (int i = 0; i < PIXELS; i++) {
			_mm256_store_si256((__m256i *)(products + i * NAT_LANES), sums[i][0]);
			if (vectors == 2) {
				_mm256_store_si256((__m256i *)(products + i * NAT_LANES + 8), sums[i][1]);
			}
		}
	}
}

INLINE void winograd_group(const nat_op *op, const nat_work *w, const int16_t *tiles, int32_t *products, int channels, int x, int c,
	int vectors) {
	int n = op->cin / 2;
	const int16_t *weights = op->winograd + (size_t)c / NAT_LANES * POSITIONS * n * 32;
	winograd_products(products, tiles, channels, weights, op->bias4 + c, n, vectors);
	for (int i = 0; i < PIXELS; i++) {
		__m256i v0[2][2], v1[2][2] = {{_mm256_setzero_si256(), _mm256_setzero_si256()}, {_mm256_setzero_si256(), _mm256_setzero_si256()}};
		transform_output(v0, products + (size_t)i * NAT_LANES);
		if (vectors == 2) {
			transform_output(v1, products + (size_t)i * NAT_LANES + 8);
		}
		for (int line = 0; line < 2; line++) {
			sums2 s = {v0[line][0], v1[line][0], v0[line][1], v1[line][1]};
			finish2(op, w, line, x + 2 * i, c, op->mul4, s, vectors == 1);
		}
	}
}

INLINE void winograd_rows(const nat_op *op, const nat_work *w, int channels) {
	int16_t *tiles = w->scratch;
	int32_t *products = (int32_t *)(tiles + (size_t)POSITIONS * PIXELS * channels);
	const uint8_t *rows[4] = {w->row[0][0], w->row[0][1], w->row[0][2], w->row[1][2]};
	for (int x = 0; x < w->width; x += 2 * PIXELS) {
		transform_input(tiles, channels, rows, op->source_stride[0], x);
		for (int c = 0; c < op->cpad; c += NAT_LANES) {
			if (op->cout - c <= 8) {
				winograd_group(op, w, tiles, products, channels, x, c, 1);
			} else {
				winograd_group(op, w, tiles, products, channels, x, c, 2);
			}
		}
	}
}

// winograd computes two rows, a block of tiles of 2x2 pixels at a time. The sums are four times the true ones; mul4 knows.
static void winograd(const nat_op *op, const nat_work *w) {
	if (padded_cin(op) == 16) { // the smallest tier: distances known when this is compiled
		winograd_rows(op, w, 16);
	} else {
		winograd_rows(op, w, padded_cin(op));
	}
}

static void conv(const nat_op *op, const nat_work *w) {
	if (use_winograd(op)) {
		winograd(op, w);
	} else {
		direct(op, w);
	}
}

const nat_path *nat_avx2(void) {
	static const nat_path path = {"avx2", lines, scratch, conv, finish_plane};
	return &path;
}

#pragma GCC pop_options
#endif
