#include "native.h"
const nat_path *nat_avxvnni(void) { return NULL; }
const nat_path *nat_avx512vnni(void) { return NULL; }
