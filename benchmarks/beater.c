/* The worker of a benchmark that says no more than that it lives: so many heartbeats a second, and nothing else.
 *
 * beater PER_SECOND: it answers `initialize`, and ends with its stdin, with `shutdown`, or with its parent.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static const char BEAT[] = "{\"jsonrpc\":\"2.0\",\"method\":\"heartbeat\",\"params\":{\"busy\":false}}\n";

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* The answer to the request that is in the text, if it is a whole line. */
static int answer(char *text)
{
    char line[512], *id = strstr(text, "\"id\":"), *end;
    if (id == NULL || strchr(text, '\n') == NULL)
        return 0;
    id += strlen("\"id\":");
    end = id + 1 + strcspn(id + 1, "\",}");
    if (*id == '"')
        end++;
    int length = snprintf(line, sizeof line,
                          "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{\"protocolVersion\":\"1\","
                          "\"name\":\"beater\",\"version\":\"1\",\"capabilities\":[]}}\n",
                          (int)(end - id), id);
    return write(1, line, length) == length;
}

int main(int count, char **arguments)
{
    static char text[65536];
    size_t used = 0;
    int is_ready = 0;
    double pause = 1 / (count == 2 ? atof(arguments[1]) : 1), due = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        struct pollfd input = {0, POLLIN, 0};
        double left = is_ready ? due - now() : 3600;
        poll(&input, 1, left > 0 ? (int)(left * 1000) + 1 : 0);
        if (input.revents) {
            ssize_t got = read(0, text + used, sizeof text - 1 - used);
            if (got <= 0)
                return 0;
            text[used += got] = 0;
            if (strstr(text, "\"shutdown\""))
                return 0;
            if (!is_ready && (is_ready = answer(text)))
                due = now() + pause * (getpid() % 64) / 64;
            if (is_ready || used > sizeof text / 2)
                used = 0;
        }
        if (is_ready && now() >= due) {
            if (write(1, BEAT, sizeof BEAT - 1) != sizeof BEAT - 1)
                return 1;
            due += pause;
        }
    }
}
