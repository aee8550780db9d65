#!/usr/bin/env bash
# Writes docs/config.md to standard output: every key of a config with its default and its meaning, as the program's own
# tables have them. `tools/config_doc.sh >docs/config.md` after a key has changed; a test compares the two.
set -eu
cd "$(dirname "$0")/.."
triad=${TRIAD_BIN:-build/triad}
every=$(mktemp --suffix=.yaml)
trap 'rm -f "$every"' EXIT
# Each kind of modality, tower, loss and list once; nothing else, so that all values shown are the defaults.
cat >"$every" <<YAML
name: NAME
data: {manifest: MANIFEST}
modalities:
  photo: {kind: image, tower: {vit: {}}}
  drawing: {kind: image, tower: {resnet: {}}}
  painting: {kind: image, tower: {efficientnet: {}}}
  caption: {kind: text}
  sound: {kind: audio}
  speech: {kind: audio, tower: {wav2vec2: {}}}
optim: {groups: [{pattern: "photo.*"}]}
train: {steps: 1000}
YAML
cat <<'MD'
# Every key of a config

`tools/config_doc.sh` writes this page from the tables in `run/config.c`. `triad train CONFIG --dump-config` prints the
same for one's own config, with the values that would be used.

A config is strict: an unknown key, a key given twice, a value of the wrong type or out of its range is an error with
file, line and column, and the nearest known key. Any key can be set on the command line behind the config, as
`optim.lr=1e-3` or `modalities.text.tower.transformer.layers=6`; an element of a list is named by its number,
`optim.groups.0.lr_scale=0`.

Times are written `25ms`, `4s`, `10m`, `1.5h`, or as plain seconds; sizes `512MB`, `2GiB`, or as plain bytes. Names under
`modalities` are yours; `from` says which field of the manifest a modality reads when the names differ. Exactly one of
`train.steps`, `train.epochs` and `train.time` says how long a run is. What stands below are the defaults, except for the
keys without one: `name`, `data.manifest`, the modalities with their `kind`, the `pattern` of a group, and the run's length.

```yaml
MD
"$triad" train "$every" --dump-config
echo '```'
