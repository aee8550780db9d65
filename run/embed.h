/* Cached plans for embedding outside of training. */
#ifndef TRIAD_RUN_EMBED_H
#define TRIAD_RUN_EMBED_H

struct run_embedder;
void run_embedder_free(struct run_embedder *r); /* NULL is fine */

#endif
