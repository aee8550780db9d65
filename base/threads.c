#include "base/threads.h"

#include <cblas.h>
#include <dirent.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4096 }; /* more threads than this is a slip of the pen */

extern void openblas_set_num_threads(int n);

void threads_init(int n)
{
    if (n <= 0) {
        const char *s = getenv("OMP_NUM_THREADS");
        long want = s ? strtol(s, NULL, 10) : 0;
        n = want > 0 && want <= MOST ? (int)want : 0;
    }
    if (n <= 0) {
        cpu_set_t set;
        n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    }
    if (n > MOST) n = MOST;
    openblas_set_num_threads(1); /* its OpenMP build sets OpenMP's count too: ours comes after */
    omp_set_dynamic(0);
    omp_set_num_threads(n);
}

int threads_count(void)
{
    return omp_get_max_threads();
}

void threads_alone(void)
{
    omp_set_num_threads(1);
}

double time_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double process_age(void)
{
    /* The 22nd word; the second, the program's name in brackets, may hold blanks. */
    char line[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    const char *p = f && fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    if (f) fclose(f);
    for (int i = 2; i < 22 && p; i++) p = strchr(p + 1, ' ');
    struct timespec t;
    if (!p || clock_gettime(CLOCK_BOOTTIME, &t)) return 0;
    double age = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec - strtod(p, NULL) / (double)sysconf(_SC_CLK_TCK);
    return age > 0 ? age : 0;
}

double process_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t process_peak_rss(void)
{
    /* Not getrusage: its figure survives exec and so may be that of a large parent. */
    FILE *f = fopen("/proc/self/status", "re");
    long long kb = -1;
    for (char line[200]; f && kb < 0 && fgets(line, sizeof line, f);)
        if (sscanf(line, "VmHWM: %lld kB", &kb) != 1) kb = -1;
    if (f) fclose(f);
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return 1024 * (int64_t)(kb > 0 ? kb : u.ru_maxrss);
}

int64_t process_page_faults(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (int64_t)u.ru_minflt + u.ru_majflt;
}

int64_t process_threads_created(void)
{
    DIR *d = opendir("/proc/self/task");
    if (!d) return -1;
    int64_t n = 0;
    for (struct dirent *f; (f = readdir(d));) n += f->d_name[0] != '.';
    closedir(d);
    return n;
}
