/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all benchmarks need: the clock, and the median of rounds with its quartiles. */
#ifndef CLSHM_BENCH_MEASURE_H
#define CLSHM_BENCH_MEASURE_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define PAGE      4096ul
#define MIB       (1ul << 20)
#define NOT_THERE ((void *)-1)

struct spread {
    double low, median, high; /* quartiles */
};

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static inline int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline struct spread spread_of(double *values, int n)
{
    qsort(values, (size_t)n, sizeof(*values), by_value);
    return (struct spread){values[n / 4], values[n / 2], values[3 * n / 4]};
}

#endif
