/* HDF5, loaded when the first pack is opened or written. Its library brings in curl, TLS and Kerberos, some thirty
 * libraries that take 6 ms to load and relocate; most runs never touch a pack, so triad does not link to it. Calls are
 * written hdf5.H5Fopen(...) and ids *hdf5.H5T_STD_U8LE_g, behind a hdf5_load that succeeded. Files must be closed:
 * nothing of HDF5 runs when the process ends. */
#ifndef TRIAD_DATA_HDF5_LAZY_H
#define TRIAD_DATA_HDF5_LAZY_H

#include <hdf5.h>

#include "base/err.h"

/* HDF5's constants check the version and start the library whenever they are named; hdf5_load has done both. */
#undef H5CHECK
#define H5CHECK
#undef H5OPEN
#define H5OPEN

/* What of HDF5 is used: functions, and the ids that it keeps in variables. */
#define HDF5_NAMES(X)              \
    X(H5dont_atexit)               \
    X(H5get_libversion)            \
    X(H5open)                      \
    X(H5Dclose)                    \
    X(H5Dcreate2)                  \
    X(H5Dget_offset)               \
    X(H5Dget_space)                \
    X(H5Dget_type)                 \
    X(H5Dopen2)                    \
    X(H5Dread)                     \
    X(H5Dwrite)                    \
    X(H5Eset_auto2)                \
    X(H5Ewalk2)                    \
    X(H5Fclose)                    \
    X(H5Fcreate)                   \
    X(H5Fopen)                     \
    X(H5Pclose)                    \
    X(H5Pcreate)                   \
    X(H5Pset_alloc_time)           \
    X(H5Pset_fill_time)            \
    X(H5Pset_layout)               \
    X(H5Pset_obj_track_times)      \
    X(H5Sclose)                    \
    X(H5Screate_simple)            \
    X(H5Sget_simple_extent_dims)   \
    X(H5Sget_simple_extent_ndims)  \
    X(H5Sselect_hyperslab)         \
    X(H5Tclose)                    \
    X(H5Tcopy)                     \
    X(H5Tget_class)                \
    X(H5Tget_size)                 \
    X(H5Tis_variable_str)          \
    X(H5Tset_cset)                 \
    X(H5Tset_size)                 \
    X(H5Tset_strpad)               \
    X(H5P_CLS_DATASET_CREATE_ID_g) \
    X(H5T_C_S1_g) X(H5T_NATIVE_INT64_g) X(H5T_NATIVE_UINT8_g) X(H5T_STD_I64LE_g) X(H5T_STD_U8LE_g)

/* The addresses of all these, by the types that HDF5's headers give them. */
extern struct hdf5 {
#define X(name) __typeof__(name) *name;
    HDF5_NAMES(X)
#undef X
} hdf5;

/* Fills `hdf5`, once: from the library that triad was built with, or the file named by the environment variable
 * TRIAD_HDF5. ERR_IO where that cannot be loaded or is not HDF5, saying why and what to install; the next call tries
 * again. Not safe from several threads at once: callers hold the lock that all of HDF5 needs. */
int hdf5_load(struct err *e) MUST_CHECK;

#endif
