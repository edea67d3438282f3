/* kernels.c - the whole library as one translation unit. */
#include "threads.c"
#include "gemm.c"
#include "conv.c"
#include "depthwise.c"
