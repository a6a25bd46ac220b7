/* The clock of protocol.alarm: a thread that needs no interpreter counts ticks, each of which it slept itself. Time in
 * which the process did not run (SIGSTOP, a frozen container) is one tick, however long it was; any timer of the system
 * would be over the moment the process goes on, and the stacks of threads that run again would be walked. */
#define _POSIX_C_SOURCE 200809L
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "msgpack.h"

enum { TICKS = 4 /* a second */, EX_SOFTWARE = 70 };

static _Atomic int64_t ticks, stacks_at, end_at;
static _Atomic pid_t counted; /* the process whose thread counts: a child by fork(2) has none */

static int has_room(int fd) {
    struct pollfd one = {.fd = fd, .events = POLLOUT};
    return poll(&one, 1, 0) > 0;
}

/* SIGALRM writes the stacks. Raised in this thread it cannot hold up another where the log is a pipe that nobody reads;
 * before the end it goes to another, so that this one gets to the end. */
static void *count(void *unused) {
    const struct timespec tick = {.tv_nsec = 1000000000 / TICKS}, writing = {.tv_sec = 1};
    for (;;) {
        nanosleep(&tick, NULL);
        const int64_t now = ++ticks;
        if (now == end_at) {
            kill(getpid(), SIGALRM);
            nanosleep(&writing, NULL);
            _exit(EX_SOFTWARE);
        }
        if (now == stacks_at && has_room(STDERR_FILENO)) raise(SIGALRM);
    }
    return unused;
}

EXPORT void nodetap_beat(void) { ticks = 0; }

/* Seconds without a beat after which the stacks are written, and after which the process ends; 0 is never. */
EXPORT int64_t nodetap_alarm(double stacks, double end) {
    stacks_at = (int64_t)(stacks * TICKS);
    end_at = (int64_t)(end * TICKS);
    nodetap_beat();
    if (counted == getpid()) return 0;
    counted = getpid();
    sigset_t others, before;
    sigfillset(&others);
    sigdelset(&others, SIGALRM);
    pthread_t thread;
    pthread_sigmask(SIG_BLOCK, &others, &before); /* signals are for the threads of the interpreter */
    const int error = pthread_create(&thread, NULL, count, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}
