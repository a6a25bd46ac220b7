/* One array of a body: what protocol.arrays says of it, which is the reference. */
#ifndef NODETAP_ARRAY_H
#define NODETAP_ARRAY_H

#include "table.h"

/* Word, parts beside it, and rank: each holds only what is of a lower one. */
#define ENCODINGS(X) \
    X(RAW, "raw", 2, 0) X(PLANES, "planes", 2, 0) X(CONST, "const", 1, 0) X(ZIGZAG, "zigzag", 1, 1) \
    X(TIMES, "times", 2, 2) X(DELTA, "delta", 2, 3) X(GROUP, "group", 1, 4) X(SORTED, "sorted", 1, 4) \
    X(FROM, "from", 3, 5)

#define PLACE(name, word, parts, rank) AT_##name,
enum { ENCODINGS(PLACE) KINDS_OF_ARRAY };
#undef PLACE
#define BIT(name, word, parts, rank) name = 1 << AT_##name,
enum { ENCODINGS(BIT) };
#undef BIT

#define MAX_BASES 4

struct bases {
    int64_t count, columns[MAX_BASES];
};

/* An array with all arrays in it: as ranks fall, each encoding is there once at most and in one order. */
struct array {
    int ways;                   /* bits of its encodings */
    uint64_t width, unit, size; /* bytes of a value as sent, of `times`, of all values */
    uint64_t first;             /* of `delta` */
    const uint8_t *bytes;
    struct bases plus, minus;
};

static int is(const struct value *v, const char *word) {
    const size_t size = strlen(word);
    return v->kind == STRING && v->number == size && !memcmp(v->bytes, word, size);
}

/* The column of a name, -1 where there is none: looked for from `hint` on, as names come in the order of the table. */
static int64_t column_of(const struct table *t, const struct value *name, int64_t hint) {
    for (int64_t i = 0, k = hint; i < t->count; i++, k++) {
        const struct spec *spec = &t->columns[k < t->count ? k : (k -= t->count)];
        if (name->number == (uint64_t)spec->length && !memcmp(name->bytes, t->names + spec->name, (size_t)spec->length))
            return k;
    }
    return -1;
}

static int read_bases(struct reader *r, const struct table *t, int64_t before, struct bases *bases) {
    const struct value list = next(r);
    if (list.kind != LIST || list.number > MAX_BASES)
        return 0;
    for (bases->count = 0; bases->count < (int64_t)list.number; bases->count++) {
        const struct value name = next(r);
        const int64_t column = name.kind == STRING ? column_of(t, &name, 0) : -1;
        if (column < 0 || column >= before || t->columns[column].wire != INTEGER)
            return 0;
        bases->columns[bases->count] = column;
    }
    return 1;
}

static int read_leaf(struct reader *r, struct array *a) {
    if (!(a->ways & CONST)) {
        const struct value width = next(r);
        if (width.kind != NUMBER || width.number < 1 || width.number > 16)
            return 0;
        a->width = width.number;
    }
    const struct value bytes = next(r);
    a->bytes = bytes.bytes, a->size = bytes.number;
    return bytes.kind == BYTES;
}

static int read_first(struct reader *r, struct array *a) {
    const struct value first = next(r);
    if (first.kind != BYTES || first.number != sizeof a->first)
        return 0;
    memcpy(&a->first, first.bytes, sizeof a->first);
    return 1;
}

static int read_unit(struct reader *r, struct array *a) {
    const struct value unit = next(r);
    a->unit = unit.number;
    return unit.kind == NUMBER && unit.number > 0;
}

/* Reads an array whose `from` may name integer columns before that one. False where it is none. */
static int read_array(struct reader *r, const struct table *t, int64_t before, struct array *a) {
#define ROW(name, word, parts, rank) {word, parts, rank},
    static const struct {
        const char *word;
        unsigned parts;
        int rank;
    } encodings[] = {ENCODINGS(ROW)};
#undef ROW
    memset(a, 0, sizeof *a);
    for (int outside = 6;;) {
        const struct value list = next(r);
        const struct value word = next(r);
        int i = 0;
        while (i < KINDS_OF_ARRAY && !is(&word, encodings[i].word))
            i++;
        if (list.kind != LIST || i == KINDS_OF_ARRAY || list.number != encodings[i].parts + 1 ||
            encodings[i].rank >= outside)
            return 0;
        a->ways |= 1 << i;
        outside = encodings[i].rank;
        if (outside == 0)
            return read_leaf(r, a);
        if (i == AT_FROM && !(read_bases(r, t, before, &a->plus) && read_bases(r, t, before, &a->minus)))
            return 0;
        if ((i == AT_DELTA && !read_first(r, a)) || (i == AT_TIMES && !read_unit(r, a)))
            return 0;
    }
}

/* Whether it holds `count` values of `width` bytes, in a batch of so many groups, 0 where it has none. */
static int fits(const struct array *a, int64_t count, uint64_t width, int64_t groups) {
    if (width == 16 && a->ways & ~(RAW | CONST | GROUP | SORTED))
        return 0;
    if (a->ways & (GROUP | SORTED) && !groups)
        return 0;
    if (a->ways & GROUP)
        count = groups;
    if (a->ways & DELTA && --count < 0)
        return 0;
    if (a->ways & TIMES && width < 8 && a->unit >> 8 * width)
        return 0;
    if (a->ways & CONST)
        return a->size == width;
    if (a->ways & RAW && (width == 16 ? a->width != 16 : (a->width & (a->width - 1)) != 0))
        return 0;
    return a->width <= width && a->size == (uint64_t)count * a->width;
}

#endif
