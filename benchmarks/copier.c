/* The least that keeps what workers print: copies pipes to files, what a supervisor's logs are compared with.
 *
 * copier FOLDER COUNT PROGRAM ARGUMENT...: runs COUNT processes of the program with pipes as stdout, and appends
 * what each prints to FOLDER/NUMBER, 64 KiB at a time, as it is. Ends when all have ended.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int number, char **arguments)
{
    if (number < 4)
        return 2;
    int count = atoi(arguments[2]), left = count, queue = epoll_create1(EPOLL_CLOEXEC);
    char **command = arguments + 3, *environment[] = {NULL}, path[4096];
    static char block[65536];
    int (*ends)[2] = calloc(count, sizeof *ends);

    for (int i = 0; i < count; i++) {
        int pipes[2];
        pid_t pid;
        posix_spawn_file_actions_t actions;
        if (pipe2(pipes, O_CLOEXEC) != 0)
            return 3;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, pipes[1], 1);
        if (posix_spawn(&pid, command[0], &actions, NULL, command, environment) != 0)
            return 3;
        posix_spawn_file_actions_destroy(&actions);
        close(pipes[1]);
        snprintf(path, sizeof path, "%s/%d", arguments[1], i);
        ends[i][0] = pipes[0];
        ends[i][1] = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(queue, EPOLL_CTL_ADD, pipes[0], &event);
    }
    while (left > 0) {
        struct epoll_event events[64];
        int ready = epoll_wait(queue, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            int *end = ends[events[i].data.u32];
            ssize_t size = read(end[0], block, sizeof block);
            if (size > 0) {
                for (ssize_t done = 0; done < size;) {
                    ssize_t written = write(end[1], block + done, size - done);
                    if (written < 0)
                        return 4;
                    done += written;
                }
            } else {
                close(end[0]);
                close(end[1]);
                left--;
            }
        }
    }
    while (wait(NULL) > 0)
        ;
    return 0;
}
