// Shared by the two programs: addresses, exact reads and writes.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
	perror(what);
	exit(1);
}

static int is(const char *network, const char *name) { return strcmp(network, name) == 0; }

// open_socket returns a socket for a network, and the address to bind or connect.
static int open_socket(const char *network, const char *address, struct sockaddr_storage *a, socklen_t *len) {
	memset(a, 0, sizeof *a);
	if (is(network, "unix")) {
		struct sockaddr_un *u = (struct sockaddr_un *)a;
		u->sun_family = AF_UNIX;
		snprintf(u->sun_path, sizeof u->sun_path, "%s", address);
		*len = sizeof *u;
	} else {
		struct sockaddr_in *in = (struct sockaddr_in *)a;
		char host[64];
		snprintf(host, sizeof host, "%s", address);
		char *colon = strchr(host, ':');
		if (!colon) {
			fprintf(stderr, "no port in %s\n", address);
			exit(1);
		}
		*colon = 0;
		in->sin_family = AF_INET;
		in->sin_port = htons((uint16_t)atoi(colon + 1));
		in->sin_addr.s_addr = inet_addr(host);
		*len = sizeof *in;
	}
	int fd = socket(a->ss_family, is(network, "udp") ? SOCK_DGRAM : SOCK_STREAM, 0);
	if (fd < 0)
		die("socket");
	int on = 1;
	if (is(network, "tcp"))
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return fd;
}

// write_all sends the whole buffer; -1 on error.
static int write_all(int fd, const char *p, size_t n) {
	while (n > 0) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return -1;
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

// read_all receives exactly n bytes; -1 on error or at the end.
static int read_all(int fd, char *p, size_t n) {
	while (n > 0) {
		ssize_t k = recv(fd, p, n, MSG_WAITALL);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return -1;
		p += k;
		n -= (size_t)k;
	}
	return 0;
}
