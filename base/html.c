#include "base/html.h"

#include <ctype.h>
#include <string.h>

static const char style[] =
    ":root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--text:#1c2330;--dim:#667085;--line:#e3e7ee;--good:#1a8a55;"
    "--bad:#c43d4b;--c0:#3b6fd8;--c1:#e08a2c;--c2:#2f9e6e;--c3:#d1495b;--c4:#8a63d2;--c5:#2aa3b8;--c6:#b5883b;"
    "--c7:#c060a8}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1b2028;--text:#e6e9ef;--dim:#98a2b3;--line:#2d3440;"
    "--good:#4cc38a;--bad:#f2777f;--c0:#6f9bff;--c1:#f0a651;--c2:#4fc48f;--c3:#f07784;--c4:#ab8cf0;--c5:#52c5d8;"
    "--c6:#d6ac62;--c7:#df86c9}}\n"
    "*{box-sizing:border-box}"
    "body{margin:0;background:var(--bg);color:var(--text);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,"
    "'Noto Sans',sans-serif}"
    "main{max-width:1180px;margin:0 auto;padding:32px 20px 64px}"
    "h1{font-size:26px;line-height:1.2;margin:0;letter-spacing:-.01em}"
    "h2{font-size:18px;margin:40px 0 12px;letter-spacing:-.005em}h3{font-size:14px;margin:0 0 8px;font-weight:600}"
    ".sub,.note{color:var(--dim);margin:6px 0 0}.note{margin:0 0 12px;max-width:75ch}"
    ".grid{display:grid;gap:14px;margin:14px 0;align-items:start;"
    "grid-template-columns:repeat(auto-fill,minmax(min(var(--min),100%),1fr))}"
    ".grid:has(>.stat){align-items:stretch;"
    "grid-template-columns:repeat(auto-fit,minmax(min(var(--min),100%),1fr))}"
    ".card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;min-width:0;"
    "overflow-wrap:anywhere}"
    ".stat .label{color:var(--dim);font-size:13px}.stat .value{font-size:26px;font-weight:650;line-height:1.25;"
    "font-variant-numeric:tabular-nums}.stat .more{color:var(--dim);font-size:13px}"
    ".wide{overflow-x:auto;margin:14px 0;background:var(--card);border:1px solid var(--line);border-radius:10px}"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "th,td{padding:7px 14px;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}"
    "tr:last-child td{border-bottom:0}th{color:var(--dim);font-weight:600;font-size:13px;white-space:nowrap}"
    "td.n,th.n{text-align:right;white-space:nowrap}"
    ".tag{display:inline-block;font-size:12px;line-height:1;padding:4px 8px;margin:2px 4px 2px 0;border-radius:99px;"
    "color:var(--t);background:color-mix(in srgb,var(--t) 14%,transparent)}"
    "img{display:block;max-width:100%;height:auto;border-radius:6px}audio{display:block;width:100%;height:36px;"
    "margin-top:8px}"
    "pre{margin:0;padding:14px 16px;overflow-x:auto;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;"
    "background:var(--card);border:1px solid var(--line);border-radius:10px}"
    "details{margin:14px 0}summary{cursor:pointer;color:var(--dim)}details pre{margin-top:8px}"
    ".plot{display:block}\n";

static void element(struct buf *b, const char *open, const char *text, const char *close)
{
    buf_str(b, open);
    buf_html(b, text);
    buf_str(b, close);
}

void html_begin(struct buf *b, const char *title, const char *subtitle)
{
    buf_str(b, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
               "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n");
    element(b, "<title>", title, "</title>\n<style>");
    buf_str(b, style);
    for (int i = 1; i <= 16; i++) /* a head stands over its numbers */
        buf_printf(b, "table:has(td.n:nth-child(%d)) th:nth-child(%d){text-align:right}", i, i);
    element(b, "</style>\n</head>\n<body>\n<main>\n<h1>", title, "</h1>\n");
    if (subtitle) element(b, "<p class=\"sub\">", subtitle, "</p>\n");
}

void html_end(struct buf *b)
{
    buf_str(b, "</main>\n</body>\n</html>\n");
}

void html_section(struct buf *b, const char *title)
{
    element(b, "<h2>", title, "</h2>\n");
}

void html_note(struct buf *b, const char *text)
{
    element(b, "<p class=\"note\">", text, "</p>\n");
}

void html_grid_begin(struct buf *b, int min_px)
{
    buf_printf(b, "<div class=\"grid\" style=\"--min:%dpx\">\n", min_px);
}

void html_grid_end(struct buf *b)
{
    buf_str(b, "</div>\n");
}

void html_card_begin(struct buf *b, const char *title)
{
    buf_str(b, "<div class=\"card\">\n");
    if (title) element(b, "<h3>", title, "</h3>\n");
}

void html_card_end(struct buf *b)
{
    buf_str(b, "</div>\n");
}

void html_stat(struct buf *b, const char *label, const char *value, const char *note)
{
    element(b, "<div class=\"card stat\"><div class=\"label\">", label, "</div>");
    element(b, "<div class=\"value\">", value, "</div>");
    if (note) element(b, "<div class=\"more\">", note, "</div>");
    buf_str(b, "</div>\n");
}

void html_tag(struct buf *b, const char *text, int color)
{
    if (color >= 0)
        buf_printf(b, "<span class=\"tag\" style=\"--t:var(--c%d)\">", color % 8);
    else
        buf_printf(b, "<span class=\"tag\" style=\"--t:var(--%s)\">",
                   color == -2   ? "good"
                   : color == -3 ? "bad"
                                 : "dim");
    element(b, "", text, "</span>");
}

static bool like_number(const char *s)
{
    if (strncmp(s, "−", 3) == 0)
        s += 3;
    else if (*s == '-' || *s == '+')
        s++;
    return isdigit((unsigned char)*s) || (*s == '.' && isdigit((unsigned char)s[1]));
}

static void row(struct buf *b, const char *tag, const char *const *cell, int n)
{
    buf_str(b, "<tr>");
    for (int i = 0; i < n; i++) {
        buf_printf(b, "<%s%s>", tag, tag[1] == 'd' && like_number(cell[i]) ? " class=\"n\"" : "");
        buf_html(b, cell[i]);
        buf_printf(b, "</%s>", tag);
    }
    buf_str(b, "</tr>\n");
}

void html_table_begin(struct buf *b, const char *const *head, int n)
{
    buf_str(b, "<div class=\"wide\"><table>\n");
    row(b, "th", head, n);
}

void html_table_row(struct buf *b, const char *const *cell, int n)
{
    row(b, "td", cell, n);
}

void html_table_end(struct buf *b)
{
    buf_str(b, "</table></div>\n");
}

void html_png(struct buf *b, const void *png, size_t len, const char *alt, int width)
{
    buf_str(b, "<img");
    if (width > 0) buf_printf(b, " width=\"%d\"", width);
    element(b, " alt=\"", alt, "\" src=\"data:image/png;base64,");
    buf_base64(b, png, len);
    buf_str(b, "\">\n");
}

void html_wav(struct buf *b, const void *wav, size_t len)
{
    buf_str(b, "<audio controls preload=\"none\" src=\"data:audio/wav;base64,");
    buf_base64(b, wav, len);
    buf_str(b, "\"></audio>\n");
}

void html_code(struct buf *b, const char *summary, const char *text)
{
    if (summary) element(b, "<details><summary>", summary, "</summary>\n");
    element(b, "<pre>", text, "</pre>\n");
    if (summary) buf_str(b, "</details>\n");
}
