/* agent/decode/tunnel.py */
#include "frame.h"

#define GRE_CHECKSUM 0x8000
#define GRE_ROUTING 0x4000
#define GRE_KEY 0x2000
#define GRE_SEQUENCE 0x1000
#define GRE_ACK 0x0080

/* -- PPP, MPLS, Ethernet in Ethernet ------------------------------------------------------------------------------ */

static int ppp(struct frame *f) {
    HEAD(p, 2);
    if (be16(p) == 0xFF03)
        f->off += 2;
    HEAD(first, 1);
    unsigned protocol = first[0];
    if (!(protocol & 1)) {
        HEAD(both, 2);
        protocol = be16(both);
        f->off += 1;
    }
    f->off += 1;
    if (protocol == 0x3D)
        return KIND_MULTILINK;
    unsigned type = f->w->ppp_ethertype[protocol];
    return type ? by_ethertype(f, type) : KIND_NONE;
}

static int multilink(struct frame *f) {
    HEAD(p, 4);
    f->off += 4;
    return p[0] == 0xC0 ? KIND_PPP : KIND_NONE;
}

static int pppoe(struct frame *f) {
    HEAD(p, 6);
    if (p[0] != 0x11 || p[1] != 0)
        return malformed(f);
    tunnel(f, TUNNEL_pppoe, be16(p + 2));
    f->off += 6;
    trim(f, f->off + be16(p + 4));
    return KIND_PPP;
}

/* Whether a pseudowire's control word precedes Ethernet. */
static int has_control_word(const struct frame *f, const uint8_t *p) {
    const uint8_t *kinds = f->w->next_ethertype;
    return f->cap - f->off >= 18 && p[0] >> 4 == 0 && !(kinds[be16(p + 12)] && !kinds[be16(p + 16)]);
}

static int after_labels(struct frame *f) {
    HEAD(p, 1);
    int nibble = p[0] >> 4;
    if (nibble == 4 || nibble == 6)
        return by_ethertype(f, nibble == 4 ? 0x0800 : 0x86DD);
    if (nibble == 1)
        return KIND_NONE;
    f->off += has_control_word(f, p) ? 4 : 0;
    return KIND_ETHERNET;
}

static int mpls(struct frame *f) {
    HEAD(p, 4);
    uint32_t word = be32(p);
    append(f, &f->w->mpls_label, word >> 12);
    tunnel(f, TUNNEL_mpls, 0);
    f->layers |= HAS_MPLS;
    f->off += 4;
    return word >> 8 & 1 ? after_labels(f) : KIND_MPLS;
}

static int mpls_in_ip(struct frame *f) {
    tunnel(f, TUNNEL_mpls, 0);
    return KIND_MPLS;
}

static int pbb(struct frame *f) {
    HEAD(p, 4);
    tunnel(f, TUNNEL_pbb, be32(p) & 0xFFFFFF);
    f->off += 4;
    return KIND_ETHERNET;
}

/* -- over IP ------------------------------------------------------------------------------------------------------ */

static int in_ip(struct frame *f, int over4, int over6, unsigned type) {
    tunnel(f, f->layers & HAS_IPV4 ? over4 : over6, 0);
    return by_ethertype(f, type);
}

static int ether_in_ip(struct frame *f) {
    HEAD(p, 2);
    tunnel(f, TUNNEL_etherip, 0);
    f->off += 2;
    return p[0] >> 4 == 3 ? KIND_ETHERNET : KIND_NONE;
}

static int ethernet_in_ip(struct frame *f) {
    tunnel(f, TUNNEL_ethernet, 0);
    return KIND_ETHERNET;
}

static int pim(struct frame *f) {
    const uint8_t *p = f->w->data + f->off;
    if (f->cap - f->off < 9 || p[0] != 0x21 || (p[8] >> 4 != 4 && p[8] >> 4 != 6))
        return KIND_NONE;
    tunnel(f, TUNNEL_pim, 0);
    f->off += 8;
    return KIND_RAW;
}

static int gre_tunnel(unsigned type, unsigned version) {
    if (version == 1)
        return TUNNEL_pptp;
    return type == 0x6558 ? TUNNEL_gretap : type == 0x88BE || type == 0x22EB ? TUNNEL_erspan : TUNNEL_gre;
}

static int gre(struct frame *f) {
    HEAD(p, 4);
    unsigned flags = be16(p), type = be16(p + 2), version = flags & 7;
    int key = 4 + (flags & (GRE_CHECKSUM | GRE_ROUTING) ? 4 : 0);
    int size = key + (flags & GRE_KEY ? 4 : 0) + (flags & GRE_SEQUENCE ? 4 : 0);
    size += version == 1 && (flags & GRE_ACK) ? 4 : 0;
    if (f->cap - f->off < size)
        return malformed(f);
    if (version > 1 || (flags & GRE_ROUTING))
        return KIND_NONE;
    uint32_t id = flags & GRE_KEY ? be32(p + key) : 0;
    tunnel(f, gre_tunnel(type, version), version == 1 ? id & 0xFFFF : id);
    f->off += size;
    return type == 0x88BE && !(flags & GRE_SEQUENCE) ? KIND_ETHERNET : by_ethertype(f, type);
}

static int erspan2(struct frame *f) {
    HEAD(p, 8);
    f->off += 8;
    return p[0] >> 4 == 1 ? KIND_ETHERNET : KIND_NONE;
}

static int erspan3(struct frame *f) {
    HEAD(p, 12);
    unsigned bits = be16(p + 10);
    f->off += bits & 1 ? 20 : 12;
    return p[0] >> 4 == 2 && !(bits & 0x7C00) ? KIND_ETHERNET : KIND_NONE;
}

static int wccp(struct frame *f) {
    HEAD(p, 1);
    f->off += p[0] >> 4 == 4 ? 0 : 4;
    return by_ethertype(f, 0x0800);
}

/* -- over UDP ----------------------------------------------------------------------------------------------------- */

static int vxlan(struct frame *f) {
    HEAD(p, 8);
    if (!(p[0] & 0x08))
        return KIND_NONE;
    tunnel(f, TUNNEL_vxlan, be32(p + 4) >> 8);
    f->off += 8;
    return KIND_ETHERNET;
}

static int vxlan_likely(struct frame *f) {
    if (f->cap - f->off < 8)
        return KIND_NONE;
    const uint8_t *p = f->w->data + f->off;
    return be32(p) == 0x08000000 && p[7] == 0 ? vxlan(f) : KIND_NONE;
}

/* Next protocol numbers of VXLAN-GPE and NSH. */
static int nsh_next(struct frame *f, int number) {
    switch (number) {
    case 1: return by_ethertype(f, 0x0800);
    case 2: return by_ethertype(f, 0x86DD);
    case 3: return KIND_ETHERNET;
    case 4: return KIND_NSH;
    case 5: return KIND_MPLS;
    default: return KIND_NONE;
    }
}

static int vxlan_gpe(struct frame *f) {
    HEAD(p, 8);
    tunnel(f, TUNNEL_vxlan_gpe, be32(p + 4) >> 8);
    f->off += 8;
    return nsh_next(f, p[0] & 0x04 ? p[3] : 3);
}

static int nsh(struct frame *f) {
    HEAD(p, 8);
    int length = (p[1] & 0x3F) * 4;
    if (length < 8)
        return malformed(f);
    tunnel(f, TUNNEL_nsh, be32(p + 4) >> 8);
    f->off += length;
    return nsh_next(f, p[3] == 4 ? 0 : p[3]);
}

static int geneve(struct frame *f) {
    HEAD(p, 8);
    if (p[0] >> 6)
        return KIND_NONE;
    tunnel(f, TUNNEL_geneve, be32(p + 4) >> 8);
    f->off += 8 + (p[0] & 0x3F) * 4;
    return by_ethertype(f, be16(p + 2));
}

static int gtpu(struct frame *f) {
    HEAD(p, 8);
    if (p[0] >> 5 != 1 || !(p[0] & 0x10) || p[1] != 255)
        return KIND_NONE;
    tunnel(f, TUNNEL_gtpu, be32(p + 4));
    trim(f, f->off + 8 + be16(p + 2));
    f->off += p[0] & 0x04 ? 11 : p[0] & 0x07 ? 12 : 8;
    return p[0] & 0x04 ? KIND_GTPU_EXTENSION : KIND_GTPU_PDU;
}

static int gtpu_extension(struct frame *f) {
    HEAD(type, 1);
    f->off += 1;
    if (type[0] == 0)
        return KIND_GTPU_PDU;
    HEAD(length, 1);
    if (length[0] == 0)
        return malformed(f);
    f->off += length[0] * 4 - 1;
    return KIND_GTPU_EXTENSION;
}

static int gtpu_pdu(struct frame *f) {
    HEAD(p, 1);
    int version = p[0] >> 4;
    if (version == 4 || version == 6)
        return KIND_RAW;
    return f->cap - f->off >= 14 && f->w->next_ethertype[be16(p + 12)] ? KIND_ETHERNET : KIND_NONE;
}

static int l2tp(struct frame *f) {
    HEAD(p, 2);
    unsigned flags = be16(p);
    if ((flags & 0x8000) || (flags & 7) != 2)
        return KIND_NONE;
    f->off += flags & 0x4000 ? 4 : 2;
    HEAD(ids, 4);
    tunnel(f, TUNNEL_l2tp, be32(ids));
    f->off += 4 + (flags & 0x0800 ? 4 : 0);
    if (flags & 0x0200) {
        HEAD(padding, 2);
        f->off += 2 + be16(padding);
    }
    return KIND_PPP;
}

static int teredo(struct frame *f) {
    HEAD(p, 2);
    unsigned word = be16(p);
    if (word == 1) {
        HEAD(sizes, 4);
        f->off += 13 + sizes[2] + sizes[3];
        if (f->cap - f->off < 2)
            return KIND_NONE;
        word = be16(f->w->data + f->off);
    }
    if (word == 0)
        f->off += 8;
    else if (word >> 12 != 6)
        return KIND_NONE;
    if (f->cap - f->off < 1 || f->w->data[f->off] >> 4 != 6)
        return KIND_NONE;
    tunnel(f, TUNNEL_teredo, 0);
    return by_ethertype(f, 0x86DD);
}

static int lisp(struct frame *f) {
    HEAD(p, 8);
    tunnel(f, TUNNEL_lisp, p[0] & 0x08 ? be32(p + 4) >> 8 : 0);
    f->off += 8;
    return KIND_RAW;
}
