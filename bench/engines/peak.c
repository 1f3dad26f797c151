#include "peak.h"

#include <string.h>

#ifdef __x86_64__
// Twelve independent chains, enough to hide what one instruction waits for another; in assembly, so that no compiler drops, merges or
// spills them.
#define CHAINS(STEP) STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) STEP(9) STEP(10) STEP(11)
#define LOOP(STEP) \
	__asm__ volatile("1:\n" CHAINS(STEP) "dec %0\n jnz 1b\n vzeroupper\n" \
		: "+r"(left) \
		: \
		: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "cc")

#define AVX512VNNI(r) "vpdpbusd %%zmm12, %%zmm13, %%zmm" #r "\n"
#define AVXVNNI(r) "%{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm" #r "\n"
#define AVX2(r) "vpmaddwd %%ymm12, %%ymm" #r ", %%ymm" #r "\n vpaddd %%ymm13, %%ymm" #r ", %%ymm" #r "\n"

long peak_multiply_adds(const char *path, long rounds) {
	long left = rounds;
	if (strcmp(path, "avx512vnni") == 0) {
		LOOP(AVX512VNNI);
		return rounds * 12 * 64;
	}
	if (strcmp(path, "avxvnni") == 0) {
		LOOP(AVXVNNI);
		return rounds * 12 * 32;
	}
	if (strcmp(path, "avx2") == 0) {
		LOOP(AVX2);
		return rounds * 12 * 16;
	}
	return 0;
}
#else
long peak_multiply_adds(const char *path, long rounds) {
	(void)path, (void)rounds;
	return 0;
}
#endif
