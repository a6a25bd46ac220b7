/* What the drivers that damage things share: chance that is the same in every run, and the contents of a file. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t seed = 88172645463325252u;

static uint64_t chance(uint64_t below) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (seed >> 16) % below;
}

static uint8_t *contents(const char *name, size_t *size) {
    FILE *file = fopen(name, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        exit(2);
    *size = (size_t)ftell(file);
    uint8_t *bytes = malloc(*size);
    rewind(file);
    if (fread(bytes, 1, *size, file) != *size)
        exit(2);
    fclose(file);
    return bytes;
}
