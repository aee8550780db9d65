#include "base/library.h"

#include <dlfcn.h>

void *library_load(const struct library *l, void **address, struct err *e)
{
    void *lib = dlopen(l->path, RTLD_LAZY | RTLD_LOCAL);
    if (!lib) {
        err_set(e, ERR_IO, "%s, which cannot be loaded: %s; %s", l->need, dlerror(), l->remedy);
        return NULL;
    }
    for (int i = 0; l->names[i]; i++)
        if (!(address[i] = dlsym(lib, l->names[i]))) {
            err_set(e, ERR_IO, "%s: %s is not the library that triad was built for: it has no %s; %s", l->need, l->path,
                    l->names[i], l->remedy);
            dlclose(lib);
            return NULL;
        }
    return lib;
}
