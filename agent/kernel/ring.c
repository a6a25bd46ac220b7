/* The frames of TPACKET_V3 ring blocks: each says where the next one is, and all else in the 64 bytes it begins with.
 *
 * agent/capture/tpacket.py says how they lie; include/uapi/linux/if_packet.h is the source of both. What the operating
 * system wrote there is believed but for where frames lie: none is looked for beyond its block.
 */
#include <string.h>

#include "kernel.h"

enum { FRAMES = 12, FIRST = 16 };                                     /* in a block */
enum { NEXT = 0, SECONDS = 4, NANOSECONDS = 8, CAP_LEN = 12, WIRE_LEN = 16, STATUS = 20, MAC = 24, TCI = 32, TPID = 36,
       IFINDEX = 52, PKTTYPE = 58, HEAD = 64 };                       /* in a frame */
enum { STATUS_TAG = 1 << 4, STATUS_TPID = 1 << 6, DEFAULT_TPID = 0x8100, TAG_BYTES = 4 };

#define AHEAD 12 /* frames whose headers are asked for, if they were all as large as this one */

/* Blocks and what is written of their frames, as agent.capture.tpacket fills it in: every member is 8 bytes wide. */
struct ring {
    const uint8_t *data;
    const int64_t *places; /* of the blocks in `data` */
    int64_t blocks, block_bytes;
    int64_t room; /* of each of these */
    int64_t *offset;
    uint32_t *cap_len, *wire_len;
    int64_t *time, *vlan;
    int32_t *ifindex;
    uint8_t *pkttype;
    int64_t tagged; /* frames that had a VLAN tag */
};

static uint16_t u16(const uint8_t *p) {
    uint16_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static uint32_t u32(const uint8_t *p) {
    uint32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static void read_frame(struct ring *r, int64_t row, int64_t place) {
    const uint8_t *p = r->data + place;
    const uint32_t status = u32(p + STATUS);
    const int tagged = (status & STATUS_TAG) != 0;
    const int64_t tpid = status & STATUS_TPID ? u16(p + TPID) : DEFAULT_TPID;
    r->offset[row] = place + u16(p + MAC);
    r->cap_len[row] = u32(p + CAP_LEN);
    r->wire_len[row] = u32(p + WIRE_LEN) + (tagged ? TAG_BYTES : 0);
    r->time[row] = u32(p + SECONDS) * (int64_t)1000000000 + u32(p + NANOSECONDS);
    r->vlan[row] = tagged ? tpid << 16 | (u32(p + TCI) & 0xFFFF) : -1;
    memcpy(&r->ifindex[row], p + IFINDEX, sizeof *r->ifindex);
    r->pkttype[row] = p[PKTTYPE];
    r->tagged += tagged;
}

/* Writes what the headers of the blocks' frames say; returns how many frames. */
EXPORT int64_t nodetap_ring(struct ring *r) {
    int64_t row = 0;
    for (int64_t block = 0; block < r->blocks; block++) {
        const uint8_t *begin = r->data + r->places[block];
        int64_t at = u32(begin + FIRST);
        for (uint32_t left = u32(begin + FRAMES); left && row < r->room && at <= r->block_bytes - HEAD; left--) {
            const int64_t step = u32(begin + at + NEXT);
            __builtin_prefetch(begin + at + AHEAD * step);
            __builtin_prefetch(begin + at + AHEAD * step + 64);
            read_frame(r, row++, r->places[block] + at);
            at += step;
        }
    }
    return row;
}
