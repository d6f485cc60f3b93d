/* System calls that fail when a test says so, for LD_PRELOAD. The file that $FAULTS names has two numbers for each
 * call: the error, and how many times it still fails. The file is mapped before the daemon confines itself. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct fault {
	int error;
	int times;
};

static volatile struct fault *faults;

__attribute__((constructor)) static void open_faults(void)
{
	const char *path = getenv("FAULTS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *map = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map != MAP_FAILED)
		faults = map;
	if (fd >= 0)
		close(fd);
}

static int fails(int call)
{
	if (!faults || faults[call].times <= 0)
		return 0;
	__sync_fetch_and_sub(&faults[call].times, 1);
	errno = faults[call].error;
	return 1;
}

#define CALL(number, name, parameters, arguments)                       \
	int name parameters                                             \
	{                                                               \
		static int (*next) parameters;                          \
		if (fails(number))                                      \
			return -1;                                      \
		if (!next)                                              \
			next = dlsym(RTLD_NEXT, #name);                 \
		return next arguments;                                  \
	}

CALL(0, accept4, (int fd, struct sockaddr *address, socklen_t *size, int flags), (fd, address, size, flags))
CALL(1, recvmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout),
	(fd, messages, count, flags, timeout))
CALL(2, sendmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags), (fd, messages, count, flags))
CALL(3, epoll_wait, (int fd, struct epoll_event *events, int count, int timeout), (fd, events, count, timeout))
