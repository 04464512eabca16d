// The server of the comparisons: blocking calls and one thread per connection, so that its cost is
// the same for every peer.
//
//   server echo NETWORK ADDRESS REQUEST REPLY DELAY   replies to REQUEST bytes with REPLY bytes, DELAY ns later
//   server stream NETWORK ADDRESS FILE                sends a file repeatedly
//   server hold NETWORK ADDRESS                       accepts and sends nothing
//   server delay NETWORK ADDRESS UPSTREAM DELAY       forwards to UPSTREAM (tcp), DELAY ns later
//
// It prints its address when it listens and exits at the end of standard input.
#include "net.h"
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static const char *network;
static size_t request, reply;
static long delay;
static char *file, *upstream;
static size_t file_len;

static void wait_delay(void) {
	if (delay <= 0)
		return;
	struct timespec t = {delay / 1000000000L, delay % 1000000000L};
	nanosleep(&t, NULL);
}

static void be_punctual(void) { prctl(PR_SET_TIMERSLACK, 1UL); }

static void *echo(void *arg) {
	int fd = (int)(intptr_t)arg;
	char *in = calloc(1, request), *out = calloc(1, reply);
	be_punctual();
	while (read_all(fd, in, request) == 0) {
		wait_delay();
		if (request == reply)
			memcpy(out, in, reply);
		if (write_all(fd, out, reply))
			break;
	}
	free(in);
	free(out);
	close(fd);
	return NULL;
}

static void *echo_datagrams(void *arg) {
	int fd = (int)(intptr_t)arg;
	char *p = calloc(1, 65536);
	be_punctual();
	for (;;) {
		struct sockaddr_storage from;
		socklen_t len = sizeof from;
		ssize_t n = recvfrom(fd, p, 65536, 0, (struct sockaddr *)&from, &len);
		if (n < 0)
			continue;
		wait_delay();
		sendto(fd, p, (size_t)n, 0, (struct sockaddr *)&from, len);
	}
	return NULL;
}

static void *stream(void *arg) {
	int fd = (int)(intptr_t)arg;
	while (write_all(fd, file, file_len) == 0)
		;
	close(fd);
	return NULL;
}

static void *hold(void *arg) {
	int fd = (int)(intptr_t)arg;
	char c;
	while (recv(fd, &c, 1, 0) > 0)
		;
	close(fd);
	return NULL;
}

// pass_on forwards each receive as one piece: small requests and replies arrive whole.
static void *pass_on(void *arg) {
	int fd = (int)(intptr_t)arg;
	struct sockaddr_storage a;
	socklen_t len;
	char p[65536];
	int up = open_socket("tcp", upstream, &a, &len);
	if (connect(up, (struct sockaddr *)&a, len))
		die("connect");
	be_punctual();
	for (;;) {
		ssize_t n = recv(fd, p, sizeof p, 0);
		if (n <= 0)
			break;
		wait_delay();
		if (write_all(up, p, (size_t)n) || (n = recv(up, p, sizeof p, 0)) <= 0 || write_all(fd, p, (size_t)n))
			break;
	}
	close(up);
	close(fd);
	return NULL;
}

static void *end_with_input(void *arg) {
	char c;
	(void)arg;
	while (read(0, &c, 1) > 0)
		;
	exit(0);
}

static void load(const char *name) {
	FILE *f = fopen(name, "r");
	if (!f || fseek(f, 0, SEEK_END))
		die(name);
	file_len = (size_t)ftell(f);
	rewind(f);
	file = malloc(file_len);
	if (fread(file, 1, file_len, f) != file_len)
		die(name);
	fclose(f);
}

static void run(void *(*what)(void *), int fd) {
	pthread_t thread;
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 << 10);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int err;
	// The threads of the previous round's connections may not have ended yet.
	while ((err = pthread_create(&thread, &attr, what, (void *)(intptr_t)fd)) == EAGAIN)
		usleep(1000);
	if (err)
		die("pthread_create");
	pthread_attr_destroy(&attr);
}

int main(int argc, char **argv) {
	if (argc < 4) {
		fprintf(stderr, "usage: server MODE NETWORK ADDRESS ...\n");
		return 2;
	}
	void *(*serve)(void *) = hold;
	network = argv[2];
	if (is(argv[1], "echo") && argc == 7) {
		request = (size_t)atol(argv[4]);
		reply = (size_t)atol(argv[5]);
		delay = atol(argv[6]);
		serve = echo;
	} else if (is(argv[1], "stream") && argc == 5) {
		load(argv[4]);
		serve = stream;
	} else if (is(argv[1], "delay") && argc == 6) {
		upstream = argv[4];
		delay = atol(argv[5]);
		serve = pass_on;
	} else if (!is(argv[1], "hold")) {
		fprintf(stderr, "server: no such mode, or not its arguments: %s\n", argv[1]);
		return 2;
	}
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max; // one descriptor per client
		setrlimit(RLIMIT_NOFILE, &files);
	}
	struct sockaddr_storage a;
	socklen_t len;
	int fd = open_socket(network, argv[3], &a, &len);
	if (bind(fd, (struct sockaddr *)&a, len))
		die("bind");
	if (is(network, "udp")) {
		int size = 8 << 20;
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
		// One thread per client, so that the delay of one does not delay another.
		for (int i = 0; i < 256; i++)
			run(echo_datagrams, fd);
	} else if (listen(fd, 4096))
		die("listen");
	if (is(network, "unix")) {
		printf("%s\n", argv[3]);
	} else {
		len = sizeof a;
		if (getsockname(fd, (struct sockaddr *)&a, &len))
			die("getsockname");
		printf("127.0.0.1:%d\n", ntohs(((struct sockaddr_in *)&a)->sin_port));
	}
	fflush(stdout);
	run(end_with_input, 0);
	for (;;) {
		if (is(network, "udp")) {
			pause();
			continue;
		}
		int conn = accept(fd, NULL, NULL);
		if (conn < 0) {
			if (errno == EINTR)
				continue;
			die("accept");
		}
		int on = 1;
		if (is(network, "tcp"))
			setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		run(serve, conn);
	}
}
