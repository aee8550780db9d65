/* base/safetensors: bytes as the reference implementation writes them, every type, and a table of damaged files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "base/buf.h"
#include "base/safetensors.h"
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

static const float a_data[6] = {1, -2, 3.5f, 0, 1e-40f, INFINITY};
static const int64_t b_data[2] = {-5, INT64_MAX}, a_dim[2] = {2, 3}, b_dim[1] = {2}, none_dim[2] = {0, 4};
static const uint8_t c_data[3] = {1, 2, 255};
static const int64_t c_dim[1] = {3};
static const struct st_item items[] = {
    {"image.weight", ST_F32, 2, a_dim, a_data}, {"step", ST_I64, 1, b_dim, b_data},
    {"bytes", ST_U8, 1, c_dim, c_data},         {"none", ST_F16, 2, none_dim, NULL},
    {"scalar", ST_F32, 0, NULL, a_data + 2},
};

/* Laid out as the reference does: the wider types first, then by name; the header padded with spaces to 8 bytes. */
static void bytes_are_the_reference_ones(void **state)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"step\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]},"
                                 "\"image.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[16,40]},"
                                 "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[40,44]},"
                                 "\"none\":{\"dtype\":\"F16\",\"shape\":[0,4],\"data_offsets\":[44,44]},"
                                 "\"bytes\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[44,47]}}";
    const struct st_meta meta = {"format", "pt"};
    struct err e = {0};
    assert_int_equal(st_write(temp_path(&tmp, "a.safetensors"), items, 5, &meta, 1, &e), 0);
    char *data;
    size_t len, head = (sizeof header - 1 + 7) / 8 * 8;
    assert_int_equal(file_read(temp_path(&tmp, "a.safetensors"), 10000, &data, &len, &e), 0);
    assert_int_equal(len, 8 + head + 47);
    assert_memory_equal(data, (uint64_t[]){head}, 8);
    assert_memory_equal(data + 8, header, sizeof header - 1);
    for (size_t i = sizeof header - 1; i < head; i++) assert_int_equal(data[8 + i], ' ');
    assert_memory_equal(data + 8 + head, b_data, 16);
    assert_memory_equal(data + 8 + head + 16, a_data, 24);
    assert_memory_equal(data + 8 + head + 44, c_data, 3);
    free(data);
}

static void reads_back(void **state)
{
    const struct st_meta meta[] = {{"name", "emoji \"é\"\n"}, {"format", "pt"}};
    const char *path = temp_path(&tmp, "a.safetensors");
    struct err e = {0};
    struct st_file *f;
    assert_int_equal(st_write(path, items, 5, meta, 2, &e), 0);
    assert_int_equal(st_open(path, &f, &e), 0);
    assert_int_equal(st_count(f), 5);
    static const char *const order[] = {"bytes", "image.weight", "none", "scalar", "step"};
    for (int i = 0; i < 5; i++) assert_string_equal(st_at(f, i)->name, order[i]);
    assert_string_equal(st_metadata(f, "name"), meta[0].value);
    assert_null(st_metadata(f, "other"));
    assert_null(st_find(f, "image"));
    assert_null(st_find(f, "__metadata__"));
    assert_string_equal(st_nearest(f, "image.wieght")->name, "image.weight");
    assert_null(st_nearest(f, "quite different"));
    const struct st_tensor *t = st_find(f, "image.weight");
    assert_true(t->dtype == ST_F32 && t->rank == 2 && t->dim[0] == 2 && t->dim[1] == 3 && t->count == 6);
    float x[6];
    assert_int_equal(st_read_f32(f, t, x, &e), 0);
    assert_memory_equal(x, a_data, sizeof x);
    int64_t k[3];
    assert_int_equal(st_read_i64(f, st_find(f, "step"), k, &e), 0);
    assert_memory_equal(k, b_data, 16);
    assert_int_equal(st_read_i64(f, st_find(f, "bytes"), k, &e), 0);
    assert_int_equal(k[2], 255);
    assert_int_equal(st_find(f, "none")->count, 0);
    assert_int_equal(st_find(f, "scalar")->count, 1);
    assert_int_equal(st_read_f32(f, st_find(f, "step"), x, &e), ERR_SHAPE);
    assert_non_null(strstr(e.msg, "a.safetensors: tensor 'step' holds I64; expected F64, F32, F16 or BF16"));
    err_clear(&e);
    assert_int_equal(st_read_i64(f, t, k, &e), ERR_SHAPE);
    st_close(f);
    st_close(NULL);
}

/* A file from a header and `n` bytes of data. */
static struct buf make(const char *header, const void *data, size_t n)
{
    struct buf b = {0};
    uint64_t len = strlen(header);
    buf_add(&b, &len, 8);
    buf_str(&b, header);
    buf_add(&b, data, n);
    return b;
}

static void every_type_converts(void **state)
{
    static const struct {
        const char *dtype;
        uint8_t bytes[8];
        size_t size;
        double want;
    } rows[] = {
        {"F64", {0, 0, 0, 0, 0, 0, 4, 0xc0}, 8, -2.5},
        {"F32", {0, 0, 0x20, 0xc0}, 4, -2.5},
        {"F16", {0, 0xc1}, 2, -2.5},
        {"BF16", {0x20, 0xc0}, 2, -2.5},
        {"I64", {0xfe, 255, 255, 255, 255, 255, 255, 255}, 8, -2},
        {"I32", {0xfe, 255, 255, 255}, 4, -2},
        {"U32", {0xfe, 255, 255, 255}, 4, 4294967294.},
        {"I16", {0xfe, 255}, 2, -2},
        {"U16", {0xfe, 255}, 2, 65534},
        {"I8", {0xfe}, 1, -2},
        {"U8", {0xfe}, 1, 254},
        {"BOOL", {1}, 1, 1},
        {"U64", {9}, 8, 9},
    };
    assert_int_equal(sizeof rows / sizeof *rows, ST_DTYPE_COUNT);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char header[200];
        snprintf(header, sizeof header, "{\"x\":{\"dtype\":\"%s\",\"shape\":[1,1],\"data_offsets\":[0,%zu]}} ",
                 rows[i].dtype, rows[i].size);
        struct buf b = make(header, rows[i].bytes, rows[i].size);
        struct err e = {0};
        struct st_file *f;
        assert_int_equal(st_open_memory(b.data, b.len, "memory", &f, &e), 0);
        const struct st_tensor *t = st_find(f, "x");
        assert_string_equal(st_dtype_name(t->dtype), rows[i].dtype);
        float x = 0;
        int64_t k = 0;
        bool real = strchr(rows[i].dtype, 'F') != NULL;
        assert_int_equal(st_read_f32(f, t, &x, &e), real ? 0 : ERR_SHAPE);
        err_clear(&e);
        assert_int_equal(st_read_i64(f, t, &k, &e), real ? ERR_SHAPE : 0);
        assert_true(real ? x == (float)rows[i].want : (double)k == rows[i].want);
        st_close(f);
        buf_free(&b);
    }
    uint8_t big[8] = {0, 0, 0, 0, 0, 0, 0, 0x80};
    struct buf b = make("{\"x\":{\"dtype\":\"U64\",\"shape\":[1],\"data_offsets\":[0,8]}}", big, 8);
    struct err e = {0};
    struct st_file *f;
    int64_t k;
    assert_int_equal(st_open_memory(b.data, b.len, "memory", &f, &e), 0);
    assert_int_equal(st_read_i64(f, st_at(f, 0), &k, &e), ERR_SHAPE);
    st_close(f);
    buf_free(&b);
}

#define X(shape, offsets) "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void damaged_headers(void **state)
{
    static const struct {
        const char *header;
        size_t data;
        const char *says;
    } rows[] = {
        {"", 0, "beginning with '{'"},
        {"[]", 0, "beginning with '{'"},
        {" {}", 0, "beginning with '{'"},
        {"{", 0, "not sound JSON"},
        {"{}x", 0, "not sound JSON"},
        {"{\"a\":" X("[1]", "[0,4]") ",\"a\":" X("[1]", "[0,4]") "}", 4, "duplicate"},
        {"{\"\xff\":" X("[1]", "[0,4]") "}", 4, "not sound JSON"},
        {"{\"a\\u0000b\":" X("[1]", "[0,4]") "}", 4, "not sound JSON"},
        {"{\"a\":3}", 0, "tensor 'a': expected a dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor 'a': expected a dtype"},
        {"{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor 'a': expected a dtype"},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'F31' is not supported"},
        {"{\"a\":" X("[1]", "[0,4,8]") "}", 4, "two data_offsets"},
        {"{\"a\":" X("[-1]", "[0,4]") "}", 4, "dimension 0"},
        {"{\"a\":" X("[1.0]", "[0,4]") "}", 4, "dimension 0"},
        {"{\"a\":" X("[1,\"2\"]", "[0,4]") "}", 4, "dimension 1"},
        {"{\"a\":" X("[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "9 dimensions"},
        {"{\"a\":" X("[4294967296,4294967296]", "[0,0]") "}", 0, "more elements than can be counted"},
        {"{\"a\":" X("[4611686018427387904]", "[0,0]") "}", 0, "more elements than can be counted"},
        {"{\"a\":" X("[99999999999999999999]", "[0,0]") "}", 0, "not sound JSON"},
        {"{\"a\":" X("[2]", "[0,8]") "}", 4, "not within the 4 bytes"},
        {"{\"a\":" X("[1]", "[-4,0]") "}", 4, "not within"},
        {"{\"a\":" X("[1]", "[4,0]") "}", 4, "not within"},
        {"{\"a\":" X("[1]", "[0,4.0]") "}", 4, "not within"},
        {"{\"a\":" X("[1]", "[0,8]") "}", 8, "need 4 bytes, data_offsets give 8"},
        {"{\"a\":" X("[3]", "[0,8]") "}", 8, "need 12 bytes"},
        {"{\"a\":" X("[1]", "[0,4]") ",\"b\":" X("[1]", "[0,4]") "}", 4, "neither overlap nor leave a gap"},
        {"{\"a\":" X("[2]", "[0,8]") ",\"b\":" X("[2]", "[4,12]") "}", 12, "neither overlap nor leave a gap"},
        {"{\"a\":" X("[1]", "[0,4]") ",\"b\":" X("[1]", "[8,12]") "}", 12, "neither overlap nor leave a gap"},
        {"{\"a\":" X("[1]", "[4,8]") "}", 8, "neither overlap nor leave a gap"},
        {"{\"a\":" X("[1]", "[0,4]") "}", 5, "end at byte 4 of the data, which has 5"},
        {"{}", 1, "end at byte 0"},
        {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
        {"{\"__metadata__\":{\"k\":1}}", 0, "'k' is not a string"},
    };
    char data[16] = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b = make(rows[i].header, data, rows[i].data);
        struct err e = {0};
        struct st_file *f;
        int rc = st_open_memory(b.data, b.len, "m.safetensors", &f, &e);
        if (rc != ERR_FORMAT || f || !strstr(e.msg, rows[i].says) || strncmp(e.msg, "m.safetensors: ", 15) != 0)
            fail_msg("%s: code %d, message '%s'", rows[i].header, rc, e.msg);
        buf_free(&b);
    }
}

static void sound_edges(void **state)
{
    static const struct {
        const char *header;
        size_t data;
        int count;
    } rows[] = {{"{}", 0, 0},
                {"{}      \n", 0, 0},
                {"{\"__metadata__\":{}}", 0, 0},
                {"{\"a\":" X("[0]", "[0,0]") ",\"b\":" X("[1]", "[0,4]") ",\"c\":" X("[0,9]", "[4,4]") "}", 4, 3},
                {"{\"\":" X("[]", "[0,4]") "}", 4, 1}};
    char data[16] = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b = make(rows[i].header, data, rows[i].data);
        struct err e = {0};
        struct st_file *f;
        if (st_open_memory(b.data, b.len, "m", &f, &e)) fail_msg("%s: %s", rows[i].header, e.msg);
        assert_int_equal(st_count(f), rows[i].count);
        st_close(f);
        buf_free(&b);
    }
}

/* Cut at every length a file is refused; with any one byte changed it is refused or read, but nothing breaks. */
static void cut_and_changed_files(void **state)
{
    const char *path = temp_path(&tmp, "a.safetensors");
    struct err e = {0};
    struct st_file *f;
    char *data;
    size_t len;
    assert_int_equal(st_write(path, items, 5, NULL, 0, &e), 0);
    assert_int_equal(file_read(path, 10000, &data, &len, &e), 0);
    for (size_t n = 0; n < len; n++) {
        char *part = malloc(n + !n); /* of its own, so that a sanitizer sees a read past its end */
        memcpy(part, data, n);
        err_clear(&e);
        if (st_open_memory(part, n, "cut", &f, &e) != ERR_FORMAT) fail_msg("%zu bytes", n);
        free(part);
    }
    for (size_t i = 0; i < len; i++)
        for (int bit = 0; bit < 8; bit++) {
            data[i] ^= (char)(1 << bit);
            err_clear(&e);
            int rc = st_open_memory(data, len, "changed", &f, &e);
            assert_true(rc == 0 || rc == ERR_FORMAT);
            for (int k = 0; rc == 0 && k < st_count(f); k++) {
                float x[64];
                struct err again = {0};
                if (st_at(f, k)->count <= 64) assert_true(st_read_f32(f, st_at(f, k), x, &again) <= 0);
            }
            st_close(f);
            data[i] ^= (char)(1 << bit);
        }
    free(data);
    err_clear(&e);
    assert_int_equal(st_open(temp_path(&tmp, "none"), &f, &e), ERR_IO);
    assert_null(f);
    err_clear(&e);
    assert_int_equal(st_open(tmp.path, &f, &e), ERR_IO);
    err_clear(&e);
    assert_int_equal(file_write(temp_path(&tmp, "empty"), "", 0, &e), 0);
    assert_int_equal(st_open(temp_path(&tmp, "empty"), &f, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "it has 0 bytes"));
}

static void wrong_things_to_write(void **state)
{
    const char *path = temp_path(&tmp, "a.safetensors");
    const int64_t huge[2] = {INT64_MAX, 2};
    const struct st_item wrong[][2] = {
        {{"a", ST_F32, 0, NULL, a_data}, {"a", ST_F32, 0, NULL, a_data}},
        {{"a", ST_F32, 0, NULL, a_data}, {"\xff", ST_F32, 0, NULL, a_data}},
        {{"a", ST_F32, 0, NULL, a_data}, {"__metadata__", ST_F32, 0, NULL, a_data}},
        {{"a", ST_F32, 0, NULL, a_data}, {"b", ST_F32, 2, huge, a_data}},
    };
    for (int i = 0; i < 4; i++) {
        struct err e = {0};
        assert_int_equal(st_write(path, wrong[i], 2, NULL, 0, &e), ERR_FORMAT);
        assert_non_null(strstr(e.msg, path));
        assert_false(file_exists(path));
    }
}

static void a_full_disk_leaves_the_old_file(void **state)
{
    const char *path = temp_path(&tmp, "a.safetensors");
    struct err e = {0};
    struct st_file *f;
    assert_int_equal(st_write(path, items, 5, NULL, 0, &e), 0);
    const int64_t dim[1] = {100000};
    float *big = calloc(100000, 4);
    const struct st_item item = {"big", ST_F32, 1, dim, big};
    struct rlimit was, small;
    getrlimit(RLIMIT_FSIZE, &was);
    small = was;
    small.rlim_cur = 50000;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int rc = st_write(path, &item, 1, NULL, 0, &e);
    setrlimit(RLIMIT_FSIZE, &was);
    free(big);
    assert_int_equal(rc, ERR_IO);
    err_clear(&e);
    assert_int_equal(st_open(path, &f, &e), 0);
    assert_int_equal(st_count(f), 5);
    st_close(f);
    char **names;
    int n;
    assert_int_equal(file_list(tmp.path, &names, &n, &e), 0);
    assert_int_equal(n, 1);
    file_list_free(names, n);
}

#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(bytes_are_the_reference_ones),
        T(reads_back),
        T(every_type_converts),
        T(damaged_headers),
        T(sound_edges),
        T(cut_and_changed_files),
        T(wrong_things_to_write),
        T(a_full_disk_leaves_the_old_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
