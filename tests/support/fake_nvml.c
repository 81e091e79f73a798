/* A stand-in for libnvidia-ml.so.1: the calls that nvidia-ml-py makes for glm-plan, answered from
 * environment variables that are read anew at every call.
 *
 *   FAKE_NVML_GPUS     "model|total MiB|free MiB;..." (one RTX 3090 when unset, "" for no GPU)
 *   FAKE_NVML_FAIL     "function=code,function@gpu=code": these calls return this NVML error
 *   FAKE_NVML_DROP_MIB free memory shrinks by this much at every memory query after the first
 *   FAKE_NVML_MIG      "1": GPUs are split into MIG instances
 *   FAKE_NVML_LOG      a file that gets the name of every function called, one a line
 *
 * Layouts follow NVIDIA's nvml.h as nvidia-ml-py declares them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1024ULL * 1024ULL)
#define MOST_GPUS 16
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    INSUFFICIENT_SIZE = 7,
    ARGUMENT_VERSION_MISMATCH = 25
};

typedef struct { unsigned long long total, free, used; } memory_v1;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
} process_v3;
typedef struct {
    char legacy[16];
    unsigned int domain, bus, device, id, subsystem;
    char bus_id[32];
} pci_v3;
typedef struct { char model[96]; unsigned long long total, free; } gpu_t;

static int running = 0;
static unsigned long long memory_queries = 0;
static int handles[MOST_GPUS];

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static void record(const char *function) {
    const char *path = getenv("FAKE_NVML_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (log) {
        fprintf(log, "%s\n", function);
        fclose(log);
    }
}

/* The error that FAKE_NVML_FAIL asks for, 0 for none; gpu -1 means a call about no single GPU. */
static int wanted_failure(const char *function, int gpu) {
    char copy[1024], qualified[128];
    snprintf(copy, sizeof copy, "%s", setting("FAKE_NVML_FAIL", ""));
    snprintf(qualified, sizeof qualified, "%s@%d", function, gpu);
    for (char *rest = copy, *entry; (entry = strtok_r(rest, ",", &rest));) {
        char *equals = strchr(entry, '=');
        if (!equals) continue;
        *equals = '\0';
        if (!strcmp(entry, function) || !strcmp(entry, qualified)) return atoi(equals + 1);
    }
    return SUCCESS;
}

static int read_gpus(gpu_t *gpus) {
    char copy[1024];
    int count = 0;
    snprintf(copy, sizeof copy, "%s",
             setting("FAKE_NVML_GPUS", "NVIDIA GeForce RTX 3090|24576|20480"));
    for (char *rest = copy, *entry; count < MOST_GPUS && (entry = strtok_r(rest, ";", &rest));) {
        gpu_t *gpu = &gpus[count++];
        if (sscanf(entry, "%95[^|]|%llu|%llu", gpu->model, &gpu->total, &gpu->free) != 3) abort();
        gpu->total *= MIB;
        gpu->free *= MIB;
    }
    return count;
}

#define BEGIN(gpu)                                     \
    record(__func__);                                  \
    {                                                  \
        int failure = wanted_failure(__func__, (gpu)); \
        if (failure) return failure;                   \
        if (!running) return UNINITIALIZED;            \
    }
#define BEGIN_GPU(handle)                     \
    int index = (int)((int *)handle - handles); \
    gpu_t gpus[MOST_GPUS];                    \
    BEGIN(index)                              \
    if (index < 0 || index >= read_gpus(gpus)) return INVALID_ARGUMENT;

static int write_text(char *target, unsigned int room, const char *text) {
    if (strlen(text) + 1 > room) return INSUFFICIENT_SIZE;
    strcpy(target, text);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    record(__func__);
    int failure = wanted_failure(__func__, -1);
    if (!failure) running++;
    return failure;
}

int nvmlShutdown(void) {
    BEGIN(-1)
    running--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "an error of the stand-in";
}

int nvmlSystemGetDriverVersion(char *version, unsigned int room) {
    BEGIN(-1)
    return write_text(version, room, "560.35.03");
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    gpu_t gpus[MOST_GPUS];
    BEGIN(-1)
    *count = (unsigned int)read_gpus(gpus);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    gpu_t gpus[MOST_GPUS];
    BEGIN((int)index)
    if ((int)index >= read_gpus(gpus)) return INVALID_ARGUMENT;
    *handle = &handles[index];
    return SUCCESS;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned int room) {
    BEGIN_GPU(handle)
    return write_text(name, room, gpus[index].model);
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned int room) {
    char text[64];
    BEGIN_GPU(handle)
    snprintf(text, sizeof text, "GPU-%08x-0000-4000-8000-00000000000%x", 0xabc0 + index, index);
    return write_text(uuid, room, text);
}

int nvmlDeviceGetPciInfo_v3(void *handle, pci_v3 *pci) {
    BEGIN_GPU(handle)
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", 10 + index);
    return SUCCESS;
}

static unsigned long long free_now(const gpu_t *gpu) {
    unsigned long long dropped = strtoull(setting("FAKE_NVML_DROP_MIB", "0"), NULL, 10);
    dropped *= memory_queries++ * MIB;
    return dropped < gpu->free ? gpu->free - dropped : 0;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_v1 *memory) {
    BEGIN_GPU(handle)
    memory->total = gpus[index].total;
    memory->free = free_now(&gpus[index]);
    memory->used = memory->total - memory->free;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2 *memory) {
    BEGIN_GPU(handle)
    if (memory->version != (sizeof *memory | 2u << 24)) return ARGUMENT_VERSION_MISMATCH;
    memory->total = gpus[index].total;
    memory->free = free_now(&gpus[index]);
    memory->reserved = 256 * MIB;
    memory->used = memory->total - memory->free - memory->reserved;
    return SUCCESS;
}

int nvmlDeviceGetMemoryBusWidth(void *handle, unsigned int *bits) {
    BEGIN_GPU(handle)
    *bits = 384;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(void *handle, int clock, unsigned int *mhz) {
    BEGIN_GPU(handle)
    if (clock != 2) return INVALID_ARGUMENT; /* NVML_CLOCK_MEM */
    *mhz = 9751;
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    BEGIN_GPU(handle)
    *major = 8;
    *minor = 6;
    return SUCCESS;
}

int nvmlDeviceGetDisplayActive(void *handle, int *active) {
    BEGIN_GPU(handle)
    *active = index == 0;
    return SUCCESS;
}

int nvmlDeviceGetDisplayMode(void *handle, int *mode) {
    BEGIN_GPU(handle)
    *mode = index == 0;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    BEGIN_GPU(handle)
    if (strcmp(setting("FAKE_NVML_MIG", "0"), "1")) return NOT_SUPPORTED;
    *current = *pending = 1;
    return SUCCESS;
}

static int write_processes(unsigned int *count, process_v3 *list, process_v3 process) {
    unsigned int room = *count;
    *count = 1;
    if (!list || room < 1) return INSUFFICIENT_SIZE;
    list[0] = process;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_v3 *list) {
    BEGIN_GPU(handle)
    return write_processes(count, list, (process_v3){4242, 1024 * MIB, ~0u, ~0u});
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned int *count, process_v3 *list) {
    BEGIN_GPU(handle)
    /* The driver hides this one's memory, as it does on Windows. */
    return write_processes(count, list, (process_v3){77, ~0ULL, ~0u, ~0u});
}
