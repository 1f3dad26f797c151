// The arithmetic of one int8 network over rows of a picture, in C.
//
// Activations are bytes, channels last: pixel x of a row begins at x * stride. Weights are signed bytes, sums are 32 bits and
// exact, so the order of summation does not matter and every implementation below gives the same bits. What a convolution
// leaves is computed per output channel as
//
//   q = saturate(round(sum * mul) + zero)                        round: half to even; saturate: to lo..255
//   q = saturate(round(fma(q, add_q, fma(r, add_r, add_c))))     only with a residual r
//   copy = lut[q]                                                for each place the result goes to
//
// with float32 operations in exactly this order; fma rounds once. scalar.c says the same in plain C and is the reference.
#ifndef NATIVE_H
#define NATIVE_H

#include <stddef.h>
#include <stdint.h>

enum {
	NAT_MAX_ROWS = 16,   // input rows a convolution reads for one row of output: sources x kernel height
	NAT_MAX_COPIES = 4,  // places one result goes to
	NAT_MAX_STAGES = 3,  // multiply-adds that stand for a copy's table
	NAT_LANES = 16,      // output channels are computed in groups of so many
	NAT_MAX_STEPS = 4096, // of a convolution, see nat_step
	NAT_SLACK = 32,      // pixels that may be read and written right of a row, beyond its padding
	NAT_BAND = 2,        // rows each layer advances before the next one's turn
};

// What consumes a row of sums.
enum nat_kind {
	NAT_INPUT, // no convolution: the luma plane's samples become bytes
	NAT_BYTES, // a convolution whose result is quantized
	NAT_PLANE, // the last convolution: input added, pixels shuffled into the output plane
};

// A ring of rows of bytes between two layers. Each row has `pad` pixels on both sides that hold padding[].
typedef struct {
	int stride;  // bytes a pixel
	int pad;     // pixels of padding on each side: the largest radius of a reader
	int rows;    // rows kept
	const uint8_t *padding; // one pixel: the readers' zero points; `stride` bytes
} nat_buffer;

// One place a result goes to.
typedef struct {
	int buffer, stride; // the buffer's stride, for the paths
	const uint8_t *lut; // 256 bytes for each of the channels; NULL: as it is
	int stages;         // the same tables as multiply-adds: clamp(round(fma(q, a, b))), one after the other
	const float *a, *b; // stages x padded channels
} nat_copy;

// Channels of one buffer that a convolution reads.
typedef struct {
	int buffer, first, n;
} nat_source;

// Where a step reads, relative to the output pixel.
typedef struct {
	int row;    // of nat_work.row
	int offset; // bytes
} nat_step;

typedef struct {
	int kind;
	int k, cin, cout, cpad;  // kernel size; channels; output channels rounded up to NAT_LANES
	int lead;                // rows by which this layer runs ahead of the last one
	int sources;
	nat_source source[NAT_MAX_ROWS];
	int source_stride[NAT_MAX_ROWS];
	const int8_t *weights;   // cout x k x k x cin
	const int32_t *bias;     // cpad; the zero point's part of every sum is in it
	const float *mul;        // cpad
	const float *shift;      // cpad; NAT_PLANE: added to sum * mul in real units
	int zero, lo;
	int residual;            // buffer, or -1
	int residual_stride;
	float add_q, add_r, add_c;
	int copies;
	nat_copy copy[NAT_MAX_COPIES];
	// The weights again, in the orders the vector paths read them; see the files that use them.
	const int16_t *pairs;    // 16 bits, direct: group, kernel row, pair of the row's k * cin values, lane, 2
	int row_pairs;           // pairs a kernel row, the last one filled up with a zero weight
	const int16_t *winograd; // 16 bits, 3x3 only: group, position, pair of channels, lane, 2; NULL: not applicable
	const float *mul4;       // mul / 4
	const int32_t *bias4;    // bias * 4
	const int8_t *quads;     // 8 bits, direct: group, step, tap, lane, 4
	int steps;               // four consecutive bytes of input each
	int taps;                // output pixels these bytes are used for: 1; 3, one pixel apart; 2, four pixels apart
	const nat_step *step;
	int pixel;               // the sources' stride
	const int32_t *signed_bias; // bias where 128 is taken from each byte of input
} nat_op;

typedef struct {
	int scale;
	int ops, buffers;
	const nat_op *op;
	const nat_buffer *buffer;
	const uint8_t *input[17]; // by depth, 8..16: the byte that stands for each code value
} nat_net;

// One row's work, as handed to a path. Rows and outputs point at pixel 0.
typedef struct {
	int width;
	const uint8_t *row[2][NAT_MAX_ROWS]; // for each output row, by source and kernel row; row[1] only where lines is 2
	uint8_t *out[2][NAT_MAX_COPIES];
	const uint8_t *residual[2];
	float *sums[2];    // NAT_PLANE: sum * mul + shift, cpad values a pixel
	int lines;         // output rows asked for: 1, or 2 where the path says so
	void *scratch;     // nat_path.scratch bytes, 64-aligned
} nat_work;

typedef struct {
	const char *name;
	int (*lines)(const nat_op *op);  // output rows it computes at once for this convolution: 1 or 2
	size_t (*scratch)(const nat_op *op, int width);
	void (*conv)(const nat_op *op, const nat_work *work);
	// finish writes one row of the output plane: v = sums + x, clamped, times the largest code value, rounded half to even.
	void (*finish)(const float *sums, int lanes, const uint8_t *src, int width, int scale, int depth, uint8_t *dst,
		ptrdiff_t dst_stride);
} nat_path;

const nat_path *nat_scalar(void);
const nat_path *nat_avx2(void);       // NULL where the machine's architecture has none
const nat_path *nat_avxvnni(void);
const nat_path *nat_avx512vnni(void);
const nat_path *nat_dotprod(void);
const nat_path *nat_quads_avx2(void); // for tests

// nat_scratch_bytes returns the memory nat_run needs for a picture of this width.
size_t nat_scratch_bytes(const nat_net *net, const nat_path *path, int width);

// nat_run upscales rows y0..y1 of a width x height luma plane. dst points at the first row of output that is asked
// for. scratch: nat_scratch_bytes bytes, 64-aligned, of any content. Nothing is allocated and nothing kept. times, unless NULL,
// gets the nanoseconds that each op took added.
void nat_run(const nat_net *net, const nat_path *path, const void *src, ptrdiff_t src_stride, int width, int height, int depth,
	void *dst, ptrdiff_t dst_stride, int y0, int y1, void *scratch, int64_t *times);

#endif
