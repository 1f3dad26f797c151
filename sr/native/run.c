// The order of work: every layer advances a few rows at a time, each as far ahead of the next as that one's kernel needs, so
// that what lies between layers is a handful of rows. No row of any layer is computed twice.
#include <string.h>
#include <time.h>

#include "native.h"

enum { MAX_OPS = 512, MAX_BUFFERS = 1024 };

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

static size_t row_bytes(const nat_buffer *b, int width) {
	return align64((size_t)(width + 2 * b->pad + NAT_SLACK) * b->stride);
}

// A buffer's rows, and one more that holds nothing but padding: what lies above and below the picture.
static size_t buffer_bytes(const nat_buffer *b, int width) { return (size_t)(b->rows + 1) * row_bytes(b, width); }

static size_t sums_bytes(const nat_op *op, int width) {
	return align64((size_t)(width + NAT_SLACK) * op->cpad * sizeof(float));
}

static size_t path_scratch(const nat_net *net, const nat_path *path, int width) {
	size_t most = 0;
	for (int i = 0; i < net->ops; i++) {
		size_t n = net->op[i].kind == NAT_INPUT ? 0 : path->scratch(&net->op[i], width);
		most = n > most ? n : most;
	}
	return align64(most);
}

size_t nat_scratch_bytes(const nat_net *net, const nat_path *path, int width) {
	size_t total = path_scratch(net, path, width) + 2 * sums_bytes(&net->op[net->ops - 1], width);
	size_t widest = 0;
	for (int i = 0; i < net->buffers; i++) {
		total += buffer_bytes(&net->buffer[i], width);
		size_t n = row_bytes(&net->buffer[i], width);
		widest = n > widest ? n : widest;
	}
	return total + widest; // a row to throw away
}

typedef struct {
	const nat_net *net;
	const nat_path *path;
	const uint8_t *src;
	uint8_t *dst;
	ptrdiff_t src_stride, dst_stride;
	int width, height, depth, y0;
	uint8_t *base[MAX_BUFFERS]; // pixel 0 of each buffer's first row
	size_t row_bytes[MAX_BUFFERS];
	uint8_t *thrown; // pixel 0 of a row whose content nobody reads
	float *sums[2];
	void *scratch;
} run;

static uint8_t *buffer_row(const run *r, int b, int y) {
	int rows = r->net->buffer[b].rows;
	return r->base[b] + (size_t)(y < 0 || y >= r->height ? rows : y % rows) * r->row_bytes[b];
}

// pad_right restores the padding right of a row: the paths compute pixels in blocks and write past the end.
static void pad_right(const run *r, int b, uint8_t *row) {
	const nat_buffer *buf = &r->net->buffer[b];
	for (int i = 0; i < buf->pad; i++) {
		memcpy(row + (size_t)(r->width + i) * buf->stride, buf->padding, buf->stride);
	}
}

static void input_row(const run *r, const nat_op *op, int y) {
	int b = op->copy[0].buffer, most = (1 << r->depth) - 1;
	const uint8_t *table = r->net->input[r->depth];
	const uint8_t *src = r->src + y * r->src_stride;
	uint8_t *out = buffer_row(r, b, y);
	if (r->depth == 8) {
		for (int x = 0; x < r->width; x++) {
			out[x] = table[src[x]];
		}
	} else {
		for (int x = 0; x < r->width; x++) {
			int v = src[2 * x] | src[2 * x + 1] << 8;
			out[x] = table[v > most ? most : v];
		}
	}
	pad_right(r, b, out);
}

static void conv_rows(const run *r, const nat_op *op, int y, int lines, int computed) {
	nat_work w = {.width = r->width, .lines = computed, .scratch = r->scratch};
	for (int l = 0; l < computed; l++) {
		int n = 0;
		for (int s = 0; s < op->sources; s++) {
			for (int ky = 0; ky < op->k; ky++) {
				w.row[l][n++] = buffer_row(r, op->source[s].buffer, y + l + ky - op->k / 2) + op->source[s].first;
			}
		}
		for (int c = 0; c < op->copies; c++) {
			w.out[l][c] = l < lines ? buffer_row(r, op->copy[c].buffer, y + l) : r->thrown;
		}
		if (op->residual >= 0) {
			w.residual[l] = buffer_row(r, op->residual, y + l);
		}
		w.sums[l] = r->sums[l];
	}
	r->path->conv(op, &w);
	for (int l = 0; l < lines; l++) {
		for (int c = 0; c < op->copies; c++) {
			pad_right(r, op->copy[c].buffer, w.out[l][c]);
		}
		if (op->kind == NAT_PLANE) {
			r->path->finish(r->sums[l], op->cpad, r->src + (y + l) * r->src_stride, r->width, r->net->scale, r->depth,
				r->dst + (ptrdiff_t)(y + l - r->y0) * r->net->scale * r->dst_stride, r->dst_stride);
		}
	}
}

static int64_t nanoseconds(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void nat_run(const nat_net *net, const nat_path *path, const void *src, ptrdiff_t src_stride, int width, int height, int depth,
	void *dst, ptrdiff_t dst_stride, int y0, int y1, void *scratch, int64_t *times) {
	run r = {
		.net = net, .path = path, .src = src, .dst = dst, .src_stride = src_stride, .dst_stride = dst_stride,
		.width = width, .height = height, .depth = depth, .y0 = y0, .scratch = scratch,
	};
	uint8_t *at = (uint8_t *)scratch + path_scratch(net, path, width);
	for (int i = 0; i < 2; i++) {
		r.sums[i] = (float *)at;
		at += sums_bytes(&net->op[net->ops - 1], width);
	}
	size_t widest = 0;
	for (int i = 0; i < net->buffers; i++) {
		const nat_buffer *b = &net->buffer[i];
		r.row_bytes[i] = row_bytes(b, width);
		r.base[i] = at + (size_t)b->pad * b->stride;
		widest = r.row_bytes[i] > widest ? r.row_bytes[i] : widest;
		for (int y = 0; y <= b->rows; y++) {
			uint8_t *row = at + (size_t)y * r.row_bytes[i];
			int n = y == b->rows ? width + 2 * b->pad + NAT_SLACK : b->pad;
			for (int x = 0; x < n; x++) {
				memcpy(row + (size_t)x * b->stride, b->padding, b->stride);
			}
		}
		at += buffer_bytes(b, width);
	}
	r.thrown = at;

	int done[MAX_OPS], end[MAX_OPS], most = net->op[0].lead;
	for (int i = 0; i < net->ops; i++) {
		int lead = net->op[i].lead;
		most = lead > most ? lead : most;
		done[i] = y0 - lead > 0 ? y0 - lead : 0;
		end[i] = y1 + lead < height ? y1 + lead : height;
	}
	// The earliest layer needs up to 2 * most rows of head start when y0 lies inside the picture.
	for (int t = y0 - 2 * most; t < y1; t += NAT_BAND) {
		for (int i = 0; i < net->ops; i++) {
			const nat_op *op = &net->op[i];
			int until = t + NAT_BAND + op->lead < end[i] ? t + NAT_BAND + op->lead : end[i];
			int64_t start = times ? nanoseconds() : 0;
			while (done[i] < until) {
				if (op->kind == NAT_INPUT) {
					input_row(&r, op, done[i]++);
					continue;
				}
				int computed = path->lines(op);
				int lines = until - done[i] < computed ? until - done[i] : computed;
				conv_rows(&r, op, done[i], lines, computed);
				done[i] += lines;
			}
			if (times) {
				times[i] += nanoseconds() - start;
			}
		}
	}
}
