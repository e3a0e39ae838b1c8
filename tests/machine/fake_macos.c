/* What lab/machine/macos.py calls of libproc and libSystem, with recorded answers.
 * The structures are those of <sys/resource.h>, <sys/sysctl.h> and <malloc/malloc.h> of macOS 14. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct rusage_info_v2 {
    uint8_t ri_uuid[16];
    uint64_t ri_user_time, ri_system_time, ri_pkg_idle_wkups, ri_interrupt_wkups, ri_pageins;
    uint64_t ri_wired_size, ri_resident_size, ri_phys_footprint;
    uint64_t ri_proc_start_abstime, ri_proc_exit_abstime;
    uint64_t ri_child_user_time, ri_child_system_time, ri_child_pkg_idle_wkups;
    uint64_t ri_child_interrupt_wkups, ri_child_pageins, ri_child_elapsed_abstime;
    uint64_t ri_diskio_bytesread, ri_diskio_byteswritten;
};

struct xsw_usage {
    uint64_t xsu_total, xsu_avail, xsu_used;
    uint32_t xsu_pagesize;
    int32_t xsu_encrypted;
};

#define GONE 77777

int proc_pid_rusage(int pid, int flavor, void *buffer)
{
    struct rusage_info_v2 usage;
    if (pid == GONE || flavor != 2) {
        errno = pid == GONE ? ESRCH : EINVAL;
        return -1;
    }
    memset(&usage, 0x5a, sizeof usage);
    usage.ri_resident_size = 1ULL << 30;
    usage.ri_phys_footprint = 3ULL << 30;
    memcpy(buffer, &usage, sizeof usage);
    return 0;
}

static int answer(const void *value, size_t size, void *old, size_t *length)
{
    if (*length < size) {
        errno = ENOMEM;
        return -1;
    }
    memcpy(old, value, size);
    *length = size;
    return 0;
}

int fake_fails; /* a system that answers nothing */

int sysctlbyname(const char *name, void *old, size_t *length, void *new_value, size_t new_length)
{
    struct xsw_usage swap = {2ULL << 30, 1536ULL << 20, 512ULL << 20, 16384, 1};
    int level = 42; /* percent */
    if (new_value || new_length) {
        errno = EPERM;
        return -1;
    }
    if (!fake_fails && !strcmp(name, "vm.swapusage"))
        return answer(&swap, sizeof swap, old, length);
    if (!fake_fails && !strcmp(name, "kern.memorystatus_level"))
        return answer(&level, sizeof level, old, length);
    errno = ENOENT;
    return -1;
}

typedef struct {
    unsigned blocks_in_use;
    size_t size_in_use, max_size_in_use, size_allocated;
} malloc_statistics_t;

void malloc_zone_statistics(void *zone, malloc_statistics_t *stats)
{
    malloc_statistics_t all = {51234, 40ULL << 20, 61ULL << 20, 96ULL << 20};
    malloc_statistics_t none = {0};
    *stats = zone ? none : all; /* NULL is all zones together */
}
