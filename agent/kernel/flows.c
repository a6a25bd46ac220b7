/* The packets of a block into the records of agent.flows, one by one in the order they came.
 *
 * agent/flow_keys.py, flow_items.py, flow_cuts.py and flow_seq.py say why each rule is as it is and are the reference;
 * they work on whole blocks, where this has one packet and what is known of its conversation.
 */
#include <string.h>

#include "kernel.h"

#define KEY_WORDS 6

/* agent.flow_items.NAMES: the words of a record */
#define RECORD(X) \
    X(base) X(seen) X(start) X(end) X(packets_1) X(packets_2) X(bytes_1) X(bytes_2) X(flow_only) X(zero_windows) \
    X(resets) X(retransmissions_1) X(retransmissions_2) X(out_of_order_1) X(out_of_order_2) X(flags_1) X(flags_2) \
    X(layers) X(ethertype) X(state) X(syn) X(syn_second) X(rtt) X(from_second) X(shell)

/* agent.flow_seq: the words of each direction, first those of the first endpoint, then the second's; one word more */
#define WAY(X) X(NEXT) X(TOP) X(ISN) X(ACK) X(LAST) X(WINDOW) X(DUPLICATES) X(SYN_LAST)

#define ENTRY(name) int64_t name;
struct record {
    RECORD(ENTRY)
};
struct way {
    WAY(ENTRY)
};
#undef ENTRY
struct talk {
    struct way ways[2];
    int64_t round_trip;
};

enum { FIN = 0x01, SYN = 0x02, RST = 0x04, ACK = 0x10 };
enum { FIN_FIRST = 1, FIN_SECOND = 2, RESET = 4 }; /* agent.flow_cuts */

/* One block and the table, as agent.flow_compiled fills it in: every member is 8 bytes wide. */
struct flows {
    int64_t n; /* packets */
    const uint64_t *layers;
    const int64_t *time;
    const uint32_t *iface;
    const addr *src, *dst;
    const uint16_t *src_port, *dst_port;
    const uint8_t *proto;
    const uint16_t *ethertype;
    const uint64_t *eth_src, *eth_dst;
    const uint32_t *len;
    const uint16_t *tcp_flags;
    const uint32_t *tcp_seq, *tcp_ack;
    const uint16_t *tcp_window;
    const uint32_t *tcp_len;
    const uint64_t *interfaces; /* numbers by `iface` */
    int64_t flow_only;          /* 1 where the packets get no rows */
    int64_t last_time, timed;   /* time of the packet before, 0 where there was none */
    /* the table: `index` holds slots + 1 by hash, 0 where there is none, and is never more than half full */
    uint64_t *keys;
    struct record *records;
    struct talk *states;
    uint8_t *alive;
    int64_t slots;
    uint32_t *index;
    int64_t mask; /* places in the index, less one */
    const int64_t *spare;
    int64_t spares; /* slots that are free, taken from the end */
    /* records that ended */
    uint64_t *ended_keys;
    struct record *ended;
    int64_t room, ends;
    /* the law */
    const uint64_t *seeds;
    uint64_t ip_layers, l2_layers, shown, needed;
    int64_t active, idle, keep, earliest, latest, never, fast, round_trip;
};

/* A packet on its way: its key, who sent it, and what it says. */
struct packet {
    uint64_t key[KEY_WORDS], hash, layers;
    int64_t time;
    int second;
    unsigned flags;
};

/* -- keys: agent.flow_keys ----------------------------------------------------------------------------------------- */

static uint64_t hash_key(const uint64_t *key, const uint64_t *seeds) {
    uint64_t hash = seeds[0];
    for (int word = 0; word < KEY_WORDS; word++) {
        hash = (hash ^ key[word]) * seeds[word];
        hash ^= hash >> 32;
    }
    return hash;
}

static void find_key(const struct flows *f, int64_t row, struct packet *p) {
    uint64_t from[2] = {0, 0}, to[2] = {0, 0}, layers = f->layers[row];
    uint64_t from_port = f->src_port[row], to_port = f->dst_port[row];
    const int ip = (layers & HAS_IP) != 0;
    if (ip) {
        memcpy(from, &f->src[row], sizeof from);
        memcpy(to, &f->dst[row], sizeof to);
    } else if (layers & HAS_ETH) {
        from[1] = f->eth_src[row];
        to[1] = f->eth_dst[row];
    }
    const int same = from[0] == to[0] && from[1] == to[1];
    p->second = same ? from_port > to_port : from[0] != to[0] ? from[0] > to[0] : from[1] > to[1];
    const uint64_t *first = p->second ? to : from, *second = p->second ? from : to;
    p->layers = layers;
    p->key[0] = (layers & (ip ? f->ip_layers : f->l2_layers)) | f->interfaces[f->iface[row]] << 32 |
                (uint64_t)f->proto[row] << 56;
    p->key[1] = p->second ? to_port << 16 | from_port : from_port << 16 | to_port;
    if (!ip)
        p->key[1] |= (uint64_t)f->ethertype[row] << 32;
    p->key[2] = first[0], p->key[3] = first[1], p->key[4] = second[0], p->key[5] = second[1];
    p->hash = hash_key(p->key, f->seeds);
}

/* The place of a key in the index: where its slot stands, or where it would. */
static int64_t place_of(const struct flows *f, const uint64_t *key, uint64_t hash) {
    int64_t at = (int64_t)(hash & (uint64_t)f->mask);
    while (f->index[at] && memcmp(f->keys + (int64_t)(f->index[at] - 1) * KEY_WORDS, key, 8 * KEY_WORDS))
        at = (at + 1) & f->mask;
    return at;
}

/* -- sequence numbers: agent.flow_seq ------------------------------------------------------------------------------ */

static int64_t ahead(int64_t a, int64_t b) { return (int32_t)((uint32_t)a - (uint32_t)b); }

/* Whether the packet begins a connection; its sender's first sequence number is noted. */
static int begins(struct way *way, unsigned flags, uint32_t seq) {
    const int64_t before = way->ISN, syn = (flags & (SYN | ACK)) == SYN;
    if (before < 0 || syn)
        way->ISN = flags & SYN ? seq : (uint32_t)(seq - 1);
    return syn && before >= 0 && before != (int64_t)seq;
}

/* A segment that does not go beyond what was sent, `behind` < 0, or whose data is acknowledged. */
static void suspect(const struct flows *f, const struct packet *p, struct record *r, const struct talk *talk,
                    int64_t seq, int64_t end, int acknowledged) {
    const struct way *way = &talk->ways[p->second], *other = &talk->ways[!p->second];
    const int asked = other->NEXT >= 0 && other->DUPLICATES >= 2 && other->ACK == seq && p->time - other->LAST < f->fast;
    const int64_t allowed = talk->round_trip > 0 ? talk->round_trip : f->round_trip;
    if (!acknowledged && !asked && p->time - way->TOP < allowed && way->NEXT != end)
        *(p->second ? &r->out_of_order_2 : &r->out_of_order_1) += 1;
    else
        *(p->second ? &r->retransmissions_2 : &r->retransmissions_1) += 1;
}

static void judge(const struct flows *f, int64_t row, const struct packet *p, struct record *r, struct talk *talk) {
    struct way *way = &talk->ways[p->second];
    const struct way *other = &talk->ways[!p->second];
    const int64_t seq = f->tcp_seq[row], ack = f->tcp_ack[row], window = f->tcp_window[row], length = f->tcp_len[row];
    const unsigned flags = f->tcp_flags[row];
    const int known = way->NEXT >= 0, answered = other->NEXT >= 0, plain = !(flags & (SYN | FIN | RST));
    const int control = (flags & (SYN | FIN)) != 0;
    const int64_t behind = known ? ahead(seq, way->NEXT) : 0;
    int64_t end = (uint32_t)(seq + length + control);
    const int acknowledged = length && answered && other->ACK && ahead(seq + length, other->ACK) <= 0;
    const int back = behind < 0 && (length || control) && (behind < -1 || length <= 1);
    const int keep_alive = behind == -1 && length <= 1 && plain;
    if ((back || acknowledged) && !keep_alive)
        suspect(f, p, r, talk, seq, end, acknowledged);
    const int same = known && ack == way->ACK;
    const int repeats = same && plain && !length && !behind && window && window == way->WINDOW;
    way->DUPLICATES = same ? way->DUPLICATES + repeats : 0;
    if (known && way->SYN_LAST && (flags & (SYN | RST | ACK)) == ACK && talk->round_trip < 0 && p->time >= way->LAST)
        talk->round_trip = p->time - way->LAST;
    if (length == 1 && answered && other->WINDOW == 0)
        end = seq; /* a probe of a window that is zero does not count as sent */
    if (!known || ahead(end, way->NEXT) > 0)
        way->NEXT = end, way->TOP = p->time;
    way->ACK = ack, way->LAST = p->time, way->WINDOW = window, way->SYN_LAST = (flags & (SYN | ACK)) == SYN;
}

static void forget(struct talk *talk) {
    for (int i = 0; i < 2; i++) {
        const int64_t isn = talk->ways[i].ISN;
        memset(&talk->ways[i], 0xFF, sizeof talk->ways[i]); /* -1 in every word */
        talk->ways[i].ISN = isn;
    }
    talk->round_trip = -1;
}

/* -- records: agent.flow_items, agent.flow_cuts --------------------------------------------------------------------- */

static int finished(int64_t state) {
    return (state & RESET) || (state & (FIN_FIRST | FIN_SECOND)) == (FIN_FIRST | FIN_SECOND);
}

/* An empty record that begins with this packet; what holds for the session stays. */
static void begin_record(const struct flows *f, int64_t row, const struct packet *p, struct record *r) {
    const struct record before = *r;
    *r = (struct record){.base = p->time, .seen = p->time, .start = p->time, .end = p->time,
                         .layers = (int64_t)(p->layers & f->shown), .ethertype = f->ethertype[row],
                         .state = before.state, .syn = before.syn, .syn_second = before.syn_second,
                         .rtt = before.rtt, .from_second = before.from_second};
}

static void begin_session(const struct flows *f, const struct packet *p, struct record *r, struct talk *talk) {
    r->state = 0, r->syn = f->never, r->syn_second = f->never, r->rtt = -1, r->from_second = p->second;
    forget(talk);
}

static void end_record(struct flows *f, const struct packet *p, const struct record *r) {
    if (!r->shell) {
        memcpy(f->ended_keys + f->ends * KEY_WORDS, p->key, sizeof p->key);
        f->ended[f->ends++] = *r;
    }
}

/* Ends what the packet does not belong to. */
static void cut(struct flows *f, int64_t row, const struct packet *p, struct record *r, struct talk *talk) {
    const int64_t since = p->time - r->seen, silent = since < 0 ? -since : since;
    const int syn = (p->flags & (SYN | ACK)) == SYN, paused = silent >= f->idle;
    int anew = (p->layers & f->needed) == f->needed && begins(&talk->ways[p->second], p->flags, f->tcp_seq[row]);
    anew |= paused && (!(p->layers & HAS_TCP) || silent >= f->keep);
    anew |= syn && finished(r->state);
    if (anew || paused || r->shell || p->time - r->base >= f->active) {
        end_record(f, p, r);
        if (anew)
            begin_session(f, p, r, talk);
        begin_record(f, row, p, r);
    }
}

static void shake(const struct flows *f, const struct packet *p, struct record *r) {
    if ((p->flags & (SYN | ACK)) == SYN) {
        if (r->syn == f->never)
            r->from_second = p->second;
        r->state = 0, r->syn = p->time, r->syn_second = p->second;
    } else if ((p->flags & (SYN | ACK)) == (SYN | ACK) && r->rtt < 0 && r->syn != f->never &&
               r->syn_second != p->second && p->time >= r->syn) {
        r->rtt = p->time - r->syn;
    }
    if (p->flags & FIN)
        r->state |= p->second ? FIN_SECOND : FIN_FIRST;
    if (p->flags & RST)
        r->state |= RESET;
}

static void count(const struct flows *f, int64_t row, const struct packet *p, struct record *r) {
    const int64_t second = p->second, first = !second, size = f->len[row], reset = (p->flags & RST) != 0;
    r->seen = p->time;
    if (p->time < r->start)
        r->start = p->time;
    if (p->time > r->end)
        r->end = p->time;
    r->packets_1 += first, r->packets_2 += second;
    r->bytes_1 += first * size, r->bytes_2 += second * size;
    r->flags_1 |= first * p->flags, r->flags_2 |= second * p->flags;
    r->flow_only += f->flow_only;
    r->layers |= (int64_t)(p->layers & HAS_TCP_FLAGS);
    r->resets += reset;
    r->zero_windows += (p->layers & HAS_TCP_WINDOW) && !f->tcp_window[row] && !reset;
}

/* One packet into its record; 0 where a slot or room for an ended record is missing, and nothing was done. */
static int add(struct flows *f, int64_t row, struct packet *p) {
    const int64_t at = place_of(f, p->key, p->hash);
    const int known = f->index[at] != 0;
    if (known ? f->ends == f->room : !f->spares)
        return 0;
    const int64_t slot = known ? (int64_t)f->index[at] - 1 : f->spare[--f->spares];
    struct record *r = f->records + slot;
    struct talk *talk = f->states + slot;
    if (f->layers[row] & HAS_TIME)
        f->last_time = f->time[row] < f->earliest ? f->earliest : f->time[row] > f->latest ? f->latest : f->time[row];
    p->time = f->last_time;
    p->flags = p->layers & HAS_TCP_FLAGS ? f->tcp_flags[row] : 0;
    if (known) {
        cut(f, row, p, r, talk);
    } else {
        f->index[at] = (uint32_t)slot + 1;
        f->alive[slot] = 1;
        memcpy(f->keys + slot * KEY_WORDS, p->key, sizeof p->key);
        memset(talk, 0xFF, sizeof *talk);
        begin_session(f, p, r, talk);
        begin_record(f, row, p, r);
        if ((p->layers & f->needed) == f->needed)
            begins(&talk->ways[p->second], p->flags, f->tcp_seq[row]);
    }
    shake(f, p, r);
    count(f, row, p, r);
    if ((p->layers & f->needed) == f->needed)
        judge(f, row, p, r, talk);
    return 1;
}

#define AHEAD 32 /* packets whose keys are found together, so that the memory they lead to is asked for in time */

static void ask_for(const struct flows *f, const struct packet *p) {
    const uint32_t slot = f->index[p->hash & (uint64_t)f->mask];
    if (!slot)
        return;
    __builtin_prefetch(f->keys + (int64_t)(slot - 1) * KEY_WORDS);
    for (int line = 0; line < (int)sizeof(struct record); line += 64)
        __builtin_prefetch((const char *)(f->records + slot - 1) + line);
    for (int line = 0; line < (int)sizeof(struct talk); line += 64)
        __builtin_prefetch((const char *)(f->states + slot - 1) + line);
}

/* Adds the packets from `row` on; returns the first that is not added for want of a slot or of room, `n` when done. */
EXPORT int64_t nodetap_flows(struct flows *f, int64_t row) {
    struct packet packets[AHEAD];
    for (int64_t at = row; !f->timed && at < f->n; at++)
        if (f->layers[at] & HAS_TIME)
            f->last_time = f->time[at] < f->earliest ? f->earliest : f->time[at] > f->latest ? f->latest : f->time[at],
            f->timed = 1;
    f->timed = 1;
    while (row < f->n) {
        const int64_t many = f->n - row < AHEAD ? f->n - row : AHEAD;
        for (int64_t i = 0; i < many; i++) {
            find_key(f, row + i, &packets[i]);
            __builtin_prefetch(f->index + (packets[i].hash & (uint64_t)f->mask));
        }
        for (int64_t i = 0; i < many; i++)
            ask_for(f, &packets[i]);
        for (int64_t i = 0; i < many; i++, row++)
            if (!add(f, row, &packets[i]))
                return row;
    }
    return row;
}

/* Makes the index of the slots that are alive. */
EXPORT void nodetap_flows_index(struct flows *f) {
    memset(f->index, 0, sizeof *f->index * (size_t)(f->mask + 1));
    for (int64_t slot = 0; slot < f->slots; slot++)
        if (f->alive[slot]) {
            const uint64_t *key = f->keys + slot * KEY_WORDS;
            f->index[place_of(f, key, hash_key(key, f->seeds))] = (uint32_t)slot + 1;
        }
}

#define WORD(name) " record." #name
#define WAY_WORD(name) " way." #name

/* The words of records and states in their order, for agent.flow_compiled to compare. */
EXPORT const char *nodetap_flow_words(void) { return &RECORD(WORD) WAY(WAY_WORD)[1]; }
