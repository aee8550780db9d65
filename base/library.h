/* Shared libraries that are loaded when they are needed, since they take longer to load than all the rest of a start. */
#ifndef TRIAD_BASE_LIBRARY_H
#define TRIAD_BASE_LIBRARY_H

#include "base/err.h"

struct library {
    const char *path;         /* as dlopen takes it */
    const char *need;         /* "packs need HDF5's library": how the message begins where there is none */
    const char *remedy;       /* "install libhdf5-103-1 (apt-get)": how it ends */
    const char *const *names; /* ended by NULL */
};

/* Loads it and writes the address of names[i] to address[i]. Returns dlopen's handle, for dlclose; NULL and ERR_IO where it
 * cannot be loaded or lacks a name: then it is closed again and what has been written means nothing. */
void *library_load(const struct library *l, void **address, struct err *e);

#endif
