/* Text <-> token ids, as the `tokenizers` library of Hugging Face does it, from its file format tokenizer.json.
 *
 * Model kinds: BPE (byte-level as GPT-2 and RoBERTa, with </w> as CLIP, with byte fallback) and WordPiece (BERT), with
 * the normalizers, pre-tokenizers, post-processors and decoders these use. What a file holds beyond that (Unigram,
 * Metaspace, dropout...) is refused with the place in the file, never guessed. Offsets into the text, pairs of texts
 * and padding are not here: a caller pads its own batches, and a file's `padding` is ignored.
 *
 * A loaded tokenizer never changes: any number of threads may use one. Ids and results depend on nothing but the file
 * and the text. */
#ifndef TRIAD_DATA_TOKENIZER_H
#define TRIAD_DATA_TOKENIZER_H

#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

struct tokenizer;

/* Reads a tokenizer.json. ERR_IO where it cannot be read, ERR_FORMAT naming the place (`pre_tokenizer.type`) and what
 * is wrong there or not supported. On error *t is NULL. Free with tok_free. */
int tok_load(const char *path, struct tokenizer **t, struct err *e) MUST_CHECK;

/* As tok_load for a file's content in memory; `data` may be freed afterwards. */
int tok_parse(const char *data, size_t len, struct tokenizer **t, struct err *e) MUST_CHECK;
void tok_free(struct tokenizer *t); /* NULL is allowed */

/* Writes the tokenizer.json (the bytes that were parsed, or what training made). ERR_IO; the old file stays then. */
int tok_save(const struct tokenizer *t, const char *path, struct err *e) MUST_CHECK;

/* The ids of the `n` bytes at `s`, with the special tokens that the file's post-processor puts around a single text.
 * At most `max` are written: where there are more, the text's own tokens are cut at their end and the special tokens
 * stay (the end token is still last). A smaller `truncation.max_length` in the file counts too. *count gets the number
 * written. Bytes that are not UTF-8 are read as U+FFFD, one for each maximal part of a character (as Unicode 3.9 and
 * Rust's from_utf8_lossy). ERR_SHAPE where `max` cannot hold the special tokens; ERR_FORMAT where the vocabulary lacks
 * its unknown token and needs it, or a pattern of the file gives up on this text. On error *count is 0. */
int tok_encode(const struct tokenizer *t, const char *s, size_t n, int32_t *ids, int64_t max, int64_t *count,
               struct err *e) MUST_CHECK;

/* Appends the text of `n` ids to `out`, as the file's decoder makes it. Ids without a token are passed over; with
 * `skip_special` so are special tokens. A byte sequence that is not UTF-8 becomes U+FFFD. */
void tok_decode(const struct tokenizer *t, const int32_t *ids, int64_t n, bool skip_special, struct buf *out);

/* One more than the highest id: the rows of an embedding table. */
int64_t tok_vocab_size(const struct tokenizer *t);
int32_t tok_id(const struct tokenizer *t, const char *token); /* "</s>" -> 2; -1 where there is none */
const char *tok_piece(const struct tokenizer *t, int32_t id); /* its token, NULL if none; an added one as normalized */
bool tok_is_special(const struct tokenizer *t, int32_t id);
int32_t tok_start_id(const struct tokenizer *t); /* first token put before a text; -1 if none */
int32_t tok_end_id(const struct tokenizer *t);   /* last token put after a text; -1 if none */
int32_t tok_pad_id(const struct tokenizer *t);   /* the token of `padding`, else <pad> or [PAD], else -1 */

/* What to train. A zeroed one has the defaults written here. */
struct tok_train_options {
    int64_t vocab_size;          /* 0: 2048. Special tokens and the 256 bytes count; fewer if the texts give no more */
    int64_t min_frequency;       /* 0: 2. Pairs seen less often are not merged */
    const char *const *specials; /* NULL: "<pad>", "<s>", "</s>" with ids 0, 1, 2. They get the first ids */
    int n_specials;              /* a start "<s>" and an end "</s>" among them are put around each text */
    bool lowercase;              /* normalizer: NFC, then lower case */
};

/* Trains a byte-level BPE (Sennrich et al. 2016, Radford et al. 2019) on `n` texts (0-terminated, UTF-8; other bytes as
 * in tok_encode). Vocabulary and merges equal those of the `tokenizers` library's ByteLevelBPETokenizer trained on the
 * same texts: the most frequent pair first, of equals the one with the smallest ids. ERR_CONFIG where vocab_size cannot
 * hold the special tokens and 256 bytes, or a special token is empty or named twice. On error *t is NULL. */
int tok_train_bpe(const char *const *texts, int64_t n, const struct tok_train_options *o, struct tokenizer **t,
                  struct err *e) MUST_CHECK;

#endif
