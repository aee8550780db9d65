/* Instruction sets. Every file in a folder named kernels/ is compiled once for each: with what the compiler takes by
 * default ("plain"), and on x86-64 for AVX2 + FMA + F16C and for AVX-512 (F, BW, CD, DQ, VL). The processor decides at
 * run time which of them is used. Such a file names what others call through ISA_FN, and a dispatcher outside of
 * kernels/ picks with ISA_PICK:
 *
 *   kernels/loop.c   void ISA_FN(add)(float *x, int64_t n) { ... }
 *   loop.h           ISA_DECLARE(void, add, (float *x, int64_t n));
 *   loop.c           void add(float *x, int64_t n) { ISA_PICK(add)(x, n); } */
#ifndef TRIAD_BASE_ISA_H
#define TRIAD_BASE_ISA_H

enum isa { ISA_PLAIN, ISA_AVX2, ISA_AVX512 };

/* A build can hold one set alone (`make ONE_ISA=avx2`: a smaller program, a shorter build); then that one is always in use. */
#if !defined TRIAD_ONE_ISA && !defined __x86_64__
#define TRIAD_ONE_ISA plain
#endif

/* The one in use: the best that this processor has, or a lesser one that TRIAD_ISA (plain, avx2, avx512) asks for. */
enum isa isa_now(void);
const char *isa_name(enum isa i);
/* For tests: uses `i` from now on (or the best that there is, if the processor lacks it); returns what is in use now.
 * Plans made before keep their kernels. Not while other threads compute. */
enum isa isa_use(enum isa i);

#define ISA_PASTE_(name, isa) name##_##isa
#define ISA_PASTE(name, isa) ISA_PASTE_(name, isa)
#ifdef TRIAD_ISA /* plain, avx2 or avx512: given by the Makefile to files of kernels/ */
#define ISA_FN(name) ISA_PASTE(name, TRIAD_ISA)
#endif

#ifndef TRIAD_ONE_ISA
#define ISA_DECLARE(type, name, args) type name##_plain args, name##_avx2 args, name##_avx512 args
#define ISA_PICK(name) (isa_now() == ISA_AVX512 ? name##_avx512 : isa_now() == ISA_AVX2 ? name##_avx2 : name##_plain)
#else
#define ISA_DECLARE(type, name, args) type ISA_PASTE(name, TRIAD_ONE_ISA) args
#define ISA_PICK(name) (ISA_PASTE(name, TRIAD_ONE_ISA))
#endif

#endif
