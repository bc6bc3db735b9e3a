#!/bin/sh
# Gate the files here against a branch: copy to .git/hooks/pre-push, or run it by hand with the branch as argument.
# Add .baseline, runs and gate to .gitignore.
set -eu
# shellcheck disable=SC2046  # names of variables, one a word
unset $(git rev-parse --local-env-vars)   # a hook's GIT_DIR would let the lines below move your own branch
cd "$(git rev-parse --show-toplevel)"
base=${1:-origin/main}
git rev-parse --quiet --verify "$base^{commit}" >/dev/null || base="$base/main"   # git names the remote, not a branch
git worktree prune
[ -e .baseline/.git ] || git worktree add --quiet --detach .baseline "$base"
git -C .baseline checkout --quiet --detach "$base"
compress run .baseline/recipe.yaml -o runs/baseline || [ $? -eq 3 ]
compress run recipe.yaml -o runs/candidate
compress gate --baseline runs/baseline --candidate runs/candidate --device openvino:CPU --data recipe.yaml -o gate
