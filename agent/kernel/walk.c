/* The walk of agent.decode over one block, frame by frame: the same layers in the same order writing the same cells.
 *
 * The numpy handlers (agent/decode/link.py, network.py, transport.py, tunnel.py) are the reference and say why each
 * rule is as it is; a function here has the name of its handler. No byte at or beyond `cap` is read: `HEAD` checks it.
 */
#include "link.h"
#include "network.h"
#include "transport.h"
#include "tunnel.h"

#define AHEAD 8 /* frames whose first bytes are asked for while this one is walked */

static int step(struct frame *f, int kind) {
    switch (kind) {
    case KIND_ETHERNET: return ethernet(f);
    case KIND_SLL: return sll(f);
    case KIND_SLL2: return sll2(f);
    case KIND_NULL: return null(f);
    case KIND_LOOP: return loop(f);
    case KIND_RAW: return raw(f);
    case KIND_PFLOG: return pflog(f);
    case KIND_CHDLC: return chdlc(f);
    case KIND_LLC: return llc(f);
    case KIND_VLAN: return vlan(f);
    case KIND_ARP: return arp(f);
    case KIND_IPV4: return ipv4(f);
    case KIND_IPV6: return ipv6(f);
    case KIND_V6_OPTIONS: return v6_options(f);
    case KIND_V6_FRAGMENT: return v6_fragment(f);
    case KIND_AH: return ah(f);
    case KIND_TCP: return tcp(f);
    case KIND_UDP: return udp(f);
    case KIND_UDPLITE: return udplite(f);
    case KIND_SCTP: return sctp(f);
    case KIND_ICMP: return icmp(f, HAS_ICMP, HAS_ICMP_CODE);
    case KIND_ICMPV6: return icmp(f, HAS_ICMPV6, HAS_ICMPV6_CODE);
    case KIND_PPP: return ppp(f);
    case KIND_PPPOE: return pppoe(f);
    case KIND_MPLS: return mpls(f);
    case KIND_MPLS_IN_IP: return mpls_in_ip(f);
    case KIND_IP4_IN_IP: return in_ip(f, TUNNEL_ipip, TUNNEL_4in6, 0x0800);
    case KIND_IP6_IN_IP: return in_ip(f, TUNNEL_6in4, TUNNEL_6in6, 0x86DD);
    case KIND_ETHER_IN_IP: return ether_in_ip(f);
    case KIND_GRE: return gre(f);
    case KIND_ERSPAN2: return erspan2(f);
    case KIND_ERSPAN3: return erspan3(f);
    case KIND_VXLAN: return vxlan(f);
    case KIND_VXLAN_LIKELY: return vxlan_likely(f);
    case KIND_VXLAN_GPE: return vxlan_gpe(f);
    case KIND_NSH: return nsh(f);
    case KIND_GENEVE: return geneve(f);
    case KIND_GTPU: return gtpu(f);
    case KIND_GTPU_EXTENSION: return gtpu_extension(f);
    case KIND_GTPU_PDU: return gtpu_pdu(f);
    case KIND_L2TP: return l2tp(f);
    case KIND_TEREDO: return teredo(f);
    case KIND_LISP: return lisp(f);
    case KIND_WCCP: return wccp(f);
    case KIND_PBB: return pbb(f);
    case KIND_SHIM6: return shim6(f);
    case KIND_SHIM8: return shim8(f);
    case KIND_MACSEC: return macsec(f);
    case KIND_PIM: return pim(f);
    case KIND_ETHERNET_IN_IP: return ethernet_in_ip(f);
    case KIND_MULTILINK: return multilink(f);
    default: return -1; /* link layers of agent/decode/rare.py */
    }
}

/* Walks one frame as far as the kinds are known here; a kind that is not stays in `kind` for Python to go on with. */
static void walk_frame(struct frame *f) {
    struct walk *w = f->w;
    int kind = w->kind[f->row], next = kind;
    for (int layer = 0; kind != KIND_NONE && layer < MAX_LAYERS; layer++, kind = next)
        if ((next = step(f, kind)) < 0)
            break;
    if (next > 0) /* too many layers */
        f->layers |= HAS_MALFORMED;
    w->layers[f->row] = f->layers;
    w->kind[f->row] = KIND_NONE;
    if (next < 0) {
        w->kind[f->row] = (uint8_t)kind;
        w->off[f->row] = f->off;
        w->cap[f->row] = f->cap;
        w->end[f->row] = f->end;
    }
}

/* Walks the frames from `row` on; returns the first that is not walked because a list is full, `n` when done. */
EXPORT int64_t nodetap_walk(struct walk *w, int64_t row) {
    const int64_t full = w->room - MAX_LAYERS;
    for (; row < w->n && *w->vlan_id.used <= full && *w->mpls_label.used <= full; row++) {
        if (row + AHEAD < w->n) {
            __builtin_prefetch(w->data + w->off[row + AHEAD]);
            __builtin_prefetch(w->data + w->off[row + AHEAD] + 64);
        }
        struct frame f = {w, row, w->off[row], w->cap[row], w->end[row], w->layers[row]};
        if (f.off >= 0 && f.cap <= w->size) /* else no frame of this block */
            walk_frame(&f);
    }
    return row;
}

#define NUMBER(n) #n
#define TEXT(n) NUMBER(n)
#define KIND(name, number) " kind." #name "=" #number
#define BIT(name, number) " has." #name "=" #number
#define TUNNEL(name, number) " tunnel." #name "=" #number
#define COLUMN(name, type) " column." #name "=" #type

/* The tables of kernel.h in words, for agent.decode.compiled to compare. */
EXPORT const char *nodetap_tables(void) {
    return "max_layers=" TEXT(MAX_LAYERS) KINDS(KIND) BITS(BIT) TUNNELS(TUNNEL) COLUMNS(COLUMN);
}

/* What protocol.built.digest says of the sources that this was built of. */
EXPORT uint32_t nodetap_source(void) { return NODETAP_SOURCE; }
