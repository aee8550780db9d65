/* Threads: how many there are, and the rule that keeps results independent of it.
 *
 * Work is cut into blocks whose bounds depend on the sizes alone, never on the thread count; a sum over blocks is taken
 * in block order. Who opens an OpenMP region does so only where the work is more than PAR_MIN; calls of a plan share them
 * (autograd/region.h). */
#ifndef TRIAD_BASE_THREADS_H
#define TRIAD_BASE_THREADS_H

#include <stdint.h>

enum { PAR_MIN = 32768 }; /* scalar operations below which a fork-join (1-2 us) costs more than it gives */

/* The number of compute threads: `n` > 0 sets it, 0 takes OMP_NUM_THREADS or the cores this process may use. Also makes
 * OpenBLAS single-threaded, since parallelism is outside its calls. Call once at start; later calls may change it. */
void threads_init(int n);
int threads_count(void);
void threads_alone(void); /* what the calling thread computes from now on, it computes by itself */

double time_now(void);                 /* seconds, monotonic */
double process_age(void);              /* seconds since the system started this process, in its ticks of 10 ms */
double process_cpu(void);              /* seconds that all threads together have run so far */
int64_t process_peak_rss(void);        /* bytes, the high-water mark of this process */
int64_t process_page_faults(void);     /* minor + major faults so far */
int64_t process_threads_created(void); /* threads alive now */

#endif
