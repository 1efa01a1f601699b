/* Two GPUs as libnvidia-ml.so.1 tells of them; the second one keeps its load, its heat and its power to itself. */
#include <string.h>
typedef struct { unsigned gpu, memory; } rates;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned version, sensor; int temperature; } heat;
enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
static char names[2] = {0, 1};
static const char *uuids[2] = {"GPU-aaaa1111-22", "GPU-bbbb3333-44"};
static int index_of(const void *device) { return *(const char *)device; }
int nvmlInitWithFlags(unsigned flags) { return OK; }
int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "Not Supported"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device) { if (i > 1) return NOT_FOUND; *device = &names[i]; return OK; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) { *device = &names[1]; return strncmp(uuid, "MIG-", 4) ? NOT_FOUND : OK; }
int nvmlDeviceGetUUID(void *device, char *text, unsigned length) { strncpy(text, uuids[index_of(device)], length); return OK; }
int nvmlDeviceGetName(void *device, char *text, unsigned length) { strncpy(text, index_of(device) ? "NVIDIA A100" : "NVIDIA H100", length); return OK; }
int nvmlDeviceGetUtilizationRates(void *device, rates *out) { if (index_of(device)) return NOT_SUPPORTED; out->gpu = 37; out->memory = 5; return OK; }
int nvmlDeviceGetMemoryInfo(void *device, memory *out) { out->total = 80ULL << 30; out->used = (1ULL + index_of(device)) << 30; out->free = out->total - out->used; return OK; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out) { if (index_of(device)) return NOT_SUPPORTED; *out = 61; return OK; }
int nvmlDeviceGetTemperatureV(void *device, heat *out) { if (index_of(device)) return NOT_SUPPORTED; out->temperature = 61; return OK; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *out) { if (index_of(device)) return NOT_SUPPORTED; *out = 312500; return OK; }
