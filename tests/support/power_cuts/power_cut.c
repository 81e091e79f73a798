/* Ends a process, and those it started, before its Nth change of a file below a directory.

   Loaded with LD_PRELOAD. POWER_CUT names a file of `struct control` that driver.py maps as well;
   nothing happens before `armed` is set in it. Every change is counted over all processes: opening
   a file for writing, write, fsync, rename, link, unlink, mkdir, rmdir, truncate, copies inside the
   kernel. With `torn`, a write that is cut has written its first half. Each change is appended to
   the file `trace` where one is named. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    int64_t armed, at, count, torn;
    char under[512], trace[512];
};

static struct control *control;

__attribute__((constructor)) static void map_control(void) {
    const char *name = getenv("POWER_CUT");
    int file = name ? (int)syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) control = found;
    close(file);
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static void path_of(int directory, const char *name, char *path) {
    char link[64];
    if (name && name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    snprintf(link, sizeof link, "/proc/self/%s", "cwd");
    if (directory != AT_FDCWD) snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    if (name && length > 0) snprintf(path + length, PATH_MAX - length, "/%s", name);
}

static int is_under(const char *path) {
    size_t length = strlen(control->under);
    return strncmp(path, control->under, length) == 0 && (path[length] == '/' || !path[length]);
}

static void note(const char *what, const char *path, const char *other) {
    char line[2 * PATH_MAX + 64];
    if (!control->trace[0]) return;
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", what, path, other ? other : "");
    int file = (int)syscall(SYS_openat, AT_FDCWD, control->trace, O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (file < 0) return;
    syscall(SYS_write, file, line, (size_t)length);
    syscall(SYS_close, file);
}

/* Returns 1 when this change is the one to be cut in its middle. */
static int step(const char *what, const char *path, const char *other, int can_tear) {
    if (!is_under(path) && !(other && is_under(other))) return 0;
    int64_t number = __atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST);
    if (control->at == 0 || number < control->at) {
        note(what, path, other);
        return 0;
    }
    if (number == control->at && control->torn && can_tear) return 1;
    kill(0, SIGKILL);
    _exit(137);
}

static int change(const char *what, int directory, const char *name, int tear) {
    char path[PATH_MAX];
    int kept = errno;
    if (!control || !control->armed) return 0;
    path_of(directory, name, path);
    int torn = step(what, path, NULL, tear);
    errno = kept;
    return torn;
}

static void change_two(const char *what, int d1, const char *n1, int d2, const char *n2) {
    char path[PATH_MAX], other[PATH_MAX];
    if (!control || !control->armed) return;
    path_of(d1, n1, path);
    path_of(d2, n2, other);
    step(what, path, other, 0);
}

#define WRITES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)
#define OPEN(name)                                                          \
    int name(const char *path, int flags, ...) {                            \
        va_list rest;                                                       \
        va_start(rest, flags);                                              \
        mode_t mode = va_arg(rest, mode_t);                                 \
        va_end(rest);                                                       \
        if (flags & WRITES) change("open", AT_FDCWD, path, 0);              \
        return REAL(name)(path, flags, mode);                               \
    }
#define OPENAT(name)                                                        \
    int name(int directory, const char *path, int flags, ...) {             \
        va_list rest;                                                       \
        va_start(rest, flags);                                              \
        mode_t mode = va_arg(rest, mode_t);                                 \
        va_end(rest);                                                       \
        if (flags & WRITES) change("open", directory, path, 0);             \
        return REAL(name)(directory, path, flags, mode);                    \
    }
#define FOPEN(name)                                                         \
    FILE *name(const char *path, const char *mode) {                        \
        if (strpbrk(mode, "wa+")) change("open", AT_FDCWD, path, 0);        \
        return REAL(name)(path, mode);                                      \
    }
#define TEAR(call)            \
    {                         \
        (void)!(call);        \
        kill(0, SIGKILL);     \
        _exit(137);           \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int file, const void *data, size_t size) {
    if (change("write", file, NULL, 1)) TEAR(REAL(write)(file, data, size / 2));
    return REAL(write)(file, data, size);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (change("write", file, NULL, 1)) TEAR(REAL(writev)(file, parts, count / 2));
    return REAL(writev)(file, parts, count);
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    if (change("write", fileno(stream), NULL, 0)) return 0;
    return REAL(fwrite)(data, size, count, stream);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    change("write", out, NULL, 0);
    return REAL(sendfile)(out, in, offset, size);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
    change("write", out, NULL, 0);
    return REAL(sendfile64)(out, in, offset, size);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    change("write", out, NULL, 0);
    return REAL(copy_file_range)(in, from, out, to, size, flags);
}

int fsync(int file) {
    change("fsync", file, NULL, 0);
    return REAL(fsync)(file);
}

int ftruncate64(int file, off64_t size) {
    change("write", file, NULL, 0);
    return REAL(ftruncate64)(file, size);
}

int rename(const char *from, const char *to) {
    change_two("rename", AT_FDCWD, from, AT_FDCWD, to);
    return REAL(rename)(from, to);
}

int renameat(int d1, const char *from, int d2, const char *to) {
    change_two("rename", d1, from, d2, to);
    return REAL(renameat)(d1, from, d2, to);
}

int renameat2(int d1, const char *from, int d2, const char *to, unsigned flags) {
    change_two(flags & RENAME_EXCHANGE ? "exchange" : "rename", d1, from, d2, to);
    return REAL(renameat2)(d1, from, d2, to, flags);
}

int link(const char *from, const char *to) {
    change_two("link", AT_FDCWD, from, AT_FDCWD, to);
    return REAL(link)(from, to);
}

int linkat(int d1, const char *from, int d2, const char *to, int flags) {
    change_two("link", d1, from, d2, to);
    return REAL(linkat)(d1, from, d2, to, flags);
}

int unlink(const char *path) {
    change("unlink", AT_FDCWD, path, 0);
    return REAL(unlink)(path);
}

int unlinkat(int directory, const char *path, int flags) {
    change("unlink", directory, path, 0);
    return REAL(unlinkat)(directory, path, flags);
}

int rmdir(const char *path) {
    change("unlink", AT_FDCWD, path, 0);
    return REAL(rmdir)(path);
}

int mkdir(const char *path, mode_t mode) {
    change("mkdir", AT_FDCWD, path, 0);
    return REAL(mkdir)(path, mode);
}
