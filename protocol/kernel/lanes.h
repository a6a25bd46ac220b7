/* Values of one width, LANE: included once for each. All is counted modulo 2 to its bits. */
#define PASTE(a, b) a##_##b
#define GLUE(a, b) PASTE(a, b)
#define NAME(name) GLUE(name, LANE)

#define WIDEN(type) \
    for (int64_t i = 0; i < n; i++) { \
        type value; \
        memcpy(&value, a->bytes + i * (int64_t)sizeof value, sizeof value); \
        out[i] = (LANE)value; \
    }

static void NAME(leaf)(const struct array *a, int64_t n, LANE *out) {
    if (a->ways & CONST) {
        LANE value;
        memcpy(&value, a->bytes, sizeof value);
        for (int64_t i = 0; i < n; i++)
            out[i] = value;
    } else if (a->ways & PLANES) {
        for (int64_t i = 0; i < n; i++)
            out[i] = a->bytes[i];
        for (uint64_t plane = 1; plane < a->width; plane++) {
            const uint8_t *bytes = a->bytes + (int64_t)plane * n;
            for (int64_t i = 0; i < n; i++)
                out[i] |= (LANE)((uint64_t)bytes[i] << 8 * plane);
        }
    } else if (a->width == sizeof(LANE)) {
        if (n)
            memcpy(out, a->bytes, (size_t)n * sizeof(LANE));
    } else if (a->width == 1) {
        WIDEN(uint8_t)
    } else if (a->width == 2) {
        WIDEN(uint16_t)
    } else {
        WIDEN(uint32_t)
    }
}

/* What is inside of `group`, `sorted` and `from`. */
static void NAME(run)(const struct array *a, int64_t n, LANE *out) {
    const int steps = (a->ways & DELTA) != 0;
    LANE *values = out + steps;
    n -= steps;
    NAME(leaf)(a, n, values);
    if (a->ways & ZIGZAG)
        for (int64_t i = 0; i < n; i++)
            values[i] = (LANE)((values[i] >> 1) ^ (LANE)(0 - (uint64_t)(values[i] & 1)));
    if (a->ways & TIMES)
        for (int64_t i = 0; i < n; i++)
            values[i] = (LANE)(values[i] * a->unit);
    if (steps) {
        LANE value = *out = (LANE)a->first;
        for (int64_t i = 0; i < n; i++)
            values[i] = value = (LANE)(value + values[i]);
    }
}

/* ~(~x + y) is x - y. */
#define ADD(type) \
    if (base->one) { \
        const LANE value = (LANE)(*(const type *)base->at); \
        for (int64_t i = 0; i < n; i++) \
            out[i] = (LANE)((LANE)((out[i] ^ flip) + value) ^ flip); \
    } else { \
        const type *values = (const type *)base->at; \
        for (int64_t i = 0; i < n; i++) \
            out[i] = (LANE)((LANE)((out[i] ^ flip) + (LANE)values[i]) ^ flip); \
    }

static void NAME(add)(const struct column *base, LANE flip, int64_t n, LANE *out) {
    switch (base->width) {
    case 1: ADD(uint8_t) break;
    case 2: ADD(uint16_t) break;
    case 4: ADD(uint32_t) break;
    default: ADD(uint64_t)
    }
}

static void NAME(decode)(const struct array *a, const struct batch *b, int64_t n, LANE *out) {
    LANE *values = a->ways & (GROUP | SORTED) ? (LANE *)b->lanes : out;
    NAME(run)(a, a->ways & GROUP ? b->groups : n, values);
    if (a->ways & (GROUP | SORTED)) {
        const uint32_t *index = a->ways & GROUP ? b->codes : b->places;
        for (int64_t i = 0; i < n; i++)
            out[i] = values[index[i]];
    }
    for (int64_t i = 0; i < a->plus.count; i++)
        NAME(add)(&b->columns[a->plus.columns[i]], 0, n, out);
    for (int64_t i = 0; i < a->minus.count; i++)
        NAME(add)(&b->columns[a->minus.columns[i]], (LANE)-1, n, out);
}

#undef ADD
#undef WIDEN
#undef NAME
#undef GLUE
#undef PASTE
