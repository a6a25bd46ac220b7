/* agent/decode/transport.py */
#include "frame.h"

#define LEAST_PORT 1024 /* agent.decode.kinds */
#define TCP_BITS (HAS_TCP | HAS_TCP_SEQ | HAS_TCP_ACK | HAS_TCP_FLAGS | HAS_TCP_WINDOW)

static void ports(struct frame *f, const uint8_t *p, uint64_t bits) {
    PUT(src_port, be16(p)), PUT(dst_port, be16(p + 2));
    f->layers |= bits;
}

/* Only the ports of a header that is cut. */
static int cut(struct frame *f, uint64_t bits) {
    HEAD(p, 4);
    ports(f, p, bits);
    return malformed(f);
}

static int tcp(struct frame *f) {
    if (f->cap - f->off < 16)
        return cut(f, HAS_TCP);
    HEAD(p, 16);
    ports(f, p, TCP_BITS);
    PUT(tcp_seq, be32(p + 4)), PUT(tcp_ack, be32(p + 8));
    PUT(tcp_flags, be16(p + 12) & 0x0FFF), PUT(tcp_window, be16(p + 14));
    int64_t hlen = (p[12] >> 4) * 4, start = f->off + hlen, length = f->end - start;
    payload(f, start, hlen >= 20 ? f->end : 0);
    if (length < 0 || f->cap < start)
        malformed(f);
    if (length >= 0 && !f->w->frag_more[f->row]) {
        PUT(tcp_len, (uint32_t)length);
        f->layers |= HAS_TCP_LEN;
    }
    if (hlen < 20) {
        malformed(f);
        f->layers &= ~(HAS_TCP_ACK | HAS_TCP_FLAGS | HAS_TCP_WINDOW);
        PUT(tcp_ack, 0), PUT(tcp_flags, 0), PUT(tcp_window, 0);
    }
    return KIND_NONE;
}

static int udp(struct frame *f) {
    if (f->cap - f->off < 6)
        return cut(f, HAS_UDP);
    HEAD(p, 6);
    unsigned source = be16(p), destination = be16(p + 2);
    int64_t size = be16(p + 4);
    ports(f, p, HAS_UDP | HAS_UDP_LENGTH);
    PUT(udp_length, (uint16_t)size);
    int jumbo = size == 0 && (f->layers & HAS_IPV6), bad = (size < 8 && !jumbo) || f->cap - f->off < 8;
    if (bad)
        malformed(f);
    if (jumbo)
        size = f->end - f->off;
    payload(f, f->off + 8, f->off + (bad ? 0 : size));
    int kind = f->w->next_udp_destination[destination];
    if (!kind)
        kind = f->w->next_udp_source[source];
    if (!kind || bad || source < LEAST_PORT || destination < LEAST_PORT)
        return KIND_NONE;
    payload(f, f->off, f->off); /* the packet described is another one */
    trim(f, f->off + size);
    f->off += 8;
    return kind;
}

static int udplite(struct frame *f) {
    HEAD(p, 4);
    ports(f, p, HAS_UDP);
    return KIND_NONE;
}

static int sctp(struct frame *f) {
    HEAD(p, 4);
    ports(f, p, HAS_SCTP);
    payload(f, f->off + 12, f->end); /* all chunks */
    return f->cap - f->off < 12 ? malformed(f) : KIND_NONE;
}

static int icmp(struct frame *f, uint64_t type_bit, uint64_t code_bit) {
    HEAD(p, 1);
    PUT(icmp_type, p[0]);
    f->layers |= type_bit;
    if (f->cap - f->off < 4)
        malformed(f);
    HEAD(whole, 2);
    PUT(icmp_code, whole[1]);
    f->layers |= code_bit;
    return KIND_NONE;
}
