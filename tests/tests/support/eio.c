/* A disk that refuses to keep what was written: fsync and fdatasync fail with EIO for every file below a folder
   `database` that holds a file `eio`. Preloaded into all processes of a test's cluster. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int refuses(int fd)
{
    static const char folder[] = "/database/", trigger[] = "eio";
    char link[64], path[PATH_MAX + sizeof trigger];
    int before = errno, found = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX);
    if (length > 0) {
        path[length] = 0;
        char *at = strstr(path, folder);
        if (at) {
            memcpy(at + sizeof folder - 1, trigger, sizeof trigger);
            found = access(path, F_OK) == 0;
        }
    }
    errno = found ? EIO : before;
    return found;
}

int fsync(int fd)
{
    return refuses(fd) ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return refuses(fd) ? -1 : (int)syscall(SYS_fdatasync, fd);
}
