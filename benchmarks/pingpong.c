/* The least that a call over two pipes costs: a child that sends each line back, and who waits for it.
 *
 * usage: pingpong BYTES ONE MANY DEPTH: the ns of each of ONE calls, one a line, and then how long MANY took with DEPTH
 * of them under way. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 16)

static char buffer[BUFFER];

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void put(int fd, const char *from, long size)
{
    while (size > 0) {
        long done = write(fd, from, size);
        if (done <= 0)
            exit(1);
        from += done;
        size -= done;
    }
}

static long take(int fd)
{
    long size = read(fd, buffer, BUFFER);
    if (size <= 0)
        exit(1);
    return size;
}

int main(int count, char **given)
{
    if (count != 5)
        return 2;
    long size = atol(given[1]), one = atol(given[2]), many = atol(given[3]), depth = atol(given[4]);
    int there[2], back[2];
    if (pipe(there) || pipe(back) || size * depth > BUFFER)
        return 1;
    if (fork() == 0) {
        close(there[1]);
        close(back[0]);
        for (;;)
            put(back[1], buffer, take(there[0]));
    }
    close(there[0]);
    close(back[1]);
    char *lines = malloc(size * depth);
    memset(lines, 'x', size * depth);
    for (long each = 1; each <= depth; each++)
        lines[each * size - 1] = '\n';
    for (long each = 0; each < one; each++) {
        long long began = now_ns();
        put(there[1], lines, size);
        for (long left = size; left > 0;)
            left -= take(back[0]);
        printf("%lld\n", now_ns() - began);
    }
    long long began = now_ns();
    put(there[1], lines, size * depth);
    long under_way = depth, rest = 0;
    for (long ended = 0; ended < many;) {
        rest += take(back[0]);
        long came = rest / size, more = many - ended - under_way;
        rest %= size;
        ended += came;
        under_way -= came;
        more = more < came ? more : came;
        if (more > 0) {
            put(there[1], lines, size * more);
            under_way += more;
        }
    }
    printf("%lld\n", now_ns() - began);
    return 0;
}
