/* Which kernel runs a call: the first row, in the order of kernels.def, that has its op and dtype and accepts it, among
 * those compiled for the instruction set in use. */
#include <unistd.h>

#include "autograd/kernels/gemm.h"
#include "autograd/op.h"
#include "base/isa.h"

#define KERNELS(name) extern ISA_DECLARE(const struct ad_kernel, ad_kernels_##name, []);
#include "autograd/kernels/kernels.def"
#undef KERNELS

const struct ad_kernel *ad_kernel_find(const struct ad_op *op, const struct ad_call *c)
{
    if (op->kernel) return op->kernel;
    enum ad_dtype t = c->n_in ? c->in[0].dtype : c->out[0].dtype;
#define KERNELS(name) ISA_PICK(ad_kernels_##name),
    const struct ad_kernel *const tables[] = {
#include "autograd/kernels/kernels.def"
    };
#undef KERNELS
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const struct ad_kernel *k = tables[i]; k->op; k++)
            if (k->op == op && k->dtype == (ad_is_half(t) ? AD_F32 : t) && (!k->accepts || k->accepts(c))) return k;
    return NULL;
}

ISA_DECLARE(ad_tile_fn, ad_tile_find, (const struct ad_op *op));
ad_tile_fn ad_tile_find(const struct ad_op *op)
{
    return ISA_PICK(ad_tile_find)(op);
}
ISA_DECLARE(ad_tile_fn, ad_tile_find_past, (const struct ad_op *op));
ad_tile_fn ad_tile_find_past(const struct ad_op *op)
{
    return ISA_PICK(ad_tile_find_past)(op);
}
int64_t ad_stream_from = 1 << 22;
ISA_DECLARE(bool, ad_result_streams, (const struct ad_call *call, int64_t c));
bool ad_result_streams(const struct ad_call *call, int64_t c)
{
    return ISA_PICK(ad_result_streams)(call, c);
}

ISA_DECLARE(void, gemm, (const struct gemm_args *g, void *scratch));
ISA_DECLARE(size_t, gemm_scratch, (int64_t m, int64_t n, int64_t k));
ISA_DECLARE(void, gemm_block, (const struct gemm_args *g));
ISA_DECLARE(void, gemm_enter_thread, (void));
ISA_DECLARE(enum gemm_backend, gemm_backend_of, (const struct gemm_args *g));
ISA_DECLARE(bool, gemm_sums_in_lanes, (const struct gemm_args *g));
ISA_DECLARE(bool, gemm_can, (enum gemm_backend by, const struct gemm_args *g));
ISA_DECLARE(void, gemm_block_by, (enum gemm_backend by, const struct gemm_args *g));
void gemm(const struct gemm_args *g, void *scratch)
{
    ISA_PICK(gemm)(g, scratch);
}
size_t gemm_scratch(int64_t m, int64_t n, int64_t k)
{
    return ISA_PICK(gemm_scratch)(m, n, k);
}
void gemm_block(const struct gemm_args *g)
{
    ISA_PICK(gemm_block)(g);
}
void gemm_enter_thread(void)
{
    ISA_PICK(gemm_enter_thread)();
}

int gemm_two_a_cycle_is = -1;
bool gemm_two_a_cycle(void)
{
#ifdef __x86_64__
    return gemm_two_a_cycle_is < 0 ? __builtin_cpu_is("intel") : gemm_two_a_cycle_is;
#else
    return false;
#endif
}

int64_t gemm_second_cache_is;
int64_t gemm_second_cache(void)
{
    enum { UNKNOWN = 512 << 10 };
    int64_t bytes = __atomic_load_n(&gemm_second_cache_is, __ATOMIC_RELAXED);
    if (bytes) return bytes;
#ifdef _SC_LEVEL2_CACHE_SIZE
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    if (bytes <= 0) bytes = UNKNOWN;
    __atomic_store_n(&gemm_second_cache_is, bytes, __ATOMIC_RELAXED);
    return bytes;
}

ISA_DECLARE(bool, gemm_wants_panels, (int64_t m, int64_t n, int64_t k));
ISA_DECLARE(int64_t, gemm_panels_count, (int64_t n, int64_t k));
ISA_DECLARE(bool, gemm_panels_place, (int64_t n, int64_t k, int64_t i, int64_t *row, int64_t *column));
bool gemm_wants_panels(int64_t m, int64_t n, int64_t k)
{
    return ISA_PICK(gemm_wants_panels)(m, n, k);
}
int64_t gemm_panels_count(int64_t n, int64_t k)
{
    return ISA_PICK(gemm_panels_count)(n, k);
}
bool gemm_panels_place(int64_t n, int64_t k, int64_t i, int64_t *row, int64_t *column)
{
    return ISA_PICK(gemm_panels_place)(n, k, i, row, column);
}

enum gemm_backend gemm_backend_of(const struct gemm_args *g)
{
    return ISA_PICK(gemm_backend_of)(g);
}
bool gemm_sums_in_lanes(const struct gemm_args *g)
{
    return ISA_PICK(gemm_sums_in_lanes)(g);
}
bool gemm_can(enum gemm_backend by, const struct gemm_args *g)
{
    return ISA_PICK(gemm_can)(by, g);
}
void gemm_block_by(enum gemm_backend by, const struct gemm_args *g)
{
    ISA_PICK(gemm_block_by)(by, g);
}
