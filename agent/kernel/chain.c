/* Records of capture files: each says how long it is, so the next is known only once this one is. */
#include "kernel.h"

/* The law of agent.capture.chain.Law. */
struct law {
    int64_t big, length_at, added, header, unit;
};

/* Writes the starts of records in [place, end) to `starts`, at most `room`; returns how many. Lengths are believed;
 * `header` bytes must be there behind each place below `end`. */
EXPORT int64_t nodetap_chain(const uint8_t *data, int64_t place, int64_t end, const struct law *law, int64_t *starts,
                             int64_t room) {
    const int64_t header = law->header, mask = law->unit - 1, added = law->added + mask;
    int64_t count = 0;
    while (place < end && count < room) {
        const uint8_t *at = data + place + law->length_at;
        int64_t length = ((law->big ? be32(at) : le32(at)) + added) & ~mask;
        starts[count++] = place;
        place += length > header ? length : header;
    }
    return count;
}
