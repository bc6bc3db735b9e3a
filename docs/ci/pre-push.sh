#!/bin/sh
# Gate what you are about to push against the branch it goes to: copy to .git/hooks/pre-push, or run it by hand.
set -eu
base=${1:-}
case "$base" in "" | origin) base=origin/main ;; esac
[ -d .baseline ] || git worktree add --detach .baseline "$base"
git -C .baseline checkout --quiet --detach "$base"
compress run .baseline/recipe.yaml -o runs/baseline
compress run recipe.yaml -o runs/candidate
compress gate --baseline runs/baseline --candidate runs/candidate --device openvino:CPU --data recipe.yaml --golden golden -o gate
