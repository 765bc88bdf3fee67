/* More programs of both sorts, one for each name; where it leaks, the line carries a comment with the name.
 *
 * usage: more NAME HTTP LINES UNIX */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int lines_port;
static const char *unix_path;
static char heard[8192];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(lines_port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect");
    return fd;
}

static void ask(int fd, const char *text)
{
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0 || recv(fd, heard, sizeof heard, 0) < 0)
        die("ask");
}

/* Three words of a handshake; one in three ends in an error, and its path forgets the connection. */
static void handshake(int n)
{
    int fd = dial(); /* LEAK failed-handshake */

    ask(fd, "hello\n");
    ask(fd, "user\n");
    ask(fd, "password\n"); /* END failed-handshake */
    if (n % 3 == 0)
        return;
    ask(fd, "quit\n");
    close(fd);
}

/* Closes one descriptor of two. */
static void duplicate(int n)
{
    int fd = dial(); /* LEAK duplicate */

    (void)n;
    ask(fd, "once\n"); /* END duplicate */
    dup(fd);
    close(fd);
}

static void duplicate_and_close(int n)
{
    int fd = dial(), other = dup(fd);

    (void)n;
    ask(other, "once\n");
    close(fd);
    close(other);
}

static void inspect(int n)
{
    char head[128];
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0); /* LEAK unix-inspect */

    strncpy(to.sun_path, unix_path, sizeof to.sun_path - 1);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect");
    snprintf(head, sizeof head, "GET /big/containers/%d HTTP/1.1\r\nHost: docker\r\n\r\n", n);
    ask(fd, head); /* END unix-inspect */
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*step)(int);
    } programs[] = {{"failed-handshake", handshake}, {"duplicate", duplicate}, {"duplicate-closed", duplicate_and_close},
                    {"unix-inspect", inspect}};

    if (argc < 5)
        return 2;
    lines_port = atoi(argv[3]);
    unix_path = argv[4];
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t p = 0; p < sizeof programs / sizeof *programs; p++) {
        if (strcmp(argv[1], programs[p].name))
            continue;
        puts("ready");
        for (int n = 0;; n++) {
            programs[p].step(n);
            usleep(500000);
        }
    }
    return 2;
}
