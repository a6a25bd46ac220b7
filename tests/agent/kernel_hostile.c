/* Walks damaged frames, each in memory of just its size: to be compiled with sanitizers beside agent/kernel.
 *
 *     kernel_hostile TABLES FRAMES COUNT
 *
 * TABLES are the kernel's six tables one after the other, FRAMES are lengths (4 bytes, this machine's order) each with
 * so many bytes. Each frame is damaged anew COUNT / frames times, and walked from every kind of layer in turn.
 */
#include <string.h>

#include "../../agent/kernel/kernel.h"
#include "../hostile.h"

#define ROOM (MAX_LAYERS + 1)
#define LAST_KIND 44

int64_t nodetap_walk(struct walk *w, int64_t row);

static const uint8_t numbers[] = {0, 1, 4, 6, 17, 41, 43, 44, 47, 51, 58, 60, 97, 132, 136, 137, 0x45, 0x4F, 0x60, 0xFF};

static void damage(uint8_t *frame, uint32_t length) {
    for (uint32_t changes = chance(6); length && changes; changes--)
        frame[chance(length)] = chance(2) ? numbers[chance(sizeof numbers)] : (uint8_t)chance(256);
}

/* One frame, with every column in a block of its own, so that a write beyond the row is seen too. */
static void walk_one(struct walk *w, const uint8_t *frame, uint32_t length, uint8_t kind) {
    int64_t off = 0, cap = length, end = length + (chance(4) ? 0 : chance(2000)), used[2] = {0, 0};
    uint8_t *data = malloc(length ? length : 1);
    memcpy(data, frame, length);
    damage(data, length);
    if (!chance(3) && length) {
        data = realloc(data, length = 1 + (uint32_t)chance(length));
        cap = length;
    }
    w->data = data, w->size = length, w->off = &off, w->cap = &cap, w->end = &end, w->kind = &kind;
    w->vlan_id.used = used, w->mpls_label.used = used + 1;
    *w->layers = 0;
    if (nodetap_walk(w, 0) != 1 || kind != 0 || used[0] > MAX_LAYERS || used[1] > MAX_LAYERS)
        abort();
    if (*w->payload_length && (*w->payload_start < 0 || *w->payload_start + *w->payload_length > (int64_t)length))
        abort();
    *w->payload_start = *w->payload_length = 0;
    free(data);
}

int main(int argc, char **argv) {
    size_t tables_size, size;
    const uint8_t *tables = contents(argv[argc - 3], &tables_size), *frames = contents(argv[argc - 2], &size);
    struct walk w = {.n = 1, .room = ROOM};
    w.payload_start = calloc(1, 8), w.payload_length = calloc(1, 8), w.tunnel_type = calloc(1, 4);
    w.vlan_id = (struct list){malloc(8 * ROOM), malloc(4 * ROOM), 0};
    w.mpls_label = (struct list){malloc(8 * ROOM), malloc(4 * ROOM), 0};
    const uint8_t **const table[] = {&w.next_ethertype, &w.next_ipv4, &w.next_ipv6, &w.next_udp_source,
                                     &w.next_udp_destination};
    const size_t sizes[] = {65536, 256, 256, 65536, 65536};
    for (int i = 0; i < 5; tables += sizes[i++])
        *table[i] = tables;
    w.ppp_ethertype = (const uint16_t *)tables;
#define ALLOCATE(name, type) w.name = calloc(1, sizeof(type));
    COLUMNS(ALLOCATE)
    long done = 0, count = atol(argv[argc - 1]);
    while (done < count) {
        for (size_t at = 0; at < size && done < count; done++) {
            uint32_t length;
            memcpy(&length, frames + at, 4);
            walk_one(&w, frames + at + 4, length, chance(2) ? KIND_ETHERNET : (uint8_t)(1 + chance(LAST_KIND)));
            at += 4 + length;
        }
    }
    printf("%ld frames\n", done);
    return 0;
}
