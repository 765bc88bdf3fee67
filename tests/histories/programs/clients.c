/* Clients that are recorded for an hour: they sleep nearly all the time.
 *
 * usage: clients WHAT HTTP_PORT LINES_PORT
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int port;

static void talk(int fd)
{
    char answer[100];
    if (write(fd, "hello\n", 6) < 0 || read(fd, answer, sizeof answer) < 0)
        exit(1);
}

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        exit(1);
    talk(fd);
    return fd;
}

/* One every seven minutes that nothing closes. */
static void forget(void)
{
    for (;;) {
        dial();
        sleep(7 * 60);
    }
}

/* Twelve, used every five minutes. */
static void keep(void)
{
    int pool[12];
    for (int i = 0; i < 12; i++)
        pool[i] = dial();
    for (;;) {
        sleep(5 * 60);
        for (int i = 0; i < 12; i++)
            talk(pool[i]);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    port = atoi(argv[3]);
    strcmp(argv[1], "forget") ? keep() : forget();
}
