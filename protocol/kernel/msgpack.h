/* Values of msgpack, one after the other: https://github.com/msgpack/msgpack/blob/master/spec.md */
#ifndef NODETAP_MSGPACK_H
#define NODETAP_MSGPACK_H

#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct reader {
    const uint8_t *at, *end;
};

/* Whether `n` more bytes are there: asked before each byte that is read. */
#define HAS(reader, n) ((uint64_t)((reader)->end - (reader)->at) >= (uint64_t)(n))

enum kind { WRONG, NUMBER, BYTES, STRING, LIST, MAP, OTHER }; /* other: null, truth, fractions, numbers below zero */

/* `number` is the integer itself, or how many bytes, items or pairs there are; only bytes and strings have `bytes`. */
struct value {
    enum kind kind;
    uint64_t number;
    const uint8_t *bytes;
};

/* By first byte: what begins, bytes of the number that follows, and the bits of the byte that are one. */
static const struct {
    uint8_t kind, size, mask;
} heads[256] = {
    [0x00 ... 0x7F] = {NUMBER, 0, 0x7F}, [0x80 ... 0x8F] = {MAP, 0, 0x0F}, [0x90 ... 0x9F] = {LIST, 0, 0x0F},
    [0xA0 ... 0xBF] = {STRING, 0, 0x1F}, [0xC0] = {OTHER, 0, 0}, [0xC2] = {OTHER, 0, 0}, [0xC3] = {OTHER, 0, 0},
    [0xC4] = {BYTES, 1, 0}, [0xC5] = {BYTES, 2, 0}, [0xC6] = {BYTES, 4, 0}, [0xCA] = {OTHER, 4, 0},
    [0xCB] = {OTHER, 8, 0}, [0xCC] = {NUMBER, 1, 0}, [0xCD] = {NUMBER, 2, 0}, [0xCE] = {NUMBER, 4, 0},
    [0xCF] = {NUMBER, 8, 0}, [0xD0] = {NUMBER, 1, 0}, [0xD1] = {NUMBER, 2, 0}, [0xD2] = {NUMBER, 4, 0},
    [0xD3] = {NUMBER, 8, 0}, [0xD9] = {STRING, 1, 0}, [0xDA] = {STRING, 2, 0}, [0xDB] = {STRING, 4, 0},
    [0xDC] = {LIST, 2, 0}, [0xDD] = {LIST, 4, 0}, [0xDE] = {MAP, 2, 0}, [0xDF] = {MAP, 4, 0},
    [0xE0 ... 0xFF] = {OTHER, 0, 0},
};

/* The next value, or the head of a list or map; WRONG where it is cut, and where it is an extension. */
static inline struct value next(struct reader *r) {
    struct value v = {WRONG, 0, 0};
    if (!HAS(r, 1))
        return v;
    const unsigned head = *r->at++, size = heads[head].size;
    if (!HAS(r, size))
        return v;
    v.number = head & heads[head].mask;
    for (unsigned i = 0; i < size; i++)
        v.number = v.number << 8 | r->at[i];
    v.kind = heads[head].kind;
    if (head >= 0xD0 && head <= 0xD3 && *r->at & 0x80) /* signed */
        v.kind = OTHER;
    r->at += size;
    if (v.kind == BYTES || v.kind == STRING) {
        if (!HAS(r, v.number))
            return (struct value){WRONG, 0, 0};
        v.bytes = r->at;
        r->at += v.number;
    }
    return v;
}

#endif
