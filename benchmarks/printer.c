/* printer COUNT WIDTH: prints COUNT numbered lines of WIDTH bytes, 64 KiB at a time, then waits for its end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int number, char **arguments)
{
    static char block[65536];
    if (number < 3)
        return 2;
    long count = atol(arguments[1]);
    int width = atoi(arguments[2]);
    size_t used = 0;
    for (long i = 0; i < count; i++) {
        if (used + width + 1 > sizeof block) {
            for (size_t done = 0; done < used;)
                done += write(1, block + done, used - done);
            used = 0;
        }
        snprintf(block + used, width, "%0*ld", width - 1, i);
        block[used + width - 1] = '\n';
        used += width;
    }
    for (size_t done = 0; done < used;)
        done += write(1, block + done, used - done);
    return 0;
}
