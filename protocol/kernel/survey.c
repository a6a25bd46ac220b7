/* A look over msgpack before it is built: protocol.survey, which is the reference and says what is wrong. */
#include "msgpack.h"

#define DEEPEST 64

/* How many values there are, in exactly one that holds all others: at most `values`, `depth` containers in each other,
 * `string` bytes in one string and `strings` in all. -1 beyond a limit, and where it is anything else. */
EXPORT int64_t nodetap_survey(const uint8_t *data, int64_t size, int64_t values, int64_t depth, int64_t string,
                              int64_t strings) {
    struct reader r = {data, data + size};
    uint64_t open[DEEPEST + 1] = {1}, count = 1, text = 0; /* open: values still to come, per container we are in */
    for (int64_t level = 0; level >= 0;) {
        const struct value v = next(&r);
        open[level]--;
        if (v.kind == WRONG)
            return -1;
        if (v.kind == LIST || v.kind == MAP) {
            if (++level > depth || level > DEEPEST)
                return -1;
            open[level] = v.kind == MAP ? 2 * v.number : v.number;
            count += open[level];
        } else if (v.kind == STRING) {
            text += v.number;
            if (v.number > (uint64_t)string)
                return -1;
        }
        if (count > (uint64_t)values || text > (uint64_t)strings)
            return -1;
        while (level >= 0 && !open[level])
            level--;
    }
    return r.at == r.end ? (int64_t)count : -1;
}
