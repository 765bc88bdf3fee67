/* Programs that leak connections, one for each name; the line at fault carries a comment with the name.
 *
 * usage: leaks NAME HTTP LINES UNIX */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int http_port, lines_port;
static const char *unix_path;
static char heard[8192];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int dial(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect");
    return fd;
}

static void say(int fd, const char *text)
{
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        die("send");
}

static ssize_t hear(int fd)
{
    return recv(fd, heard, sizeof heard, 0);
}

static void measure(int n)
{
    char line[64];
    int fd = dial(lines_port); /* LEAK raw */

    snprintf(line, sizeof line, "measure %d\n", n);
    say(fd, line);
    hear(fd); /* END raw */
}

static void last_words(int n)
{
    int fd = dial(http_port); /* LEAK close-wait */

    (void)n;
    say(fd, "GET /last/words HTTP/1.1\r\nHost: words.test\r\n\r\n");
    while (hear(fd) > 0)
        ; /* END close-wait */
}

static void half_read(int n)
{
    char head[128];
    int fd = dial(http_port); /* LEAK half-read */

    snprintf(head, sizeof head, "GET /big/%d HTTP/1.1\r\nHost: big.test\r\n\r\n", n);
    say(fd, head);
    hear(fd); /* END half-read */
}

static void *drain(void *arg)
{
    while (hear((int)(long)arg) > 0)
        ;
    return NULL;
}

static void follow(int n)
{
    char head[128];
    pthread_t thread;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0); /* LEAK unix-stream */

    strncpy(to.sun_path, unix_path, sizeof to.sun_path - 1);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect");
    snprintf(head, sizeof head, "GET /follow/%d/logs HTTP/1.1\r\nHost: local\r\n\r\n", n);
    say(fd, head); /* END unix-stream */
    pthread_create(&thread, NULL, drain, (void *)(long)fd);
    pthread_detach(thread);
}

static void only_connect(int n)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(lines_port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    (void)n;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) /* LEAK unused */
        die("connect");
}

static void serve(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    struct epoll_event event = {.events = EPOLLIN}, ready[16];
    int shop = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(shop, (struct sockaddr *)&at, sizeof at) < 0 || listen(shop, 64) < 0)
        die("listen");
    getsockname(shop, (struct sockaddr *)&at, &size);
    event.data.fd = shop;
    epoll_ctl(poll, EPOLL_CTL_ADD, shop, &event);
    printf("ready %d\n", ntohs(at.sin_port));
    for (;;) {
        int n = epoll_wait(poll, ready, 16, -1);

        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;

            if (fd == shop) {
                event.data.fd = accept4(shop, NULL, NULL, SOCK_CLOEXEC); /* LEAK server */
                epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
            } else if (hear(fd) <= 0) {
                epoll_ctl(poll, EPOLL_CTL_DEL, fd, NULL); /* and never closed */
            } else {
                say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); /* END server */
            }
        }
    }
}

static void helper(int n)
{
    int fd = dial(lines_port); /* LEAK inherit */

    (void)n;
    say(fd, "start\n");
    hear(fd); /* END inherit */
    if (fork() == 0) {
        sleep(3600);
        _exit(0);
    }
    close(fd);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*step)(int);
    } programs[] = {{"raw", measure}, {"close-wait", last_words}, {"half-read", half_read}, {"unix-stream", follow},
                    {"unused", only_connect}, {"inherit", helper}};

    if (argc < 5)
        return 2;
    http_port = atoi(argv[2]);
    lines_port = atoi(argv[3]);
    unix_path = argv[4];
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(argv[1], "server"))
        serve();
    for (size_t p = 0; p < sizeof programs / sizeof *programs; p++) {
        if (strcmp(argv[1], programs[p].name))
            continue;
        puts("ready");
        for (int n = 0;; n++) {
            programs[p].step(n);
            usleep(700000);
        }
    }
    return 2;
}
