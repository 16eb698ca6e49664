/* A write layer with a fault at one operation, for LD_PRELOAD.

   cc -shared -fPIC -O1 -o faulty_io.so faulty_io.c -ldl

   fault_arm(part, at, mode) counts from now on every operation that changes a file whose path contains `part` (open for
   writing, write, sync, rename, mkdir, unlink, truncate). At operation `at` (1 is the first) it does what `mode` says:
   1 = SIGKILL to this process: a write puts half of its bytes down first, anything else does not happen;
   2 = the disk is full: this and every later write fails with ENOSPC, and so does making files and folders.
   fault_count() is how many operations were counted, fault_syncs() how many of them were syncs. Files opened before arming are seen too. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char part[256];
static long at = -1, counted = 0, syncs = 0;
static int mode = 0;

void fault_arm(const char *path_part, long operation, int what) {
    strncpy(part, path_part, sizeof part - 1);
    at = operation, mode = what, counted = syncs = 0;
}

long fault_count(void) { return counted; }

long fault_syncs(void) { return syncs; }

static int ours(const char *path) { return at >= 0 && path && strstr(path, part) != NULL; }

static int ours_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (at < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return path[0] == '/' && ours(path);
}

/* 0: go on; 1: fail with ENOSPC; 2: die here. */
static int due(int grows) {
    counted++;
    if (mode == 1 && counted == at) return 2;
    if (mode == 2 && counted >= at && grows) return 1;
    return 0;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    pause();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CHECK(is_ours, grows)                          \
    if (is_ours) {                                     \
        int what = due(grows);                         \
        if (what == 2) die();                          \
        if (what == 1) return errno = ENOSPC, -1;      \
    }
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define OPEN(name, parameters, path, arguments)                                         \
    int name parameters {                                                               \
        int m = 0;                                                                      \
        if (flags & (O_CREAT | O_TMPFILE)) {                                            \
            va_list list;                                                               \
            va_start(list, flags);                                                      \
            m = va_arg(list, int);                                                      \
            va_end(list);                                                               \
        }                                                                               \
        CHECK(WRITES(flags) && ours(path), 1)                                           \
        return REAL(name) arguments;                                                    \
    }
OPEN(open, (const char *p, int flags, ...), p, (p, flags, m))
OPEN(open64, (const char *p, int flags, ...), p, (p, flags, m))
OPEN(openat, (int d, const char *p, int flags, ...), p, (d, p, flags, m))
OPEN(openat64, (int d, const char *p, int flags, ...), p, (d, p, flags, m))

#define FOPEN(name)                                                       \
    FILE *name(const char *p, const char *how) {                          \
        if (strpbrk(how, "wa+") && ours(p)) {                             \
            int what = due(1);                                            \
            if (what == 2) die();                                         \
            if (what == 1) return errno = ENOSPC, NULL;                   \
        }                                                                 \
        return REAL(name)(p, how);                                        \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *data, size_t n) {
    if (ours_fd(fd)) {
        int what = due(1);
        if (what == 2) {
            REAL(write)(fd, data, n / 2);
            die();
        }
        if (what == 1) return errno = ENOSPC, -1;
    }
    return REAL(write)(fd, data, n);
}

#define PWRITE(name, offset_t)                                            \
    ssize_t name(int fd, const void *data, size_t n, offset_t o) {        \
        if (ours_fd(fd)) {                                                \
            int what = due(1);                                            \
            if (what == 2) {                                              \
                REAL(name)(fd, data, n / 2, o);                           \
                die();                                                    \
            }                                                             \
            if (what == 1) return errno = ENOSPC, -1;                     \
        }                                                                 \
        return REAL(name)(fd, data, n, o);                                \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *v, int n) {
    CHECK(ours_fd(fd), 1)
    return REAL(writev)(fd, v, n);
}
int fsync(int fd) {
    syncs += ours_fd(fd);
    CHECK(ours_fd(fd), 0)
    return REAL(fsync)(fd);
}
int fdatasync(int fd) {
    syncs += ours_fd(fd);
    CHECK(ours_fd(fd), 0)
    return REAL(fdatasync)(fd);
}
int ftruncate(int fd, off_t n) {
    CHECK(ours_fd(fd), 1)
    return REAL(ftruncate)(fd, n);
}
int ftruncate64(int fd, off64_t n) {
    CHECK(ours_fd(fd), 1)
    return REAL(ftruncate64)(fd, n);
}
int rename(const char *a, const char *b) {
    CHECK(ours(a) || ours(b), 0)
    return REAL(rename)(a, b);
}
int renameat(int d, const char *a, int e, const char *b) {
    CHECK(ours(a) || ours(b), 0)
    return REAL(renameat)(d, a, e, b);
}
int mkdir(const char *p, mode_t m) {
    CHECK(ours(p), 1)
    return REAL(mkdir)(p, m);
}
int mkdirat(int d, const char *p, mode_t m) {
    CHECK(ours(p), 1)
    return REAL(mkdirat)(d, p, m);
}
int unlink(const char *p) {
    CHECK(ours(p), 0)
    return REAL(unlink)(p);
}
int rmdir(const char *p) {
    CHECK(ours(p), 0)
    return REAL(rmdir)(p);
}
