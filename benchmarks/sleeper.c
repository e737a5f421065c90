/* The worker of a benchmark: says in a FIFO that its main() has begun, then sleeps.
 *
 * sleeper FIFO [ANYTHING]: one line, "PID NANOSECONDS", the time by CLOCK_MONOTONIC. It ends with its parent, so that a
 * benchmark that is broken off leaves nothing.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    struct timespec now;
    char line[64];
    clock_gettime(CLOCK_MONOTONIC, &now);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fifo = count >= 2 ? open(arguments[1], O_WRONLY) : -1;
    if (fifo < 0)
        return 2;
    int length = snprintf(line, sizeof line, "%d %lld\n", (int)getpid(),
                          (long long)now.tv_sec * 1000000000 + now.tv_nsec);
    if (write(fifo, line, length) != length)
        return 2;
    close(fifo);
    for (;;)
        pause();
}
