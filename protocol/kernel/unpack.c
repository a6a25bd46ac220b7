/* The columns of a batch out of its body: measured, then decoded.
 *
 * protocol.packing, arrays, groups and survey are the reference, and say why each rule is as it is. What they refuse is
 * refused here, and so is what is rare: a column that the table does not have, one that comes twice. Then they decide,
 * so each error is made in one place. No memory of its own: the arena and the room to work in are numpy's.
 */
#include "array.h"

#define ALIGN 16
#define MAX_COUNT 255 /* what a count of one byte can say */
#define NAMED_GROUPS "*"

/* A column of one value a row in the arena, for those that come after it; `one` where all rows have the same. */
struct column {
    const uint8_t *at;
    int64_t width;
    int one;
};

/* What is found of a column, in the order that protocol.compiled knows. Arrays are given by their place in the arena,
 * counted in values of their own width, and ~place where it is a single value that all rows have. */
struct found {
    int64_t column;
    int64_t rows;            /* array of one value a row: numbers, addresses, codes, lengths or counts */
    int64_t items;           /* how many values or strings there are in a column of several a row */
    int64_t values, lengths; /* arrays of one value an item: values, or codes of keys; lengths of strings */
    int64_t data, size;      /* array of the bytes of strings, and how many */
    int64_t keys, keys_size; /* where in the body the strings of a dictionary stand, bytes of msgpack */
};

struct batch {
    const struct table *table;
    const uint8_t *body, *end;
    int64_t rows, groups;            /* groups: 0 where there are none */
    const uint8_t *where[MOST + 1];  /* each column in the body; the last is that of the groups */
    struct column columns[MOST];
    uint8_t *arena;                  /* null while it is measured */
    int64_t used, size;              /* bytes of it */
    uint64_t *lanes;                 /* one a row, for values that are not in the order of the rows yet */
    uint32_t *codes, *places;        /* the group of each row, its place in the order of the groups */
};

#define LANE uint8_t
#include "lanes.h"
#undef LANE
#define LANE uint16_t
#include "lanes.h"
#undef LANE
#define LANE uint32_t
#include "lanes.h"
#undef LANE
#define LANE uint64_t
#include "lanes.h"
#undef LANE

/* -- UTF-8 --------------------------------------------------------------------------------------------------------- */

static int is_ascii(const uint8_t *p, int64_t size) {
    uint8_t all = 0;
    for (int64_t i = 0; i < size; i++)
        all |= p[i];
    return all < 0x80;
}

/* As RFC 3629 has it: shortest form, no surrogates, nothing beyond U+10FFFF. */
static int is_utf8(const uint8_t *p, int64_t size) {
    for (int64_t i = 0; i < size;) {
        const unsigned lead = p[i++];
        if (lead < 0x80)
            continue;
        if (lead < 0xC2 || lead > 0xF4)
            return 0;
        const int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
        if (size - i < more)
            return 0;
        const unsigned least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        const unsigned most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        if (p[i] < least || p[i] > most)
            return 0;
        for (int k = 1; k < more; k++)
            if ((p[i + k] & 0xC0) != 0x80)
                return 0;
        i += more;
    }
    return 1;
}

static int are_utf8(const uint32_t *lengths, int64_t one, int64_t count, const uint8_t *p, int64_t size) {
    if (is_ascii(p, size))
        return 1;
    for (int64_t i = 0; i < count; p += lengths[one ? 0 : i], i++)
        if (!is_utf8(p, lengths[one ? 0 : i]))
            return 0;
    return 1;
}

/* -- arrays -------------------------------------------------------------------------------------------------------- */

/* Room for so many bytes: its position, -1 where there is none. */
static int64_t take(struct batch *b, int64_t size) {
    const int64_t at = b->used;
    b->used += (size + ALIGN - 1) / ALIGN * ALIGN;
    return b->arena && b->used > b->size ? -1 : at;
}

static void addresses(const struct array *a, const struct batch *b, int64_t count, uint8_t *out) {
    const uint32_t *index = a->ways & GROUP ? b->codes : a->ways & SORTED ? b->places : 0;
    for (int64_t i = 0; i < count; i++)
        memcpy(out + 16 * i, a->bytes + (a->ways & CONST ? 0 : 16 * (index ? index[i] : i)), 16);
}

static void decode(const struct array *a, const struct batch *b, int64_t count, int64_t width, uint8_t *out) {
    switch (width) {
    case 1: decode_uint8_t(a, b, count, out); break;
    case 2: decode_uint16_t(a, b, count, (uint16_t *)out); break;
    case 4: decode_uint32_t(a, b, count, (uint32_t *)out); break;
    case 8: decode_uint64_t(a, b, count, (uint64_t *)out); break;
    default: addresses(a, b, count, out);
    }
}

/* One value a row, of the column `k`. */
static int per_row(struct batch *b, struct reader *r, int64_t k, int64_t width, int64_t *found) {
    struct array a;
    if (!read_array(r, b->table, k, &a))
        return 0;
    const int one = a.ways == CONST;
    const int64_t at = take(b, one ? width : b->rows * width);
    *found = one ? ~(at / width) : at / width;
    if (!b->arena)
        return 1;
    if (at < 0 || !fits(&a, b->rows, (uint64_t)width, b->groups))
        return 0;
    decode(&a, b, one ? 1 : b->rows, width, b->arena + at);
    b->columns[k] = (struct column){b->arena + at, width, one};
    return 1;
}

/* Several values a row; how many they are is what their bytes say. */
static int per_item(struct batch *b, struct reader *r, int64_t width, int64_t *items, int64_t *found) {
    struct array a;
    if (!read_array(r, b->table, 0, &a) || a.ways & ~(RAW | PLANES))
        return 0;
    *items = (int64_t)(a.size / a.width);
    if (*items > MAX_COUNT * b->rows)
        return 0;
    const int64_t at = take(b, *items * width);
    *found = at / width;
    if (!b->arena)
        return 1;
    if (at < 0 || !fits(&a, *items, (uint64_t)width, 0))
        return 0;
    decode(&a, b, *items, width, b->arena + at);
    return 1;
}

/* -- what is more than arrays -------------------------------------------------------------------------------------- */

static uint64_t sum(const uint32_t *values, int64_t count) {
    uint64_t total = 0;
    for (int64_t i = 0; i < count; i++)
        total += values[i];
    return total;
}

static uint64_t largest(const uint32_t *values, int64_t count) {
    uint32_t most = 0;
    for (int64_t i = 0; i < count; i++)
        most = values[i] > most ? values[i] : most;
    return most;
}

/* Whether the counts of the column `k` say that it has so many items. */
static int counts(const struct batch *b, int64_t k, int64_t items) {
    const struct column *c = &b->columns[k];
    int64_t total = 0;
    for (int64_t i = 0; i < (c->one ? 1 : b->rows); i++)
        total += c->at[i];
    return !b->arena || (c->one ? total * b->rows : total) == items;
}

/* The strings of a dictionary: Python makes them, and finds those that are not UTF-8. */
static int keys(struct batch *b, struct reader *r, struct found *f, uint64_t *count) {
    f->keys = r->at - b->body;
    const struct value list = next(r);
    if (list.kind != LIST || list.number > (uint64_t)b->table->max_dict)
        return 0;
    for (uint64_t i = 0; i < list.number; i++) {
        const struct value key = next(r);
        if (key.kind != STRING || key.number > (uint64_t)b->table->max_text)
            return 0;
    }
    f->keys_size = r->at - b->body - f->keys;
    *count = list.number;
    return 1;
}

/* The bytes of `count` strings: of one length each where `one`. */
static int data(struct batch *b, struct reader *r, struct found *f, const uint8_t *lengths, int one, int64_t count) {
    const struct value bytes = next(r);
    if (bytes.kind != BYTES)
        return 0;
    f->size = (int64_t)bytes.number;
    f->data = take(b, f->size);
    if (!b->arena)
        return 1;
    const uint32_t *all = (const uint32_t *)lengths;
    const int64_t n = one ? 1 : count;
    if (f->data < 0 || largest(all, n) > (uint64_t)b->table->max_text ||
        (int64_t)sum(all, n) * (one ? count : 1) != f->size ||
        !are_utf8(all, one, count, bytes.bytes, f->size))
        return 0;
    if (f->size)
        memcpy(b->arena + f->data, bytes.bytes, (size_t)f->size);
    return 1;
}

static int dict(struct batch *b, struct reader *r, struct found *f) {
    uint64_t count;
    if (!per_row(b, r, f->column, 4, &f->rows) || !keys(b, r, f, &count))
        return 0;
    const struct column *c = &b->columns[f->column];
    return !b->arena || largest((const uint32_t *)c->at, c->one ? 1 : b->rows) < count;
}

static int text(struct batch *b, struct reader *r, struct found *f) {
    if (!per_row(b, r, f->column, 4, &f->rows))
        return 0;
    const struct column *c = &b->columns[f->column];
    return data(b, r, f, c->at, c->one, b->rows);
}

static int lists(struct batch *b, struct reader *r, struct found *f, int64_t width) {
    return per_row(b, r, f->column, 1, &f->rows) && per_item(b, r, width, &f->items, &f->values) &&
           counts(b, f->column, f->items);
}

/* The strings of `texts`, and the values of `map`. */
static int strings(struct batch *b, struct reader *r, struct found *f) {
    if (!per_item(b, r, 4, &f->items, &f->lengths) || f->items > b->table->max_items ||
        !counts(b, f->column, f->items))
        return 0;
    return data(b, r, f, b->arena ? b->arena + 4 * f->lengths : 0, 0, f->items);
}

static int map(struct batch *b, struct reader *r, struct found *f) {
    int64_t codes;
    uint64_t count;
    if (!per_row(b, r, f->column, 1, &f->rows) || !per_item(b, r, 4, &codes, &f->values) || !keys(b, r, f, &count))
        return 0;
    if (b->arena && codes && largest((const uint32_t *)(b->arena + 4 * f->values), codes) >= count)
        return 0;
    return strings(b, r, f) && (!b->arena || codes == f->items);
}

/* -- a batch ------------------------------------------------------------------------------------------------------- */

static int opens(struct reader *r, const char *word, uint64_t parts) {
    const struct value list = next(r), first = next(r);
    return list.kind == LIST && list.number == parts + 1 && is(&first, word);
}

static int column(struct batch *b, struct found *f) {
    const struct spec *spec = &b->table->columns[f->column];
    struct reader r = {b->where[f->column], b->end};
    switch (spec->wire) {
    case INTEGER:
    case ADDRESS: return per_row(b, &r, f->column, spec->width, &f->rows);
    case DICT: return opens(&r, "dict", 2) && dict(b, &r, f);
    case TEXT: return opens(&r, "text", 2) && text(b, &r, f);
    case LISTS: return opens(&r, "list", 2) && lists(b, &r, f, spec->width);
    case TEXTS: return opens(&r, "texts", 3) && per_row(b, &r, f->column, 1, &f->rows) && strings(b, &r, f);
    case MAPS: return opens(&r, "map", 5) && map(b, &r, f);
    default: return 0;
    }
}

/* Steps over one value with all that is in it. */
static int skip(struct reader *r) {
    uint64_t left = 1;
    for (; left; left--) {
        const struct value v = next(r);
        if (v.kind == WRONG || v.kind == MAP) /* no column holds one */
            return 0;
        left += v.kind == LIST ? v.number : 0;
    }
    return 1;
}

/* Finds the columns in the body, which must be one map within the limits. */
static int find(struct batch *b) {
    const struct table *t = b->table;
    struct reader r = {b->body, b->end};
    const struct value all = next(&r);
    if (t->count > MOST || b->rows < 1 || b->rows > t->max_rows || all.kind != MAP)
        return 0;
    if (!b->arena && /* else that was before */
        nodetap_survey(b->body, b->end - b->body, t->max_values, t->max_depth, t->max_string, t->max_strings) < 0)
        return 0;
    int64_t hint = 0;
    for (uint64_t i = 0; i < all.number; i++) {
        const struct value name = next(&r);
        if (name.kind != STRING)
            return 0;
        const int64_t k = is(&name, NAMED_GROUPS) ? t->count : column_of(t, &name, hint);
        if (k < 0 || b->where[k])
            return 0;
        b->where[k] = r.at;
        hint = k < t->count ? k + 1 : hint;
        if (!skip(&r))
            return 0;
    }
    return 1;
}

/* The groups of the rows, and where each row stands in their order: counted, then placed. */
static int find_groups(struct batch *b) {
    struct reader r = {b->where[b->table->count], b->end};
    struct array a;
    if (!read_array(&r, b->table, 0, &a) || !fits(&a, b->rows, 4, 0))
        return 0;
    decode_uint32_t(&a, b, b->rows, b->codes);
    b->groups = (int64_t)largest(b->codes, b->rows) + 1;
    if (b->groups > b->rows)
        return 0;
    uint32_t *free_place = (uint32_t *)b->lanes, place = 0;
    memset(free_place, 0, (size_t)b->groups * sizeof *free_place);
    for (int64_t i = 0; i < b->rows; i++)
        free_place[b->codes[i]]++;
    for (int64_t i = 0; i < b->groups; i++) {
        const uint32_t size = free_place[i];
        free_place[i] = place;
        place += size;
    }
    for (int64_t i = 0; i < b->rows; i++)
        b->places[i] = free_place[b->codes[i]]++;
    return 1;
}

/* How large an arena the columns need; then, with that arena, what is found of each column, and of how many. Both are
 * aligned to 8. `found` has room for each column of the table, and behind that for 16 bytes a row to work in. -1 where
 * numpy decides. */
EXPORT int64_t nodetap_unpack(const struct table *table, const uint8_t *body, int64_t size, int64_t rows,
                              uint8_t *arena, int64_t arena_size, struct found *found) {
    static const uint64_t zero = 0;
    struct batch b = {.table = table, .body = body, .end = body + size, .rows = rows, .arena = arena, .size = arena_size};
    if (!find(&b))
        return -1;
    if (arena) {
        b.lanes = (uint64_t *)(found + table->count);
        b.codes = (uint32_t *)(b.lanes + rows), b.places = b.codes + rows;
        if (b.where[table->count] && !find_groups(&b))
            return -1;
    }
    int64_t count = 0;
    for (int64_t k = 0; k < table->count; k++) {
        b.columns[k] = (struct column){(const uint8_t *)&zero, table->columns[k].width, 1};
        if (!b.where[k])
            continue;
        struct found one = {.column = k};
        if (!column(&b, &one))
            return -1;
        if (arena)
            found[count++] = one;
    }
    return arena ? count : b.used;
}

#define TEXT_OF(n) #n
#define NUMBER_OF(n) TEXT_OF(n)
#define WIRE_WORD(name, number) " " #number "." #name
#define ENCODING_WORD(name, word, parts, rank) " " word "=" #parts "/" #rank

/* What is said here and in Python, for protocol.compiled to compare. */
EXPORT const char *nodetap_words(void) {
    return "max_bases=" NUMBER_OF(MAX_BASES) " groups=" NAMED_GROUPS WIRES(WIRE_WORD) ENCODINGS(ENCODING_WORD);
}

/* What protocol.built.digest says of the sources that this was built of. */
EXPORT uint32_t nodetap_source(void) { return NODETAP_SOURCE; }
