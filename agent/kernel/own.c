/* A quick look at frames: which may be of the agent's own traffic. agent/capture/own.py then looks properly. */
#include <string.h>

#include "kernel.h"

#define LOOKED_AT 54 /* bytes: Ethernet and IPv6 headers */
#define AHEAD 16     /* frames that are asked for while this one is looked at */

static int has(const uint8_t *p, const uint32_t *tails, int64_t count) {
    uint32_t tail;
    memcpy(&tail, p, sizeof tail);
    for (int64_t i = 0; i < count; i++)
        if (tail == tails[i])
            return 1;
    return 0;
}

/* Frames of Ethernet with a VLAN tag, or with an address that ends as one of `tails` (4 bytes as they lie there; the
 * first `ipv4` are of IPv4, then `ipv6` of IPv6), and those near the end of `data`: writes which to `likely`, and
 * returns how many. */
EXPORT int64_t nodetap_own(const uint8_t *data, int64_t size, const int64_t *offset, int64_t n, const uint32_t *tails,
                           int64_t ipv4, int64_t ipv6, uint8_t *likely) {
    int64_t count = 0;
    for (int64_t row = 0; row < n; row++) {
        if (row + AHEAD < n)
            __builtin_prefetch(data + offset[row + AHEAD] + 26);
        const uint8_t *p = data + offset[row];
        int is = 1;
        if (offset[row] + LOOKED_AT <= size) {
            const unsigned type = be16(p + 12);
            is = type == 0x8100 || type == 0x88A8;
            if (type == 0x0800)
                is = has(p + 26, tails, ipv4) || has(p + 30, tails, ipv4);
            else if (type == 0x86DD)
                is = has(p + 34, tails + ipv4, ipv6) || has(p + 50, tails + ipv4, ipv6);
        }
        likely[row] = (uint8_t)is;
        count += is;
    }
    return count;
}
