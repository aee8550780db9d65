/* Runs build/golden over the committed reference folders, and over spoiled ones, which it must refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

/* build/golden, found from build/tests/golden/test_golden, which is this program. */
static char *program(void)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    for (int up = 0; up < 3; up++) *strrchr(self, '/') = 0;
    return mem_printf("%s/golden", self);
}

/* Runs it on `dir`: its exit status, and the last 4000 characters of what it printed in `tail`. */
static int golden(const char *dir, char tail[4001])
{
    char *path = program(), *command = mem_printf("'%s' '%s' 2>&1", path, dir);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = 0;
    char line[1000];
    while (fgets(line, sizeof line, f)) {
        size_t len = strlen(line);
        if (strstr(line, " WRONG")) print_message("%s", line);
        if (n + len > 4000) n = 0;
        memcpy(tail + n, line, len);
        n += len;
    }
    tail[n] = 0;
    int status = pclose(f);
    free(command);
    free(path);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void right(const char *dir)
{
    char tail[4001];
    int status = golden(dir, tail);
    if (status != 0) fail_msg("%s: exit status %d: %s", dir, status, tail);
    assert_non_null(strstr(tail, " tensors compared, 0 wrong"));
}

static void test_ops(void **state)
{
    right("tests/golden/ops");
}
static void test_clip(void **state)
{
    right("tests/golden/clip");
}
static void test_bert(void **state)
{
    right("tests/golden/towers/bert");
}
static void test_vit(void **state)
{
    right("tests/golden/towers/vit");
}
static void test_whisper(void **state)
{
    right("tests/golden/towers/whisper");
}
static void test_resnet_basic(void **state)
{
    right("tests/golden/models/resnet_basic");
}
static void test_resnet_bottleneck(void **state)
{
    right("tests/golden/models/resnet_bottleneck");
}
static void test_resnet_3x3(void **state)
{
    right("tests/golden/models/resnet_3x3");
}
static void test_efficientnet(void **state)
{
    right("tests/golden/models/efficientnet");
}
static void test_vit_timm(void **state)
{
    right("tests/golden/models/vit_timm");
}
static void test_open_clip(void **state)
{
    right("tests/golden/models/open_clip");
}
static void test_gpt2(void **state)
{
    right("tests/golden/models/gpt2");
}
static void test_wav2vec2(void **state)
{
    right("tests/golden/models/wav2vec2");
}
static void test_optim(void **state)
{
    right("tests/golden/optim");
}
static void test_logmel(void **state)
{
    right("tests/golden/logmel");
}

/* ---- what must be found ------------------------------------------------------------------------------------------ */

/* A copy of the folder `from` in which `file` went through `spoil`. */
static char *spoiled(const char *from, const char *file, void (*spoil)(char *data, size_t *len))
{
    struct err e = {0};
    char *dir = mem_strdup("/tmp/triad-golden-XXXXXX"), **names;
    int n;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(file_list(from, &names, &n, &e), 0);
    for (int i = 0; i < n; i++) {
        char *old = file_join(from, names[i]), *new = file_join(dir, names[i]), *data;
        size_t len;
        assert_int_equal(file_read(old, 1 << 24, &data, &len, &e), 0);
        if (strcmp(names[i], file) == 0) spoil(data, &len);
        assert_int_equal(file_write(new, data, len, &e), 0);
        free(data);
        free(old);
        free(new);
    }
    file_list_free(names, n);
    return dir;
}

static void refused(const char *from, const char *file, void (*spoil)(char *data, size_t *len), int want,
                    const char *says)
{
    struct err e = {0};
    char tail[4001], *dir = spoiled(from, file, spoil);
    int status = golden(dir, tail);
    assert_int_equal(file_remove_tree(dir, &e), 0);
    free(dir);
    if (status != want || !strstr(tail, says)) fail_msg("exit status %d, not %d: %s", status, want, tail);
}

/* Bytes of the first number of a file's tensors; doubles come first. */
static char *first_number(char *data)
{
    uint64_t head;
    memcpy(&head, data, sizeof head);
    return data + 8 + head;
}

static void flip_sign(char *data, size_t *len)
{
    first_number(data)[7] ^= (char)0x80;
}
static void cut(char *data, size_t *len)
{
    *len /= 2;
}
static void cut_to_nothing(char *data, size_t *len)
{
    *len = 3;
}
static void huge_header(char *data, size_t *len)
{
    memset(data, 0x7f, 8);
}
static void bad_json(char *data, size_t *len)
{
    data[8] = '[';
}
static void to_nan(char *data, size_t *len)
{
    memset(first_number(data), 0xff, 8);
}

/* 1 + 2^-13 times the number, give or take: 1e-4, ten times what a loss may be off by. */
static void a_little(char *data, size_t *len)
{
    first_number(data)[4] ^= (char)0x80;
}

static void test_wrong_numbers(void **state)
{
    /* A gradient, looked at in f64 and in f32. */
    refused("tests/golden/ops", "ops.safetensors", flip_sign, 1, ", 2 wrong");
    refused("tests/golden/ops", "ops.safetensors", to_nan, 1, ", 2 wrong");
    refused("tests/golden/clip", "expected.safetensors", a_little, 1, ", 1 wrong"); /* the loss */
    refused("tests/golden/optim", "optim.safetensors", flip_sign, 1, ", 1 wrong");
    refused("tests/golden/models/wav2vec2", "expected.safetensors", a_little, 1, ", 1 wrong"); /* CTC's loss */
}

static void test_broken_files(void **state)
{
    const char *ops = "tests/golden/ops", *file = "ops.safetensors";
    int format = err_exit_status(ERR_FORMAT);
    refused(ops, file, cut, format, "its place in the file does not fit its shape");
    refused(ops, file, cut_to_nothing, format, "cut short");
    refused(ops, file, huge_header, format, "cut short");
    refused(ops, file, bad_json, format, "not a JSON object");
    refused(ops, "ops.json", cut, format, "ops.json: no 'kind' in it");
    refused("tests/golden/clip", "weights.safetensors", cut, format, "its place in the file");
}

static void test_not_a_folder(void **state)
{
    char tail[4001];
    assert_int_equal(golden("tests/golden/nothing", tail), err_exit_status(ERR_USAGE));
    assert_non_null(strstr(tail, "tests/golden/nothing: not a folder"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ops),
        cmocka_unit_test(test_clip),
        cmocka_unit_test(test_bert),
        cmocka_unit_test(test_vit),
        cmocka_unit_test(test_whisper),
        cmocka_unit_test(test_resnet_basic),
        cmocka_unit_test(test_resnet_bottleneck),
        cmocka_unit_test(test_resnet_3x3),
        cmocka_unit_test(test_efficientnet),
        cmocka_unit_test(test_vit_timm),
        cmocka_unit_test(test_open_clip),
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_wav2vec2),
        cmocka_unit_test(test_optim),
        cmocka_unit_test(test_logmel),
        cmocka_unit_test(test_wrong_numbers),
        cmocka_unit_test(test_broken_files),
        cmocka_unit_test(test_not_a_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
