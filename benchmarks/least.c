/* The least that keeps workers: what a supervisor's start, restart and stop are compared with.
 *
 * least COUNT PROGRAM ARGUMENT...: keeps COUNT processes of the program, each with /dev/null as stdin and pipes
 * as stdout and stderr, and starts one again as soon as it has died. SIGTERM ends them all, and then itself.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct worker {
    pid_t pid;
    int out, err;
};

static void pipe_for(posix_spawn_file_actions_t *actions, int target, int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) != 0)
        exit(3);
    posix_spawn_file_actions_adddup2(actions, ends[1], target);
}

static void start(struct worker *worker, char **command, posix_spawnattr_t *attributes)
{
    posix_spawn_file_actions_t actions;
    int out[2], err[2];
    char *environment[] = {NULL};
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    pipe_for(&actions, 1, out);
    pipe_for(&actions, 2, err);
    if (posix_spawn(&worker->pid, command[0], &actions, attributes, command, environment) != 0)
        exit(3);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    close(err[1]);
    worker->out = out[0];
    worker->err = err[0];
}

int main(int number, char **arguments)
{
    if (number < 3)
        return 2;
    int count = atoi(arguments[1]), left = count;
    char **command = arguments + 2;
    struct worker *workers = calloc(count, sizeof *workers);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    sigset_t awaited, none;
    sigemptyset(&none);
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGCHLD);
    sigaddset(&awaited, SIGTERM);
    sigprocmask(SIG_BLOCK, &awaited, NULL);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);

    for (int i = 0; i < count; i++)
        start(&workers[i], command, &attributes);
    for (int stopping = 0; left > 0;) {
        int said;
        sigwait(&awaited, &said);
        if (said == SIGTERM && !stopping) {
            stopping = 1;
            for (int i = 0; i < count; i++)
                kill(workers[i].pid, SIGTERM);
        }
        for (pid_t dead; (dead = waitpid(-1, NULL, WNOHANG)) > 0;)
            for (int i = 0; i < count; i++)
                if (workers[i].pid == dead) {
                    close(workers[i].out);
                    close(workers[i].err);
                    workers[i].pid = 0;
                    if (stopping)
                        left--;
                    else
                        start(&workers[i], command, &attributes);
                    break;
                }
    }
    return 0;
}
