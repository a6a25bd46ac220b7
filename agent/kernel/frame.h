/* One frame on its way: where it stands, and the moves that all handlers share. A handler returns the next kind. */
#ifndef NODETAP_FRAME_H
#define NODETAP_FRAME_H

#include "kernel.h"

struct frame {
    struct walk *const w;
    const int64_t row;
    int64_t off, cap, end;
    uint64_t layers;
};

#define PUT(column, value) (f->w->column[f->row] = (value))

/* `p` points to a header of `size` captured bytes; a frame that has less ends here, malformed. */
#define HEAD(p, size) \
    if (f->cap - f->off < (size)) \
        return malformed(f); \
    const uint8_t *const p = f->w->data + f->off

static inline int malformed(struct frame *f) {
    f->layers |= HAS_MALFORMED;
    return KIND_NONE;
}

static inline void trim(struct frame *f, int64_t end) {
    if (end < f->end)
        f->end = end;
    if (f->end < f->cap)
        f->cap = f->end;
}

static inline int by_ethertype(struct frame *f, unsigned type) {
    PUT(ethertype, (uint16_t)type);
    f->layers |= HAS_ETHERTYPE;
    return f->w->next_ethertype[type];
}

/* The outermost tunnel is kept, with the addresses of the IP header that carries it. */
static inline void tunnel(struct frame *f, int type, uint32_t id) {
    if (f->layers & HAS_TUNNEL)
        return;
    f->layers |= HAS_TUNNEL;
    PUT(tunnel_type, (uint32_t)type);
    PUT(tunnel_id, id);
    if (f->layers & HAS_IP) {
        f->layers |= HAS_TUNNEL_IP;
        PUT(tunnel_src, f->w->src[f->row]);
        PUT(tunnel_dst, f->w->dst[f->row]);
    }
}

/* The payload lies in [start, end), as far as it was captured. */
static inline void payload(struct frame *f, int64_t start, int64_t end) {
    if (f->w->payload_start) {
        int64_t length = (f->cap < end ? f->cap : end) - start;
        PUT(payload_start, start);
        PUT(payload_length, length > 0 ? length : 0);
    }
}

static inline void append(const struct frame *f, struct list *list, uint32_t value) {
    list->rows[*list->used] = f->row;
    list->values[(*list->used)++] = value;
}

#endif
