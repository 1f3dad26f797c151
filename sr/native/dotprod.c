// 64-bit ARM with the dot product instructions (Cortex-A76, Neoverse N1, Apple's processors and later): four vectors of 4 output
// channels. sdot multiplies signed bytes with signed ones, so the input's have 128 taken away; the bias makes up for it.
#include "native.h"

#if !defined(__aarch64__)

const nat_path *nat_dotprod(void) { return NULL; }

#else

#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))
#define VEC int32x4_t
#define VECS 4
#define PIXELS1 6
#define TAPS_PIXELS1 4
#define PIXELS2 0
#define MAX_PIXELS 6
#define BIAS(op) (op)->signed_bias
#define LOAD_SUMS(p) vld1q_s32(p)
#define LOAD_WEIGHTS(p) vreinterpretq_s32_s8(vld1q_s8(p))
#define BROADCAST(i) veorq_s32(vdupq_n_s32(i), vreinterpretq_s32_u8(vdupq_n_u8(0x80)))
#define DOT(sums, in, weights) vdotq_s32(sums, vreinterpretq_s8_s32(weights), vreinterpretq_s8_s32(in))
#define OPAQUE(v) __asm__("" : "+w"(v))

INLINE float32x4_t clamp_f32(float32x4_t v, float lo) { return vminq_f32(vmaxq_f32(v, vdupq_n_f32(lo)), vdupq_n_f32(255)); }

// store16 rounds 16 values, adds `zero`, and stores them as bytes of at least `lo`.
INLINE void store16(uint8_t *out, const float32x4_t v[4], int zero, int lo) {
	int16x8_t a = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(v[0])), vqmovn_s32(vcvtnq_s32_f32(v[1])));
	int16x8_t b = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(v[2])), vqmovn_s32(vcvtnq_s32_f32(v[3])));
	int16x8_t z = vdupq_n_s16((int16_t)zero);
	uint8x16_t bytes = vcombine_u8(vqmovun_s16(vqaddq_s16(a, z)), vqmovun_s16(vqaddq_s16(b, z)));
	vst1q_u8(out, vmaxq_u8(bytes, vdupq_n_u8((uint8_t)lo)));
}

// quantize quantizes 16 products of sum and mul, and adds the residual if there is one, up to the last rounding.
INLINE void quantize(const nat_op *op, const nat_work *w, int x, int c, float32x4_t v[4]) {
	for (int k = 0; k < 4; k++) {
		v[k] = clamp_f32(vaddq_f32(vrndnq_f32(v[k]), vdupq_n_f32((float)op->zero)), (float)op->lo);
	}
	if (op->residual < 0) {
		return;
	}
	uint8x16_t bytes = vld1q_u8(w->residual[0] + (ptrdiff_t)x * op->residual_stride + c);
	uint16x8_t half[2] = {vmovl_u8(vget_low_u8(bytes)), vmovl_u8(vget_high_u8(bytes))};
	for (int k = 0; k < 4; k++) {
		uint16x4_t four = k % 2 ? vget_high_u16(half[k / 2]) : vget_low_u16(half[k / 2]);
		float32x4_t r = vfmaq_f32(vdupq_n_f32(op->add_c), vcvtq_f32_u32(vmovl_u16(four)), vdupq_n_f32(op->add_r));
		v[k] = vfmaq_f32(r, v[k], vdupq_n_f32(op->add_q));
	}
}

// finish_copies does tables and several copies; the vectors are the products of sum and mul.
__attribute__((noinline)) static void finish_copies(const nat_op *op, const nat_work *w, int x, int c, float32x4_t v0, float32x4_t v1,
	float32x4_t v2, float32x4_t v3) {
	float32x4_t v[4] = {v0, v1, v2, v3};
	quantize(op, w, x, c, v);
	for (int k = 0; k < 4 && op->residual >= 0; k++) {
		v[k] = clamp_f32(vrndnq_f32(v[k]), 0);
	}
	for (int i = 0; i < op->copies; i++) {
		const nat_copy *copy = &op->copy[i];
		float32x4_t u[4] = {v[0], v[1], v[2], v[3]};
		for (int s = 0; s < copy->stages; s++) {
			const float *a = copy->a + (size_t)s * op->cpad + c, *b = copy->b + (size_t)s * op->cpad + c;
			for (int k = 0; k < 4; k++) {
				u[k] = clamp_f32(vrndnq_f32(vfmaq_f32(vld1q_f32(b + 4 * k), u[k], vld1q_f32(a + 4 * k))), 0);
			}
		}
		store16(w->out[0][i] + (ptrdiff_t)x * copy->stride + c, u, 0, 0);
	}
}

// finish1 stores 16 output channels of one pixel.
INLINE void finish1(const nat_op *op, const nat_work *w, int x, int c, const VEC sums[VECS]) {
	float32x4_t v[4];
	if (op->kind == NAT_PLANE) {
		for (int k = 0; k < 4; k++) {
			vst1q_f32(w->sums[0] + (size_t)x * op->cpad + c + 4 * k,
				vfmaq_f32(vld1q_f32(op->shift + c + 4 * k), vcvtq_f32_s32(sums[k]), vld1q_f32(op->mul + c + 4 * k)));
		}
		return;
	}
	for (int k = 0; k < 4; k++) {
		v[k] = vmulq_f32(vcvtq_f32_s32(sums[k]), vld1q_f32(op->mul + c + 4 * k));
	}
	if (op->copies > 1 || op->copy[0].stages > 0) {
		finish_copies(op, w, x, c, v[0], v[1], v[2], v[3]);
		return;
	}
	uint8_t *out = w->out[0][0] + (ptrdiff_t)x * op->copy[0].stride + c;
	if (op->residual >= 0) {
		quantize(op, w, x, c, v);
		store16(out, v, 0, 0);
	} else {
		store16(out, v, op->zero, op->lo);
	}
}

INLINE void finish_block(const nat_op *op, const nat_work *w, int x, int c, VEC sums[2][MAX_PIXELS][VECS], const int groups,
	const int pixels) {
	(void)groups;
#pragma GCC unroll 6
	for (int i = 0; i < pixels; i++) {
		finish1(op, w, x + i, c, sums[0][i]);
	}
}

#include "quads.h"

static int lines(const nat_op *op) {
	(void)op;
	return 1;
}

static size_t scratch(const nat_op *op, int width) {
	(void)op, (void)width;
	return 0;
}

static void finish(const float *sums, int lanes, const uint8_t *src, int width, int scale, int depth, uint8_t *dst,
	ptrdiff_t dst_stride) {
	const int most = (1 << depth) - 1, bytes = depth == 8 ? 1 : 2;
	const float32x4_t top = vdupq_n_f32((float)most);
	for (int x = 0; x < width; x++, sums += lanes, dst += scale * bytes) {
		int code = depth == 8 ? src[x] : src[2 * x] | src[2 * x + 1] << 8;
		float32x4_t in = vdupq_n_f32((float)(code > most ? most : code) / (float)most);
		int32_t codes[8 * 8];
		for (int i = 0; i < scale * scale; i += 4) {
			float32x4_t v = vmulq_f32(vaddq_f32(vld1q_f32(sums + i), in), top);
			vst1q_s32(codes + i, vcvtnq_s32_f32(vminq_f32(vmaxq_f32(v, vdupq_n_f32(0)), top)));
		}
		for (int i = 0; i < scale * scale; i++) {
			uint8_t *out = dst + i / scale * dst_stride + i % scale * bytes;
			out[0] = (uint8_t)codes[i];
			if (bytes == 2) {
				out[1] = (uint8_t)(codes[i] >> 8);
			}
		}
	}
}

const nat_path *nat_dotprod(void) {
	static const nat_path path = {"dotprod", lines, scratch, quads_conv, finish};
	return &path;
}

#pragma GCC pop_options
#endif
