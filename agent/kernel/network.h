/* agent/decode/network.py */
#include "frame.h"

#define L4_BITS \
    (HAS_TCP | HAS_TCP_SEQ | HAS_TCP_ACK | HAS_TCP_FLAGS | HAS_TCP_WINDOW | HAS_TCP_LEN | HAS_UDP | HAS_UDP_LENGTH | \
     HAS_SCTP | HAS_ICMP | HAS_ICMP_CODE | HAS_ICMPV6 | HAS_ICMPV6_CODE)
#define OUTER (L4_BITS | HAS_IPV4 | HAS_IPV6 | HAS_FRAG)

static inline addr mapped(const uint8_t *p) {
    return (addr){{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, p[0], p[1], p[2], p[3]}};
}

static int arp(struct frame *f) {
    HEAD(p, 8);
    PUT(arp_opcode, be16(p + 6));
    f->layers |= HAS_ARP;
    int64_t hlen = p[4];
    if (f->cap - f->off < 16 + 2 * hlen)
        return malformed(f);
    if (be16(p + 2) == 0x0800 && p[5] == 4 && !(f->layers & HAS_IP)) {
        PUT(src, mapped(p + 8 + hlen));
        PUT(dst, mapped(p + 12 + 2 * hlen));
        f->layers |= HAS_ARP_IPV4;
    }
    return KIND_NONE;
}

/* What an outer packet left in the columns goes. */
static void enter(struct frame *f, uint64_t bits) {
    if (f->layers & HAS_IP) {
        f->layers &= ~OUTER;
        PUT(src_port, 0), PUT(dst_port, 0), PUT(tcp_flags, 0), PUT(tcp_seq, 0), PUT(tcp_ack, 0), PUT(tcp_window, 0);
        PUT(tcp_len, 0), PUT(udp_length, 0), PUT(icmp_type, 0), PUT(icmp_code, 0), PUT(ip_id, 0);
        PUT(frag_offset, 0), PUT(frag_more, 0);
    }
    f->layers |= bits;
}

static void limit(struct frame *f, int64_t length) {
    if (f->off + length > f->end)
        malformed(f);
    trim(f, f->off + length);
}

static int ipv4(struct frame *f) {
    HEAD(p, 20);
    int64_t hlen = (p[0] & 15) * 4, total = be16(p + 2);
    if (total == 0)
        total = f->end - f->off;
    if (p[0] < 0x45 || p[0] >= 0x50 || total < hlen)
        return p[0] >> 4 == 6 ? KIND_IPV6 : malformed(f);
    enter(f, HAS_IP | HAS_IPV4 | HAS_FRAG);
    limit(f, total);
    f->off += hlen;
    unsigned frag = be16(p + 6);
    PUT(dsfield, p[1]), PUT(ip_len, be16(p + 2)), PUT(ip_id, be16(p + 4));
    PUT(ttl, p[8]), PUT(nxt, p[9]), PUT(proto, p[9]);
    PUT(src, mapped(p + 12)), PUT(dst, mapped(p + 16));
    if (frag & 0x3FFF)
        PUT(frag_offset, frag & 0x1FFF), PUT(frag_more, frag >> 13 & 1);
    return frag & 0x1FFF ? KIND_NONE : f->w->next_ipv4[p[9]];
}

static int next_header(struct frame *f, uint8_t number) {
    PUT(proto, number);
    return f->w->next_ipv6[number];
}

static int ipv6(struct frame *f) {
    HEAD(p, 40);
    if (p[0] >> 4 != 6)
        return malformed(f);
    unsigned length = be16(p + 4);
    enter(f, HAS_IP | HAS_IPV6);
    limit(f, length == 0 ? f->end - f->off : (int64_t)length + 40);
    f->off += 40;
    PUT(dsfield, (uint8_t)(be16(p) >> 4)), PUT(ttl, p[7]), PUT(nxt, p[6]), PUT(ip_len, length);
    PUT(src, *(const addr *)(p + 8)), PUT(dst, *(const addr *)(p + 24));
    return next_header(f, p[6]);
}

static int v6_options(struct frame *f) {
    HEAD(p, 2);
    f->off += 8 + p[1] * 8;
    return next_header(f, p[0]);
}

static int v6_fragment(struct frame *f) {
    HEAD(p, 8);
    unsigned word = be16(p + 2);
    f->layers |= HAS_FRAG;
    PUT(frag_offset, (uint16_t)(word >> 3)), PUT(frag_more, word & 1), PUT(ip_id, be32(p + 4));
    f->off += 8;
    PUT(proto, p[0]);
    return word >> 3 ? KIND_NONE : f->w->next_ipv6[p[0]];
}

static int ah(struct frame *f) {
    HEAD(p, 2);
    f->off += 8 + p[1] * 4;
    return next_header(f, p[0]);
}
