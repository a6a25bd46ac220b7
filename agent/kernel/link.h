/* agent/decode/link.py */
#include "frame.h"

#define MAX_LENGTH 1500
#define ARPHRD_NETLINK 824

static int typed(struct frame *f, unsigned type) {
    if (type > MAX_LENGTH)
        return by_ethertype(f, type);
    trim(f, f->off + type);
    return KIND_LLC;
}

static int ethernet(struct frame *f) {
    HEAD(p, 14);
    unsigned type = be16(p + 12);
    PUT(eth_dst, be48(p));
    PUT(eth_src, be48(p + 6));
    PUT(eth_type, (uint16_t)type);
    f->layers |= HAS_ETH;
    f->off += 14;
    return typed(f, type);
}

static int vlan(struct frame *f) {
    HEAD(p, 2);
    append(f, &f->w->vlan_id, be16(p) & 0x0FFF);
    f->layers |= HAS_VLAN;
    HEAD(tag, 4);
    f->off += 4;
    return typed(f, be16(tag + 2));
}

static int shim6(struct frame *f) {
    HEAD(p, 6);
    f->off += 6;
    return typed(f, be16(p + 4));
}

static int shim8(struct frame *f) {
    HEAD(p, 8);
    f->off += 8;
    return typed(f, be16(p + 6));
}

static int macsec(struct frame *f) {
    HEAD(p, 6);
    if (p[0] & 0x0C) /* encrypted or changed */
        return KIND_NONE;
    f->off += p[0] & 0x20 ? 14 : 6;
    trim(f, f->end - 16);
    HEAD(type, 2);
    f->off += 2;
    return typed(f, be16(type));
}

static int llc(struct frame *f) {
    HEAD(p, 3);
    if (p[0] == 6 && p[2] == 3) {
        f->off += 3;
        return by_ethertype(f, 0x0800);
    }
    if (p[0] != 0xAA || p[1] != 0xAA || p[2] != 3)
        return KIND_NONE;
    HEAD(snap, 8);
    uint32_t oui = be32(snap + 2) & 0xFFFFFF;
    f->off += 8;
    return oui == 0 || oui == 0xF8 ? by_ethertype(f, be16(snap + 6)) : KIND_NONE;
}

static int cooked(struct frame *f, unsigned hardware, unsigned type) {
    if (hardware == ARPHRD_NETLINK)
        return KIND_NONE;
    if (type > MAX_LENGTH)
        return by_ethertype(f, type);
    return type == 3 ? KIND_ETHERNET : type == 4 ? KIND_LLC : KIND_NONE;
}

static int sll(struct frame *f) {
    HEAD(p, 16);
    f->off += 16;
    return cooked(f, be16(p + 2), be16(p + 14));
}

static int sll2(struct frame *f) {
    HEAD(p, 20);
    f->off += 20;
    return cooked(f, be16(p + 8), be16(p));
}

static int family(struct frame *f, uint32_t number) {
    if (number == 2)
        return by_ethertype(f, 0x0800);
    if (number == 24 || number == 28 || number == 30)
        return by_ethertype(f, 0x86DD);
    return number > MAX_LENGTH && number < 65536 ? by_ethertype(f, number) : KIND_NONE;
}

static int null(struct frame *f) {
    HEAD(p, 4);
    uint32_t little = le32(p), big = be32(p);
    f->off += 4;
    return family(f, little < big ? little : big);
}

static int loop(struct frame *f) {
    HEAD(p, 4);
    f->off += 4;
    return family(f, be32(p));
}

static int raw(struct frame *f) {
    HEAD(p, 1);
    int version = p[0] >> 4;
    return version == 4 ? by_ethertype(f, 0x0800) : version == 6 ? by_ethertype(f, 0x86DD) : malformed(f);
}

static int chdlc(struct frame *f) {
    HEAD(p, 4);
    f->off += 4;
    return by_ethertype(f, be16(p + 2));
}

static int pflog(struct frame *f) {
    HEAD(p, 2);
    f->off += (p[0] + 3) & ~3;
    return family(f, p[1]);
}
