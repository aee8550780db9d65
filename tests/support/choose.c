/* TEST_CASE=pattern (* and ?) leaves a test program's other cases out: on an emulator one alone can take an hour. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

__attribute__((constructor)) static void choose_case(void)
{
    const char *pattern = getenv("TEST_CASE");
    if (pattern && *pattern) cmocka_set_test_filter(pattern);
}
