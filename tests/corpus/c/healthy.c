/* Programs that only look as if they leaked, one for each name.
 *
 * usage: healthy NAME HTTP LINES UNIX */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static char heard[8192];

static int dial(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
        perror("connect");
        exit(1);
    }
    return fd;
}

static void exchange(int fd, const char *text)
{
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0 || recv(fd, heard, sizeof heard, 0) <= 0)
        exit(1);
}

static void pool(int port)
{
    int fds[12];

    for (int i = 0; i < 12; i++)
        fds[i] = dial(port);
    for (int n = 0;; n++) {
        exchange(fds[n % 12], "select\n");
        usleep(300000);
    }
}

static void churn(int port)
{
    for (;;) {
        int fd = dial(port);

        exchange(fd, "once\n");
        close(fd);
        usleep(100000);
    }
}

/* Sixteen standing subscriptions; one is replaced now and then. */
static void replaced(int port)
{
    int fds[16];

    for (int i = 0; i < 16; i++) {
        fds[i] = dial(port);
        exchange(fds[i], "subscribe\n");
    }
    for (int n = 0;; n++) {
        usleep(3000000);
        close(fds[n % 16]);
        fds[n % 16] = dial(port);
        exchange(fds[n % 16], "subscribe\n");
    }
}

static void serve(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    struct epoll_event event = {.events = EPOLLIN}, ready[16];
    int shop = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(shop, (struct sockaddr *)&at, sizeof at) < 0 || listen(shop, 64) < 0)
        exit(1);
    getsockname(shop, (struct sockaddr *)&at, &size);
    event.data.fd = shop;
    epoll_ctl(poll, EPOLL_CTL_ADD, shop, &event);
    printf("ready %d\n", ntohs(at.sin_port));
    for (;;) {
        int n = epoll_wait(poll, ready, 16, -1);

        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;

            if (fd == shop) {
                event.data.fd = accept4(shop, NULL, NULL, SOCK_CLOEXEC);
                epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
            } else if (recv(fd, heard, sizeof heard, 0) <= 0) {
                close(fd);
            } else {
                send(fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 40, MSG_NOSIGNAL);
            }
        }
    }
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(argv[1], "server"))
        serve();
    puts("ready");
    if (!strcmp(argv[1], "pool"))
        pool(atoi(argv[3]));
    if (!strcmp(argv[1], "churn"))
        churn(atoi(argv[3]));
    if (!strcmp(argv[1], "replaced"))
        replaced(atoi(argv[3]));
    return 2;
}
