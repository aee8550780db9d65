#include "base/isa.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"plain", "avx2", "avx512"};
static int now = -1;

const char *isa_name(enum isa i)
{
    return names[i];
}

#ifdef TRIAD_ONE_ISA
enum { only_plain = ISA_PLAIN, only_avx2 = ISA_AVX2, only_avx512 = ISA_AVX512 };

static enum isa usable(enum isa want)
{
    (void)want;
    return (enum isa)ISA_PASTE(only, TRIAD_ONE_ISA);
}
#else
/* `want`, or the best that there is. */
static enum isa usable(enum isa want)
{
    __builtin_cpu_init();
#define HAS __builtin_cpu_supports
    if (!HAS("avx2") || !HAS("fma") || !HAS("bmi2"))
        return ISA_PLAIN; /* F16C, which clang cannot ask for, came before AVX2 */
    if (!HAS("avx512f") || !HAS("avx512bw") || !HAS("avx512cd") || !HAS("avx512dq") || !HAS("avx512vl"))
        return want < ISA_AVX2 ? want : ISA_AVX2;
#undef HAS
    return want;
}
#endif

enum isa isa_use(enum isa i)
{
    now = (int)usable(i);
    return (enum isa)now;
}

enum isa isa_now(void)
{
    if (now < 0) {
        const char *want = getenv("TRIAD_ISA");
        enum isa i = ISA_AVX512;
        for (int k = 0; want && k < 3; k++)
            if (!strcmp(want, names[k])) i = (enum isa)k;
        isa_use(i);
    }
    return (enum isa)now;
}
