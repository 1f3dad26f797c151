#include "peak.h"

#ifdef __x86_64__
#define STEP(r) "vpmaddwd %%ymm12, %%ymm" #r ", %%ymm" #r "\n vpaddd %%ymm13, %%ymm" #r ", %%ymm" #r "\n"

// Twelve independent chains, as many sums as the kernels keep; in assembly, so that no compiler drops, merges or spills them.
long peak_multiply_adds(long rounds) {
	long left = rounds;
	__asm__ volatile(
		"1:\n" STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) STEP(9) STEP(10) STEP(11)
		"dec %0\n jnz 1b\n vzeroupper\n"
		: "+r"(left)
		:
		: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "cc");
	return rounds * 12 * 16;
}
#else
long peak_multiply_adds(long rounds) {
	(void)rounds;
	return 0;
}
#endif
