/* A stand-in for the CUDA driver, under the real cuda.bindings and numba-cuda: memory of a device is memory of the
   host, and a launch is recorded, with its arguments as its machine code describes them, but runs nothing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char name[1024]; unsigned count, place[256], size[256]; } Kernel;
typedef struct { char name[1024]; unsigned grid[4]; void *stream; unsigned size; char arguments[4096]; } Launch;

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_FOUND = 500, NOT_SUPPORTED = 801 };

static const char *calls[1 << 16];
static unsigned num_calls;
static Launch last;
static int failure;
static char context;
static __thread void *stack[64];
static __thread int top;

static int asked(const char *name) { calls[num_calls++ % (1 << 16)] = name; return SUCCESS; }
#define ASKED asked(__func__)
static int setting(const char *name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }

/* --- what the tests ask */

/* The names of the calls since it was asked last, at most 65536. */
unsigned driver_calls(const char **names) {
    unsigned count = num_calls;
    memcpy(names, calls, sizeof calls);
    num_calls = 0;
    return count;
}
void driver_last(Launch *launch) { *launch = last; }
void driver_fail(int code) { failure = code; }

/* --- devices and contexts */

int cuInit(unsigned flags) { return ASKED; }
int cuDriverGetVersion(int *version) { *version = setting("DRIVER_VERSION", 13000); return ASKED; }
int cuDeviceGetCount(int *count) { *count = 1; return ASKED; }
int cuDeviceGet(int *device, int number) { *device = number; return ASKED; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Stand-in"); return ASKED; }
int cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 1, 16); return ASKED; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = setting("DRIVER_CAPABILITY", 90);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 1;
    return ASKED;
}
int cuDevicePrimaryCtxRetain(void **primary, int device) { *primary = &context; return ASKED; }
int cuCtxPushCurrent_v2(void *given) { stack[top++] = given; return ASKED; }
int cuCtxPopCurrent_v2(void **popped) { if (!top) return INVALID_CONTEXT; *popped = stack[--top]; return ASKED; }
int cuCtxGetCurrent(void **current) { *current = top ? stack[top - 1] : NULL; return ASKED; }
int cuCtxSetCurrent(void *given) { top += !top; stack[top - 1] = given; return ASKED; }
int cuCtxGetDevice(int *device) { *device = 0; return ASKED; }
int cuCtxGetDevice_v2(int *device, void *given) { *device = 0; return ASKED; }
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR"; return ASKED; }
int cuGetErrorString(int code, const char **text) { *text = "what the driver says"; return ASKED; }

/* --- memory */

int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = *total = 1ul << 33; return ASKED; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    *address = size < 1ul << 33 ? (uint64_t)calloc(1, size + 8) : 0;
    ASKED;
    return *address ? SUCCESS : OUT_OF_MEMORY;
}

/* Copies from and to page-locked memory are done as late as is allowed: when somebody waits for them. */
typedef struct { void *to; const void *from; size_t size; } Copy;
static struct { const char *begin, *end; } locked[256];
static unsigned num_locked;
static Copy copies[1 << 16];
static int enqueued, done;

static int finish(int until) {
    for (; done < until; done++) {
        Copy *copy = &copies[done % (1 << 16)];
        memcpy(copy->to, copy->from, copy->size);
    }
    return SUCCESS;
}
static int copy(void *to, const void *from, size_t size, const void *host) {
    copies[enqueued++ % (1 << 16)] = (Copy){to, from, size};
    for (unsigned i = 0; i < num_locked; i++)
        if (locked[i].begin <= (const char *)host && (const char *)host < locked[i].end) return SUCCESS;
    return finish(enqueued);
}
int cuMemFree_v2(uint64_t address) { finish(enqueued); free((void *)address); return ASKED; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) { ASKED; copy((void *)to, from, size, from); return finish(enqueued); }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) { ASKED; copy(to, (void *)from, size, to); return finish(enqueued); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) { ASKED; return copy((void *)to, from, size, from); }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) { ASKED; return copy(to, (void *)from, size, to); }
int cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    locked[num_locked].begin = *address = calloc(1, size);
    locked[num_locked++].end = (char *)*address + size;
    return ASKED;
}
int cuEventCreate(int **event, unsigned flags) { *event = calloc(1, sizeof(int)); return ASKED; }
int cuEventRecord(int *event, void *stream) { *event = enqueued; return ASKED; }
int cuEventSynchronize(int *event) { ASKED; return finish(*event); }
int cuStreamSynchronize(void *stream) { ASKED; return finish(enqueued); }

/* --- machine code */

static uint64_t number(const char *at, int size) { uint64_t value = 0; memcpy(&value, at, size); return value; }

/* The name of the kernel of a cubin, and of every argument its place and its size: section .nv.info.NAME, 0x17. */
int cuLibraryLoadData(Kernel **library, const char *cubin, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
    Kernel *kernel = *library = calloc(1, sizeof(Kernel));
    const char *sections = cubin + number(cubin + 40, 8);
    int step = number(cubin + 58, 2);
    const char *names = cubin + number(sections + number(cubin + 62, 2) * step + 24, 8);
    for (const char *at = sections; at < sections + number(cubin + 60, 2) * step; at += step) {
        const char *name = names + number(at, 4), *info = cubin + number(at + 24, 8), *end = info + number(at + 32, 8);
        if (!strncmp(name, ".text.", 6)) strcpy(kernel->name, name + 6);
        if (strncmp(name, ".nv.info.", 9)) continue;
        while (info < end) {
            int has_size = info[0] == 4, size = has_size ? number(info + 2, 2) : 0;
            if (has_size && info[1] == 0x17) {
                unsigned i = number(info + 8, 2);
                kernel->place[i] = number(info + 10, 2), kernel->size[i] = number(info + 12, 4) >> 18;
                if (i >= kernel->count) kernel->count = i + 1;
            }
            info += 4 + size;
        }
    }
    return ASKED;
}
int cuLibraryGetKernel(Kernel **kernel, Kernel *library, const char *name) {
    *kernel = library;
    ASKED;
    return strcmp(name, library->name) ? NOT_FOUND : SUCCESS;
}
int cuKernelGetParamInfo(Kernel *kernel, size_t i, size_t *place, size_t *size) {
    ASKED;
    if (setting("DRIVER_VERSION", 13000) < 12040) return NOT_SUPPORTED;
    if (i >= kernel->count) return INVALID_VALUE;
    *place = kernel->place[i] + setting("DRIVER_SHIFTS", 0), *size = kernel->size[i];
    return SUCCESS;
}
int cuLaunchKernel(Kernel *kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned v, unsigned w,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    ASKED;
    if (failure) return failure;
    last = (Launch){.grid = {x, y * z * v * w, threads, shared}, .stream = stream};
    strcpy(last.name, kernel->name);
    for (unsigned i = 0; i < kernel->count; i++) {
        memcpy(last.arguments + kernel->place[i], arguments[i], kernel->size[i]);
        last.size = kernel->place[i] + kernel->size[i];
    }
    return SUCCESS;
}

/* --- the way to all of them */

static int not_supported(void) { asked("unknown"); return NOT_SUPPORTED; }
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    char second[256];
    snprintf(second, sizeof second, "%s_v2", name);
    Dl_info own;
    dladdr((void *)cuInit, &own);
    void *library = dlopen(own.dli_fname, RTLD_LAZY | RTLD_NOLOAD), *found = dlsym(library, second);
    found = found ? found : dlsym(library, name);
    *function = found ? found : (void *)not_supported;
    if (status) *status = 0;
    return SUCCESS;
}
