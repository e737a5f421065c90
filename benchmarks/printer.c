/* printer COUNT WIDTH: prints COUNT numbered lines of WIDTH bytes in blocks of 64 KiB that end anywhere in a line, as
 * those of stdio do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char block[65536];
static size_t used;

static void flush(void)
{
    for (size_t done = 0; done < used;) {
        ssize_t written = write(1, block + done, used - done);
        if (written < 0)
            exit(1);
        done += written;
    }
    used = 0;
}

int main(int number, char **arguments)
{
    char line[4096];
    if (number < 3)
        return 2;
    long count = atol(arguments[1]);
    size_t width = atoi(arguments[2]);
    if (width < 2 || width > sizeof line)
        return 2;
    for (long i = 0; i < count; i++) {
        snprintf(line, width, "%0*ld", (int)width - 1, i);
        line[width - 1] = '\n';
        for (size_t done = 0; done < width;) {
            size_t some = width - done < sizeof block - used ? width - done : sizeof block - used;
            memcpy(block + used, line + done, some);
            used += some;
            done += some;
            if (used == sizeof block)
                flush();
        }
    }
    flush();
    return 0;
}
