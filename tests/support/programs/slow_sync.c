/* Makes each fsync(2) and fdatasync(2) of a process take SLOW_SYNC_S seconds longer, as on a failing disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static int slow(const char *name, int fd)
{
	const char *seconds = getenv("SLOW_SYNC_S");
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);

	if (seconds != NULL)
		sleep(atoi(seconds));
	return real(fd);
}

int fsync(int fd)
{
	return slow("fsync", fd);
}

int fdatasync(int fd)
{
	return slow("fdatasync", fd);
}
