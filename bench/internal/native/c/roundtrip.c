// The upper bound: round trips in C, with blocking calls and one thread per connection.
//
//   roundtrip NETWORK ADDRESS REQUEST REPLY CONNECTIONS WARMUP_NS DURATION_NS COUNT FILE
//
// It runs for DURATION_NS after WARMUP_NS. If COUNT is not 0, it makes COUNT round trips on each
// connection without a warm-up. It writes the time of each round trip to FILE, as 32 bits of
// nanoseconds, and prints the number of round trips, and the user and system time of the process in
// nanoseconds.
#include "net.h"
#include <pthread.h>
#include <sys/resource.h>

static const char *network, *address;
static size_t request, reply;
static int64_t warmup, duration;
static long count;
static pthread_barrier_t connected;
static int64_t begin;

struct connection {
	pthread_t thread;
	uint32_t *took;
	size_t n, room;
};

static int64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *trips(void *arg) {
	struct connection *c = arg;
	struct sockaddr_storage a;
	socklen_t len;
	int fd = open_socket(network, address, &a, &len);
	char *in = calloc(1, reply), *out = calloc(1, request);
	if (connect(fd, (struct sockaddr *)&a, len))
		die("connect");
	pthread_barrier_wait(&connected);
	int64_t from = begin + warmup, until = from + duration;
	for (long i = 0; count == 0 || i < count; i++) {
		int64_t start = now_ns();
		if (count == 0 && start >= until)
			break;
		if (write_all(fd, out, request))
			die("send");
		if (is(network, "udp")) {
			if (recv(fd, in, reply, 0) < 0)
				die("recv");
		} else if (read_all(fd, in, reply))
			die("recv");
		if (count == 0 && start < from)
			continue;
		if (c->n == c->room) {
			c->room = c->room ? 2 * c->room : 4096;
			c->took = realloc(c->took, c->room * sizeof *c->took);
			if (!c->took)
				die("realloc");
		}
		int64_t took = now_ns() - start;
		c->took[c->n++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
	}
	close(fd);
	free(in);
	free(out);
	return NULL;
}

static int64_t ns(struct timeval t) { return t.tv_sec * 1000000000LL + t.tv_usec * 1000LL; }

int main(int argc, char **argv) {
	if (argc != 10) {
		fprintf(stderr, "usage: roundtrip NETWORK ADDRESS REQUEST REPLY CONNECTIONS WARMUP_NS DURATION_NS COUNT FILE\n");
		return 2;
	}
	network = argv[1];
	address = argv[2];
	request = (size_t)atol(argv[3]);
	reply = (size_t)atol(argv[4]);
	int conns = atoi(argv[5]);
	warmup = atoll(argv[6]);
	duration = atoll(argv[7]);
	count = atol(argv[8]);
	struct connection *c = calloc((size_t)conns, sizeof *c);
	pthread_barrier_init(&connected, NULL, (unsigned)conns + 1);
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 << 10);
	for (int i = 0; i < conns; i++)
		if (pthread_create(&c[i].thread, &attr, trips, &c[i]))
			die("pthread_create");
	begin = now_ns() + 1000000; // in the future, so that every thread sees it in time
	pthread_barrier_wait(&connected);
	struct rusage before, after;
	int64_t rest = begin + warmup - now_ns();
	if (count == 0 && rest > 0) {
		struct timespec t = {rest / 1000000000, rest % 1000000000};
		nanosleep(&t, NULL);
	}
	getrusage(RUSAGE_SELF, &before);
	for (int i = 0; i < conns; i++)
		pthread_join(c[i].thread, NULL);
	getrusage(RUSAGE_SELF, &after);
	FILE *f = fopen(argv[9], "w");
	if (!f)
		die(argv[9]);
	size_t n = 0;
	for (int i = 0; i < conns; i++) {
		fwrite(c[i].took, sizeof *c[i].took, c[i].n, f);
		n += c[i].n;
	}
	if (fclose(f))
		die(argv[9]);
	printf("%zu %lld %lld\n", n, (long long)(ns(after.ru_utime) - ns(before.ru_utime)), (long long)(ns(after.ru_stime) - ns(before.ru_stime)));
	return 0;
}
