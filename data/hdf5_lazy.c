/* Finds HDF5's library at run time. The name it is looked up by, HDF5_SONAME, comes from the Makefile: the one that a
 * program linked to it would carry. */
#include "data/hdf5_lazy.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/library.h"

struct hdf5 hdf5;

int hdf5_load(struct err *e)
{
    static const char *const names[] = {
#define X(name) #name,
        HDF5_NAMES(X)
#undef X
            NULL};
    enum { N = sizeof names / sizeof *names - 1 };
    _Static_assert(sizeof(struct hdf5) == N * sizeof(void *), "the table is one pointer a name, in their order");
    if (hdf5.H5open) return 0;
    const char *own = getenv("TRIAD_HDF5"), *path = own && *own ? own : HDF5_SONAME;
    void *address[N],
        *lib = library_load(&(struct library){path, "packs need HDF5's library",
                                              "install libhdf5-103-1 (apt-get), or name its file in TRIAD_HDF5", names},
                            address, e);
    if (!lib) return e->code;
    struct hdf5 found;
    memcpy(&found, address, sizeof found);
    found.H5dont_atexit(); /* its handler crashes after a file that a full disk kept from being closed */
    unsigned major, minor, release;
    if (found.H5get_libversion(&major, &minor, &release) < 0 || major != H5_VERS_MAJOR || minor != H5_VERS_MINOR) {
        dlclose(lib);
        return err_set(e, ERR_IO, "%s is HDF5 %u.%u.%u; triad was built for %d.%d", path, major, minor, release,
                       H5_VERS_MAJOR, H5_VERS_MINOR);
    }
    if (found.H5open() < 0) return err_set(e, ERR_IO, "%s: HDF5 cannot start", path);
    hdf5 = found;
    return 0;
}
