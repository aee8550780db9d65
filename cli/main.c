#include <stdio.h>

int main(void)
{
    puts("triad " TRIAD_VERSION);
    return 0;
}
