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

/* How records of a classic pcap file look. */
struct pcap {
    int64_t big, header, unit, max_frame; /* unit: nanoseconds of one of the fraction */
};

/* Writes what the headers of whole records from `place` on say, at most `room`; returns how many. Ends before a record
 * that is cut or longer than `max_frame`. */
EXPORT int64_t nodetap_pcap(const uint8_t *data, int64_t size, int64_t place, const struct pcap *law, int64_t room,
                            int64_t *offset, uint32_t *cap_len, uint32_t *wire_len, int64_t *time) {
    const int64_t header = law->header;
    int64_t count = 0;
    for (; count < room && size - place >= header; count++) {
        const uint8_t *p = data + place;
        uint32_t word[4];
        for (int i = 0; i < 4; i++)
            word[i] = law->big ? be32(p + 4 * i) : le32(p + 4 * i);
        if (word[2] > law->max_frame || word[2] > size - place - header)
            break;
        time[count] = word[0] * (int64_t)1000000000 + word[1] * law->unit;
        offset[count] = place + header;
        cap_len[count] = word[2];
        wire_len[count] = word[3];
        place += header + word[2];
    }
    return count;
}
