/* base/plot and base/html: well-formed by an XML parser, marks where they belong, nothing but finite numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <expat.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/html.h"
#include "base/plot.h"

struct seen {
    int rects, paths, lines;
    char text[20000]; /* all character data */
    size_t n;
    double width, height; /* of the viewBox */
    bool outside;         /* a rect or a label beyond the viewBox */
};

static double number_of(const char **attr, const char *name)
{
    for (; *attr; attr += 2)
        if (strcmp(*attr, name) == 0) return strtod(attr[1], NULL);
    return 0;
}

static void XMLCALL start(void *user, const char *name, const char **attr)
{
    struct seen *s = user;
    s->rects += strcmp(name, "rect") == 0;
    s->paths += strcmp(name, "path") == 0;
    s->lines += strcmp(name, "line") == 0;
    for (const char **a = attr; *a; a += 2)
        if (strcmp(a[0], "viewBox") == 0) assert_int_equal(sscanf(a[1], "0 0 %lf %lf", &s->width, &s->height), 2);
    double x = number_of(attr, "x"), y = number_of(attr, "y");
    double right = x + number_of(attr, "width"), bottom = y + number_of(attr, "height");
    if (strcmp(name, "rect") == 0 || strcmp(name, "text") == 0)
        s->outside |= x < 0 || y < 0 || right > s->width || bottom > s->height;
}

static void XMLCALL characters(void *user, const char *text, int len)
{
    struct seen *s = user;
    size_t n = (size_t)len < sizeof s->text - 1 - s->n ? (size_t)len : sizeof s->text - 1 - s->n;
    memcpy(s->text + s->n, text, n);
    s->n += n;
}

static struct seen parse(const struct buf *b)
{
    static struct seen s;
    memset(&s, 0, sizeof s);
    XML_Parser p = XML_ParserCreate("UTF-8");
    XML_SetUserData(p, &s);
    XML_SetElementHandler(p, start, NULL);
    XML_SetCharacterDataHandler(p, characters);
    if (XML_Parse(p, b->data, (int)b->len, 1) != XML_STATUS_OK)
        fail_msg("line %d: %s", (int)XML_GetCurrentLineNumber(p), XML_ErrorString(XML_GetErrorCode(p)));
    XML_ParserFree(p);
    assert_null(strstr(b->data, "nan"));
    assert_null(strstr(b->data, "inf"));
    return s;
}

static const char *curve(const struct buf *b)
{
    return strstr(b->data, "class=\"curve\" d=\"") + strlen("class=\"curve\" d=\"");
}

static void lines_go_where_they_should(void **state)
{
    const double x[] = {0, 1, 2, 3}, y[] = {0, 10, NAN, 5};
    const struct plot_series s[] = {{"a & <b>", x, y, 4}, {"second", x, y, 2}};
    struct buf b = {0};
    plot_lines(&b, &(struct plot){.title = "T & \"t\"", .x_label = "step", .y_label = "loss"}, s, 2);
    struct seen seen = parse(&b);
    assert_false(seen.outside);
    assert_int_equal(seen.paths, 2);
    assert_non_null(strstr(seen.text, "a & <b>"));
    assert_non_null(strstr(seen.text, "T & \"t\""));
    /* one pen-down, broken by the NaN, one dot: 0 at the floor, 10 above it */
    double px[3], py[3];
    assert_int_equal(sscanf(curve(&b), "M%lf %lfL%lf %lfM%lf %lfh0", px, py, px + 1, py + 1, px + 2, py + 2), 6);
    assert_true(px[0] < px[1] && px[1] < px[2] &&
                fabs((px[2] - px[0]) / 3 - (px[1] - px[0])) < 0.11); /* printed to 0.1 */
    assert_true(py[1] < py[2] && py[2] < py[0] && fabs((py[0] + py[1]) / 2 - py[2]) < 0.11);
    buf_free(&b);
}

static void a_log_axis_is_even_in_ratios(void **state)
{
    const double x[] = {0, 1, 2, 3}, y[] = {100, 1, 0.01, -1};
    const struct plot_series s = {"a", x, y, 4};
    struct buf b = {0};
    plot_lines(&b, &(struct plot){.log_y = true}, &s, 1);
    struct seen seen = parse(&b);
    double px[3], py[3];
    assert_int_equal(sscanf(curve(&b), "M%lf %lfL%lf %lfL%lf %lf\"", px, py, px + 1, py + 1, px + 2, py + 2), 6);
    assert_true(fabs((py[0] + py[2]) / 2 - py[1]) < 0.11);
    assert_non_null(strstr(seen.text, "0.01"));
    assert_non_null(strstr(seen.text, "100"));
    buf_free(&b);
}

static void odd_series_are_drawn(void **state)
{
    static double x[20000], y[20000], same[20000];
    for (int i = 0; i < 20000; i++) x[i] = i, y[i] = i == 12345 ? 7 : sin(i * 0.7), same[i] = 1e9;
    const double one = 3, none = NAN, huge = 9e299;
    const struct plot_series rows[] = {{"long", x, y, 20000},    {"flat", x, same, 20000}, {"one", &one, &one, 1},
                                       {"none", &one, &none, 1}, {"empty", NULL, NULL, 0}, {"huge", &huge, &huge, 1}};
    for (int i = 0; i < 6; i++)
        for (int log_y = 0; log_y < 2; log_y++) {
            struct buf b = {0};
            plot_lines(&b, &(struct plot){.log_y = log_y}, &rows[i], 1);
            struct seen seen = parse(&b);
            assert_int_equal(seen.paths, i == 3 || i == 4 ? 0 : 1);
            assert_true((strstr(seen.text, "no values yet") != NULL) == (i == 3 || i == 4));
            assert_true(b.len < 60000); /* thinned */
            assert_null(strstr(seen.text, "-0\n"));
            buf_free(&b);
        }
    struct buf b = {0};
    plot_lines(&b, &(struct plot){0}, rows, 1); /* the single peak survives the thinning: it is the highest point */
    double least = 1e9, px, py;
    for (const char *s = curve(&b); *s == 'M' || *s == 'L'; s += strcspn(s + 1, "ML\"") + 1)
        if (sscanf(s + 1, "%lf %lf", &px, &py) == 2) least = fmin(least, py);
    assert_true(least < 40);
    buf_free(&b);
}

static void areas_lie_on_one_another(void **state)
{
    const double a[] = {1, 3, 0}, c[] = {2, 0, 1};
    const struct plot_series s[] = {{"low & wide", NULL, a, 3}, {"on top", NULL, c, 3}};
    const struct plot_mark marks[] = {{1, "here"}, {3, "the very end of it all"}};
    struct buf b = {0};
    plot_areas(&b, &(struct plot){.x_label = "call", .y_label = "MB"}, s, 2, marks, 2);
    struct seen seen = parse(&b);
    assert_false(seen.outside);
    assert_int_equal(seen.paths, 2);
    assert_non_null(strstr(seen.text, "low & wide"));
    assert_non_null(strstr(seen.text, "here"));
    assert_non_null(strstr(seen.text, "the very end of it all"));
    /* up the first series: 1 and 3 above the floor; the second begins at 1 + 2 */
    double x, y, at[4], floor;
    const char *path = strstr(b.data, " d=\"M");
    assert_int_equal(sscanf(path, " d=\"M%lf %lfL%*f %lfH%*fL%*f %lf", &x, &floor, &at[0], &at[1]), 4);
    path = strstr(path + 1, " d=\"M");
    assert_int_equal(sscanf(path, " d=\"M%lf %*fL%*f %lfH%*fL%*f %lf", &y, &at[2], &at[3]), 3);
    double unit = floor - at[0];
    assert_true(unit > 10 && x == y);
    assert_true(fabs(floor - at[1] - 3 * unit) < 0.4 && fabs(at[2] - at[1]) < 0.11 && fabs(at[3] - at[1]) < 0.11);
    buf_free(&b);
    static double many[30000];
    many[12345] = 5;
    const struct plot_series thin = {"long", NULL, many, 30000};
    plot_areas(&b, &(struct plot){0}, &thin, 1, NULL, 0);
    parse(&b);
    assert_true(b.len < 60000);
    double least = 1e9;
    for (const char *p = strstr(b.data, " d=\"M"); (p = strchr(p + 1, 'L'));)
        if (sscanf(p + 1, "%*f %lf", &y) == 1) least = fmin(least, y);
    assert_true(least < 60); /* the only peak survives the thinning */
    buf_free(&b);
    plot_areas(&b, &(struct plot){0}, NULL, 0, NULL, 0);
    parse(&b);
    buf_free(&b);
}

static void bars_are_as_long_as_their_values(void **state)
{
    const struct plot_bar bars[] = {
        {"full", 50, 45, 55, 1, 0},
        {"half", 25, 0, 0, 0, 9},
        {"none", NAN, 0, 0, NAN, 0},
        {"a very long label that would not leave any room for the bars themselves at all", 0, 0, 0, 0, 2}};
    struct buf b = {0};
    plot_bars(&b, &(struct plot){.title = "R@1", .x_label = "per cent"}, bars, 4);
    struct seen seen = parse(&b);
    assert_int_equal(seen.rects, 3);
    assert_false(seen.outside);
    double w[2];
    const char *s = strstr(b.data, "<rect");
    for (int i = 0; i < 2; i++, s = strstr(s + 1, "<rect")) w[i] = strtod(strstr(s, "width=\"") + 7, NULL);
    assert_true(fabs(w[0] - 2 * w[1]) < 0.11);
    assert_non_null(strstr(seen.text, "…"));
    buf_free(&b);
    plot_bars(&b, &(struct plot){0}, NULL, 0);
    parse(&b);
    buf_free(&b);
}

static void a_heat_map_has_its_cells(void **state)
{
    const double v[] = {0.1, 0.9, NAN, 0.5, -0.3, 0.2};
    const char *const rows[] = {"r<0>", "r1"}, *const cols[] = {"c0", "c1", "c2"};
    struct buf b = {0};
    plot_heat(&b, &(struct plot){.title = "similarity", .x_label = "text", .y_label = "image"}, v, 2, 3, rows, cols);
    struct seen seen = parse(&b);
    assert_int_equal(seen.rects, 5 + 24); /* the scale has 24 steps */
    assert_false(seen.outside);
    assert_non_null(strstr(seen.text, "r<0> × c1: 0.9"));
    assert_non_null(strstr(b.data, "fill-opacity=\"1.000\"><title>r&lt;0&gt; × c1"));
    assert_non_null(strstr(b.data, "fill-opacity=\"0.040\"><title>r1 × c1"));
    buf_free(&b);
    static double many[10000];
    plot_heat(&b, &(struct plot){.height = 300}, many, 100, 100, NULL, NULL); /* all alike */
    seen = parse(&b);
    assert_int_equal(seen.rects, 10000 + 24);
    buf_free(&b);
    plot_heat(&b, &(struct plot){0}, NULL, 0, 0, NULL, NULL);
    parse(&b);
    buf_free(&b);
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)); text++) n++;
    return n;
}

static void a_page_is_whole_and_self_contained(void **state)
{
    struct buf b = {0};
    html_begin(&b, "run <1>", "a & b");
    html_section(&b, "Curves");
    html_note(&b, "x < y");
    html_grid_begin(&b, 200);
    html_stat(&b, "loss", "1.284", NULL);
    html_card_begin(&b, "card");
    html_png(&b, "PNG", 3, "\"quoted\"", 64);
    html_wav(&b, "RIFF", 4);
    html_tag(&b, "hit", -2);
    html_card_end(&b);
    html_grid_end(&b);
    const char *const head[] = {"direction", "R@1"}, *const row[] = {"text → image", "55.2"};
    html_table_begin(&b, head, 2);
    html_table_row(&b, row, 2);
    html_table_end(&b);
    html_code(&b, "config", "<yaml>");
    html_end(&b);
    static const char *const pairs[] = {"html",    "head", "body", "main", "div", "table",
                                        "details", "pre",  "h1",   "h2",   "tr"};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char open[20], bare[20], close[20];
        snprintf(open, sizeof open, "<%s ", pairs[i]);
        snprintf(bare, sizeof bare, "<%s>", pairs[i]);
        snprintf(close, sizeof close, "</%s>", pairs[i]);
        assert_int_equal(count(b.data, open) + count(b.data, bare), count(b.data, close));
    }
    assert_non_null(strstr(b.data, "<h1>run &lt;1&gt;</h1>"));
    assert_non_null(strstr(b.data, "src=\"data:image/png;base64,UE5H\""));
    assert_non_null(strstr(b.data, "alt=\"&quot;quoted&quot;\""));
    assert_non_null(strstr(b.data, "data:audio/wav;base64,UklGRg=="));
    assert_non_null(strstr(b.data, "<td>text → image</td><td class=\"n\">55.2</td>"));
    assert_null(strstr(b.data, "http:")); /* nothing is fetched */
    assert_null(strstr(b.data, "https:"));
    assert_null(strstr(b.data, "<script"));
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_go_where_they_should), cmocka_unit_test(a_log_axis_is_even_in_ratios),
        cmocka_unit_test(odd_series_are_drawn),       cmocka_unit_test(bars_are_as_long_as_their_values),
        cmocka_unit_test(a_heat_map_has_its_cells),   cmocka_unit_test(a_page_is_whole_and_self_contained),
        cmocka_unit_test(areas_lie_on_one_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
