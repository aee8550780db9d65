/* Shared by the towers; not for others. */
#ifndef TRIAD_MODELS_TRUNK_H
#define TRIAD_MODELS_TRUNK_H

#include "models/model.h"

/* "block.0" .. over s, then the final norm if the trunk has one. */
struct nn_seq model_trunk_run(struct nn *m, const struct model_trunk *t, struct nn_seq s);
/* The trunk's pooling of that, (items, D). Where it is one row of each item the last block is made for that row alone
 * (nn_transformer_block_edge): of its arithmetic about a sixth is left, the keys and values. */
val model_trunk_pooled(struct nn *m, const struct model_trunk *t, struct nn_seq s);
/* Relative bias and the like are shared by the blocks; learned and sinusoidal positions are added before. */
struct nn_seq model_add_position(struct nn *m, const struct model_trunk *t, struct nn_seq s);
/* The input "<path>.first" where the graph is for a part of a batch (nn.part), as its first item and its first row; both
 * 0 where it is for a whole one. */
val model_first_input(struct nn *m, val *row);
val model_input(struct nn *m, const char *what, enum ad_dtype t, struct ad_shape s); /* "<path>.<what>" */

/* What goes into the trunk, with positions; the trunk itself, without CLIP's norm behind the pooling; the features. */
struct nn_seq model_vit_entry(struct nn *m, const struct model_tower *t, struct model_shape s);
struct model_trunk model_vit_trunk(const struct model_vit *t);
val model_vit(struct nn *m, const struct model_tower *t, struct model_shape s);
/* What goes into the other towers' trunks. *tokens becomes the input of that name; NULL is fine. */
struct nn_seq model_text_entry(struct nn *m, const struct model_text *t, struct model_shape s, val *tokens);
/* How the token table begins; whoever declares it again says the same. */
#define MODEL_TOKEN_INIT ((struct ad_init){AD_INIT_NORMAL, 0.02})
struct nn_seq model_audio_entry(struct nn *m, const struct model_audio *t, struct model_shape s);
struct nn_seq model_wave_entry(struct nn *m, const struct model_wave *t, struct model_shape s);
val model_efficientnet(struct nn *m, const struct model_tower *t, struct model_shape s);
val model_resnet(struct nn *m, const struct model_tower *t, struct model_shape s);

#endif
