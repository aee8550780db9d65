#!/usr/bin/env bash
# A newcomer's first run, in about ten minutes on two cores: packages, build, data, training, evaluation, searches, report.
# Every step may be repeated: what is done already is found and kept.
set -eu
cd "$(dirname "$0")/.."
run=runs/emoji
triad=build/triad
start=$(date +%s)

say() { printf '\n== %s  (%d s so far)\n' "$1" $(($(date +%s) - start)); }

say "packages"
tools/deps.sh
say "build"
make --no-print-directory -j"$(nproc)" all
say "data: picture, names and speech of every emoji"
$triad data emoji data/emoji
say "training: image, text and speech into one space"
if [ -e $run/checkpoints ]; then
    $triad train configs/emoji.yaml --resume
else
    $triad train configs/emoji.yaml
fi
say "evaluation"
$triad eval $run --report $run/report.html --json $run/report.json
say "searching the pictures by text and by sound"
for query in "red heart" "smiling cat" "flag with a star" "thumbs up: dark skin tone"; do
    echo "the text \"$query\":"
    $triad search $run data/emoji/manifest.jsonl "$query" -k 5
done
spoken=data/emoji/audio/1f44d-1f3ff.2.flac
echo "the sound $spoken (\"thumbs up: dark skin tone\", by a voice that no training had):"
$triad search $run data/emoji/manifest.jsonl --audio "$spoken" -k 5
say "done"
echo "the report is $run/report.html; what the model saw is $run/first-batches.html; next: README.md"
