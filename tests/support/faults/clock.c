/* Moves the wall clock of the program that preloads it: by the nanoseconds in the file that TEST_CLOCK names, which may change while
 * it runs. Monotonic clocks and the clock of the machine stay. A program that does not ask the C library, such as one in Go, sees nothing of it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *moved;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TEST_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *found = mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
    if (found != MAP_FAILED)
        moved = found;
    close(fd);
}

int clock_gettime(clockid_t id, struct timespec *at) {
    int status = syscall(SYS_clock_gettime, id, at);
    if (status == 0 && moved && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t all = at->tv_sec * 1000000000LL + at->tv_nsec + *moved;
        at->tv_sec = all / 1000000000LL;
        at->tv_nsec = all % 1000000000LL;
    }
    return status;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
