/* Unpacks damaged bodies, each in memory of just its size: to be compiled with sanitizers beside protocol/kernel.
 *
 *     unpack_hostile TABLES BODIES COUNT
 *
 * All numbers are 8 bytes, of this machine. TABLES are tables one after the other: the members of `struct table` behind
 * its pointers, the specs, the bytes of the names and how many. BODIES are a table's number, rows and a size, each with
 * so many bytes. Each body is taken as it is once, then damaged anew COUNT / bodies times.
 */
#include "../../protocol/kernel/table.h"
#include "../hostile.h"

#define TABLES 3
#define FOUND 9 /* words of `struct found` */

int64_t nodetap_unpack(const struct table *table, const uint8_t *body, int64_t size, int64_t rows, uint8_t *arena,
                       int64_t arena_size, void *found);

static int64_t number(const uint8_t **at) {
    int64_t value;
    memcpy(&value, *at, sizeof value);
    *at += sizeof value;
    return value;
}

static struct table table_of(const uint8_t **at) {
    struct table t = {0};
    int64_t *limits[] = {&t.count,       &t.max_rows, &t.max_values, &t.max_depth, &t.max_string,
                         &t.max_strings, &t.max_text, &t.max_dict,   &t.max_items};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        *limits[i] = number(at);
    struct spec *specs = malloc((size_t)t.count * sizeof *specs);
    memcpy(specs, *at, (size_t)t.count * sizeof *specs);
    *at += (size_t)t.count * sizeof *specs;
    t.columns = specs;
    const size_t size = (size_t)number(at);
    uint8_t *names = malloc(size);
    memcpy(names, *at, size);
    *at += size;
    t.names = names;
    return t;
}

static const uint8_t firsts[] = {0x00, 0x01, 0x02, 0x04, 0x08, 0x10, 0x7F, 0x80, 0x90, 0x93, 0xA0, 0xA3, 0xC0, 0xC1, 0xC4,
                                0xC5, 0xC6, 0xCC, 0xCD, 0xCF, 0xD0, 0xD3, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xFF};

/* Most of what counts stands at the beginning of columns: small changes near each other. */
static void damage(uint8_t *body, int64_t size) {
    for (uint64_t changes = 1 + chance(4); size && changes; changes--) {
        const uint64_t at = chance((uint64_t)size);
        const uint64_t what = chance(4);
        if (what == 0)
            body[at] ^= (uint8_t)(1 << chance(8));
        else if (what == 1)
            body[at] = firsts[chance(sizeof firsts)];
        else if (what == 2)
            body[at] = (uint8_t)(body[at] + 1 - 2 * chance(2));
        else
            memmove(body + at, body + chance((uint64_t)size - at) + at, 1);
    }
}

/* How many columns are found, -1 where the body is left to Python. */
static int64_t unpack(const struct table *t, const uint8_t *body, int64_t size, int64_t rows) {
    const int64_t wanted = nodetap_unpack(t, body, size, rows, 0, 0, 0);
    if (wanted < 0)
        return wanted;
    uint8_t *arena = malloc(wanted ? (size_t)wanted : 1);
    int64_t *found = malloc((size_t)(t->count * FOUND * 8 + rows * 16));
    const int64_t count = nodetap_unpack(t, body, size, rows, arena, wanted, found);
    if (count < -1 || count > t->count)
        abort();
    for (int64_t i = 0; i < count; i++) {
        const int64_t *one = found + i * FOUND, at = one[1] < 0 ? ~one[1] : one[1] + rows - 1;
        if (at >= wanted || 2 * one[3] > wanted || 4 * one[4] > wanted || one[5] + one[6] > wanted ||
            one[7] + one[8] > size)
            abort();
    }
    free(arena);
    free(found);
    return count;
}

int main(int argc, char **argv) {
    size_t size;
    const uint8_t *at = contents(argv[argc - 3], &size);
    struct table tables[TABLES];
    for (int i = 0; i < TABLES; i++)
        tables[i] = table_of(&at);
    const uint8_t *bodies = contents(argv[argc - 2], &size), *end = bodies + size;
    long done = 0, taken = 0;
    const long count = atol(argv[argc - 1]);
    for (int sound = 1; done < count; sound = 0) {
        for (at = bodies; at < end && done < count; done++) {
            const struct table *t = &tables[number(&at)];
            int64_t rows = number(&at), length = number(&at);
            uint8_t *body = malloc((size_t)length);
            memcpy(body, at, (size_t)length);
            at += length;
            if (!sound) {
                damage(body, length);
                if (!chance(8))
                    body = realloc(body, (size_t)(length = 1 + (int64_t)chance((uint64_t)length)));
                if (!chance(16))
                    rows = (int64_t)chance(2 * (uint64_t)rows);
            }
            const int64_t found = unpack(t, body, length, rows);
            if (sound && found < 1)
                abort();
            taken += found >= 0;
            free(body);
        }
    }
    printf("%ld bodies, %ld taken\n", done, taken);
    return 0;
}
