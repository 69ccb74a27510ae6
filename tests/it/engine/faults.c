/* Runs a program whose disk fails on command: faults CONTROL LOG PROGRAM ARGUMENTS…
 *
 * The system calls with which a file becomes durable are handed to a supervisor (seccomp user
 * notification), which looks into the file CONTROL for what to do with each kind: `hang KIND` keeps the
 * call waiting until the file says otherwise, `fail KIND` answers EIO, `full KIND` ENOSPC, and everything else
 * goes on. Kinds are sync (of a file), dirsync, rename and flock. What is done is appended to LOG.
 *
 * Unlike a preloaded library this also sees calls that are made without libc. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define HELD 256

static const char *control, *log_path;
static struct { unsigned long long id; const char *kind; } held[HELD];
static int held_count;
static unsigned renamed_by;

static void die(const char *what) {
    perror(what);
    _exit(70);
}

static void note(const char *kind, const char *action) {
    char line[64];
    int length = snprintf(line, sizeof line, "%s %s\n", action, kind);
    int file = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file >= 0 && write(file, line, length) != length) _exit(71);
    close(file);
}

static int ordered(const char *action, const char *kind) {
    char text[256], wanted[64];
    int file = open(control, O_RDONLY);
    if (file < 0) return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length < 0) return 0;
    text[length] = 0;
    snprintf(wanted, sizeof wanted, "%s %s;", action, kind);
    return strstr(text, wanted) != NULL;
}

/* A process that cannot be looked into is known by the order of its calls: a directory is synced after
 * a rename, a file before it. */
static const char *kind_of(const struct seccomp_notif *call) {
    char path[64];
    struct stat found;
    int after_rename = renamed_by == call->pid;
    renamed_by = 0;
    switch (call->data.nr) {
    case SYS_flock:
        return "flock";
    case SYS_fsync:
    case SYS_fdatasync:
        snprintf(path, sizeof path, "/proc/%u/fd/%d", call->pid, (int)call->data.args[0]);
        if (stat(path, &found) == 0) return S_ISDIR(found.st_mode) ? "dirsync" : "sync";
        return after_rename ? "dirsync" : "sync";
    default:
        renamed_by = call->pid;
        return "rename";
    }
}

/* Whoever waited may be gone: nothing is made of it. */
static void answer(int listener, unsigned long long id, int error) {
    struct seccomp_notif_resp response = {.id = id, .error = -error};
    if (!error) response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

static void decide(int listener, unsigned long long id, const char *kind) {
    int fails = ordered("fail", kind), full = ordered("full", kind);
    note(kind, fails ? "fail" : full ? "full" : "pass");
    answer(listener, id, fails ? EIO : full ? ENOSPC : 0);
}

static void supervise(int listener) {
    for (;;) {
        struct pollfd waiting = {.fd = listener, .events = POLLIN};
        int ready = poll(&waiting, 1, held_count ? 10 : -1);
        if (ready < 0 && errno != EINTR) _exit(72);
        if (ready > 0 && waiting.revents & POLLHUP) _exit(0);
        if (ready > 0 && waiting.revents & POLLIN) {
            struct seccomp_notif call;
            memset(&call, 0, sizeof call);
            if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0) {
                const char *kind = kind_of(&call);
                if (ordered("hang", kind) && held_count < HELD) {
                    note(kind, "hang");
                    held[held_count].id = call.id;
                    held[held_count++].kind = kind;
                } else {
                    decide(listener, call.id, kind);
                }
            }
        }
        for (int at = 0; at < held_count;) {
            if (ordered("hang", held[at].kind)) {
                at++;
            } else {
                decide(listener, held[at].id, held[at].kind);
                held[at] = held[--held_count];
            }
        }
    }
}

static int receive(int channel) {
    char byte, room[CMSG_SPACE(sizeof(int))];
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    if (recvmsg(channel, &message, 0) != 1) _exit(73);
    int received;
    memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof received);
    return received;
}

static void hand_over(int channel, int listener) {
    char byte = 0, room[CMSG_SPACE(sizeof(int))];
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    memset(room, 0, sizeof room);
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &listener, sizeof listener);
    if (sendmsg(channel, &message, 0) != 1) die("sendmsg");
}

#define CALL(number) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), \
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)

int main(int count, char **arguments) {
    if (count < 4) return 64;
    control = arguments[1];
    log_path = arguments[2];
    int channel[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel)) die("socketpair");
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        /* Nobody's child, and nobody's reader waits for its end. */
        if (fork() != 0) _exit(0);
        int nowhere = open("/dev/null", O_RDWR);
        for (int at = 0; at < 3; at++) dup2(nowhere, at);
        close(channel[0]);
        supervise(receive(channel[1]));
    }
    waitpid(child, NULL, 0);
    close(channel[1]);
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        CALL(SYS_fsync),
        CALL(SYS_fdatasync),
        CALL(SYS_flock),
#ifdef SYS_rename
        CALL(SYS_rename),
#endif
#ifdef SYS_renameat
        CALL(SYS_renameat),
#endif
        CALL(SYS_renameat2),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) die("prctl");
    int listener = syscall(
        SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    if (listener < 0) die("seccomp");
    hand_over(channel[0], listener);
    close(channel[0]);
    close(listener);
    execv(arguments[3], arguments + 3);
    die("execv");
}
