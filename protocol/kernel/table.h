/* What Python tells of a table. */
#ifndef NODETAP_TABLE_H
#define NODETAP_TABLE_H

#include "msgpack.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "what is on the wire is little-endian, and is taken as it lies"
#endif

/* What a column holds: protocol.compiled. */
#define WIRES(X) X(INTEGER, 0) X(ADDRESS, 1) X(DICT, 2) X(TEXT, 3) X(LISTS, 4) X(TEXTS, 5) X(MAPS, 6)
#define WIRE(name, number) name = number,
enum wire { WIRES(WIRE) };
#undef WIRE

/* One column of protocol.schema, as protocol.compiled fills it in: every member is 8 bytes wide. */
struct spec {
    int64_t name, length; /* where its name begins in `names`, bytes */
    int64_t wire;         /* enum wire */
    int64_t width;        /* bytes of a value; of several a row, of each */
};

/* A table and the limits of protocol.columns and protocol.limits. */
struct table {
    const uint8_t *names;
    const struct spec *columns;
    int64_t count; /* columns, at most MOST */
    int64_t max_rows, max_values, max_depth, max_string, max_strings, max_text, max_dict, max_items;
};

#define MOST 128 /* columns of a table */

/* survey.c */
int64_t nodetap_survey(const uint8_t *data, int64_t size, int64_t values, int64_t depth, int64_t string, int64_t strings);

#endif
