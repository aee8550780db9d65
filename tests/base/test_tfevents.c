/* base/tfevents: read back by a small decoder of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/tfevents.h"
#include "tests/support/temp_dir.h"

static struct temp_dir tmp;

static int begin(void **state)
{
    temp_dir_begin(&tmp);
    return 0;
}

static int end(void **state)
{
    temp_dir_end(&tmp);
    return 0;
}

/* RFC 3720, B.4, and the common check value. */
static void crc_vectors(void **state)
{
    unsigned char s[32];
    assert_int_equal(crc32c("123456789", 9), 0xe3069283);
    assert_int_equal(crc32c("", 0), 0);
    memset(s, 0, 32);
    assert_int_equal(crc32c(s, 32), 0x8a9136aa);
    memset(s, 0xff, 32);
    assert_int_equal(crc32c(s, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++) s[i] = (unsigned char)i;
    assert_int_equal(crc32c(s, 32), 0x46dd794e);
}

/* A field of a protocol buffer message: for wire types 1 and 5 `data` is the value, for 0 `number`. */
struct field {
    int number, wire;
    uint64_t value;
    const unsigned char *data;
    size_t len;
};

static uint64_t varint(const unsigned char **p, const unsigned char *stop)
{
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        assert_true(*p < stop && shift < 64);
        unsigned char c = *(*p)++;
        v |= (uint64_t)(c & 127) << shift;
        if (c < 128) return v;
    }
}

/* The field `number` of a message; fails where it is missing, twice there, or the message is malformed. */
static struct field get(const unsigned char *p, size_t len, int number)
{
    struct field found = {0};
    for (const unsigned char *stop = p + len; p < stop;) {
        uint64_t key = varint(&p, stop);
        struct field f = {.number = (int)(key >> 3), .wire = (int)(key & 7)};
        if (f.wire == 0) {
            f.value = varint(&p, stop);
        } else {
            f.len = f.wire == 1 ? 8 : f.wire == 5 ? 4 : f.wire == 2 ? varint(&p, stop) : SIZE_MAX;
            assert_true(f.len <= (size_t)(stop - p));
            f.data = p;
            p += f.len;
        }
        if (f.number != number) continue;
        assert_int_equal(found.number, 0);
        found = f;
    }
    assert_int_equal(found.number, number);
    return found;
}

static struct field in(struct field f, int number)
{
    return get(f.data, f.len, number);
}

static void is_text(struct field f, const char *want)
{
    assert_int_equal(f.len, strlen(want));
    assert_memory_equal(f.data, want, f.len);
}

static uint32_t unmasked(const unsigned char *p)
{
    uint32_t m;
    memcpy(&m, p, 4);
    m -= 0xa282ead8u;
    return m >> 17 | m << 15;
}

/* Splits TFRecords and checks their sums; returns how many there are. */
static int records(const unsigned char *p, size_t len, struct field *event, int most)
{
    int n = 0;
    while (len) {
        uint64_t size;
        assert_true(len >= 16 && n < most);
        memcpy(&size, p, 8);
        assert_int_equal(unmasked(p + 8), crc32c(p, 8));
        assert_true(size <= len - 16);
        assert_int_equal(unmasked(p + 12 + size), crc32c(p + 12, size));
        event[n++] = (struct field){.data = p + 12, .len = size};
        p += 16 + size;
        len -= 16 + size;
    }
    return n;
}

/* The bytes of the only file in the folder. */
static unsigned char *only_file(size_t *len)
{
    char **names, *data, path[400];
    int n;
    struct err e = {0};
    assert_int_equal(file_list(tmp.path, &names, &n, &e), 0);
    assert_int_equal(n, 1);
    assert_int_equal(strncmp(names[0], "events.out.tfevents.", 20), 0);
    snprintf(path, sizeof path, "%s/%s", tmp.path, names[0]);
    file_list_free(names, n);
    assert_int_equal(file_read(path, 1 << 20, &data, len, &e), 0);
    return (unsigned char *)data;
}

static void events_read_back(void **state)
{
    struct err e = {0};
    struct tfevents *t;
    double before = (double)time(NULL);
    assert_int_equal(tfevents_open(tmp.path, &t, &e), 0);
    assert_int_equal(tfevents_scalar(t, "loss/train", 300, 1.284, &e), 0);
    assert_int_equal(tfevents_scalar(t, "bad \xff", -1, NAN, &e), 0);
    assert_int_equal(tfevents_text(t, "config", 0, "name: emoji\n", &e), 0);
    unsigned char png[300] = {0x89, 'P', 'N', 'G'};
    assert_int_equal(tfevents_image(t, "batch", 1LL << 40, png, sizeof png, 64, 200, &e), 0);
    size_t len;
    unsigned char *data = only_file(&len); /* all is there before the close */
    struct field event[8];
    assert_int_equal(records(data, len, event, 8), 5);
    is_text(in(event[0], 3), "brain.Event:2");
    for (int i = 0; i < 5; i++) {
        double wall;
        memcpy(&wall, in(event[i], 1).data, 8);
        assert_true(wall >= before && wall < before + 60);
    }
    struct field v = in(in(event[1], 5), 1);
    float x;
    assert_int_equal(in(event[1], 2).value, 300);
    is_text(in(v, 1), "loss/train");
    assert_int_equal(in(v, 2).wire, 5);
    memcpy(&x, in(v, 2).data, 4);
    assert_true(x == 1.284f);
    v = in(in(event[2], 5), 1);
    assert_true((int64_t)in(event[2], 2).value == -1);
    is_text(in(v, 1), "bad \xef\xbf\xbd");
    memcpy(&x, in(v, 2).data, 4);
    assert_true(isnan(x));
    v = in(in(event[3], 5), 1);
    is_text(in(in(in(v, 9), 1), 1), "text");
    struct field tensor = in(v, 8);
    assert_int_equal(in(tensor, 1).value, 7);
    assert_int_equal(in(in(in(tensor, 2), 2), 1).value, 1);
    is_text(in(tensor, 8), "name: emoji\n");
    assert_true(in(event[4], 2).value == 1ULL << 40);
    struct field image = in(in(in(event[4], 5), 1), 4);
    assert_int_equal(in(image, 1).value, 200);
    assert_int_equal(in(image, 2).value, 64);
    assert_int_equal(in(image, 4).len, sizeof png);
    assert_memory_equal(in(image, 4).data, png, sizeof png);
    free(data);
    tfevents_close(t);
    tfevents_close(NULL);
}

static void every_open_is_a_new_file(void **state)
{
    struct err e = {0};
    for (int i = 0; i < 4; i++) { /* within one second, mostly */
        struct tfevents *t;
        assert_int_equal(tfevents_open(tmp.path, &t, &e), 0);
        tfevents_close(t);
    }
    char **names;
    int n;
    assert_int_equal(file_list(tmp.path, &names, &n, &e), 0);
    assert_int_equal(n, 4);
    file_list_free(names, n);
    struct tfevents *t;
    assert_int_equal(tfevents_open(temp_path(&tmp, "none"), &t, &e), ERR_IO);
    assert_null(t);
}

static void a_full_disk_leaves_whole_records(void **state)
{
    struct err e = {0};
    struct tfevents *t;
    assert_int_equal(tfevents_open(tmp.path, &t, &e), 0);
    assert_int_equal(tfevents_scalar(t, "a", 1, 1, &e), 0);
    struct rlimit was, small;
    getrlimit(RLIMIT_FSIZE, &was);
    small = was;
    small.rlim_cur = 200; /* the record would end beyond it */
    signal(SIGXFSZ, SIG_IGN);
    char text[1000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    setrlimit(RLIMIT_FSIZE, &small);
    int rc = tfevents_text(t, "long", 2, text, &e);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_int_equal(rc, ERR_IO);
    err_clear(&e);
    assert_int_equal(tfevents_scalar(t, "b", 3, 1, &e), 0);
    tfevents_close(t);
    size_t len;
    unsigned char *data = only_file(&len);
    struct field event[8];
    assert_int_equal(records(data, len, event, 8), 3);
    assert_int_equal(in(event[2], 2).value, 3);
    free(data);
}

#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_vectors),
        T(events_read_back),
        T(every_open_is_a_new_file),
        T(a_full_disk_leaves_whole_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
