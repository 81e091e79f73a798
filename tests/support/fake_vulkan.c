/* A stand-in for libvulkan.so.1: the calls that glm-plan makes, answered from the environment.
 *
 *   FAKE_VULKAN_GPUS  "name|vendor|device|kind|PCI address or -|size MiB|budget MiB or -|used MiB;..."
 *                     vendor and device hexadecimal; kind 1 integrated, 2 discrete, 4 CPU
 *   FAKE_VULKAN_ILL   "crash", "hang" or "refuse": what vkCreateInstance does
 *
 * Every GPU has a second heap in RAM that is not local to it. Layouts follow Khronos' vulkan_core.h,
 * written here apart from those in scheduler/probe/vulkan_query.py.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (1024ULL * 1024ULL)
#define MOST_GPUS 8

typedef struct { int32_t type; void *next; } chained;
typedef struct {
    uint32_t api, driver, vendor, device;
    int32_t kind;
    char name[256];
    uint8_t cache[16];
    uint64_t limits[63];
    uint32_t sparse[5];
} properties;
typedef struct { int32_t type; void *next; properties core; } properties2;
typedef struct {
    int32_t type;
    void *next;
    uint8_t device[16], driver[16], luid[8];
    uint32_t nodes, luid_valid;
} identity;
typedef struct { int32_t type; void *next; uint32_t domain, bus, device, function; } pci_bus;
typedef struct { uint32_t flags, heap; } memory_type;
typedef struct { uint64_t size; uint32_t flags; } memory_heap;
typedef struct {
    uint32_t types;
    memory_type type[32];
    uint32_t heaps;
    memory_heap heap[16];
} memory;
typedef struct { int32_t type; void *next; memory core; } memory2;
typedef struct { int32_t type; void *next; uint64_t budget[16], usage[16]; } budgets;
typedef struct { char name[256]; uint32_t version; } extension;
typedef struct {
    char name[256], address[32], budget[32];
    unsigned vendor, device, kind;
    unsigned long long size, used;
} gpu;

static gpu gpus[MOST_GPUS];

int vkCreateInstance(const void *info, const void *allocator, void **instance) {
    (void)info, (void)allocator;
    const char *ill = getenv("FAKE_VULKAN_ILL");
    printf("a driver that talks on stdout\n");
    if (ill && !strcmp(ill, "crash")) abort();
    if (ill && !strcmp(ill, "hang")) sleep(600);
    if (ill && !strcmp(ill, "refuse")) return -3;
    *instance = gpus;
    return 0;
}

int vkEnumeratePhysicalDevices(void *instance, uint32_t *count, void **handles) {
    if (instance != gpus) abort();
    char copy[2048];
    snprintf(copy, sizeof copy, "%s", getenv("FAKE_VULKAN_GPUS"));
    uint32_t found = 0;
    for (char *rest = copy, *entry; found < *count && (entry = strtok_r(rest, ";", &rest));) {
        gpu *one = &gpus[found];
        if (sscanf(entry, "%255[^|]|%x|%x|%u|%31[^|]|%llu|%31[^|]|%llu", one->name, &one->vendor,
                   &one->device, &one->kind, one->address, &one->size, one->budget, &one->used) != 8)
            abort();
        handles[found++] = one;
    }
    *count = found;
    return 0;
}

void vkGetPhysicalDeviceProperties(gpu *one, properties *filled) {
    memset(filled, 0, sizeof *filled);
    filled->api = 1u << 22 | 3u << 12;
    filled->vendor = one->vendor;
    filled->device = one->device;
    filled->kind = (int32_t)one->kind;
    strcpy(filled->name, one->name);
}

void vkGetPhysicalDeviceProperties2(gpu *one, properties2 *filled) {
    vkGetPhysicalDeviceProperties(one, &filled->core);
    for (chained *link = filled->next; link; link = link->next) {
        if (link->type == 1000071004) {
            memset(((identity *)link)->device, 0xa0 + (int)(one - gpus), 16);
        } else if (link->type == 1000212000) {
            pci_bus *bus = (pci_bus *)link;
            if (sscanf(one->address, "%x:%x:%x.%x", &bus->domain, &bus->bus, &bus->device,
                       &bus->function) != 4)
                abort();
        } else {
            abort();
        }
    }
}

int vkEnumerateDeviceExtensionProperties(gpu *one, const char *layer, uint32_t *count,
                                         extension *list) {
    const char *names[2];
    uint32_t found = 0;
    (void)layer;
    if (strcmp(one->budget, "-")) names[found++] = "VK_EXT_memory_budget";
    if (strcmp(one->address, "-")) names[found++] = "VK_EXT_pci_bus_info";
    for (uint32_t at = 0; list && at < found; at++) strcpy(list[at].name, names[at]);
    *count = found;
    return 0;
}

void vkGetPhysicalDeviceMemoryProperties2(gpu *one, memory2 *filled) {
    filled->core.heaps = 2;
    filled->core.heap[0] = (memory_heap){64ULL * 1024 * MIB, 0};
    filled->core.heap[1] = (memory_heap){one->size * MIB, 1};
    for (chained *link = filled->next; link; link = link->next) {
        if (link->type != 1000237000 || !strcmp(one->budget, "-")) abort();
        budgets *told = (budgets *)link;
        told->budget[0] = 60ULL * 1024 * MIB;
        told->budget[1] = strtoull(one->budget, NULL, 10) * MIB;
        told->usage[1] = one->used * MIB;
    }
}
