#!/usr/bin/env bash
# Makes the packages of the last commit twice, in two folders whose names have not even the same length, with nothing
# shared but the toolchain and the crates' sources, and compares them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# One commit for both: the branch may move meanwhile.
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct "$commit")
export SOURCE_DATE_EPOCH
unset CARGO_TARGET_DIR
for copy in one another/place; do
    mkdir -p "$work/$copy"
    git archive "$commit" | tar -x -C "$work/$copy"
    (cd "$work/$copy" && packaging/dist.sh target/packages)
done
diff "$work/one/target/packages/SHA256SUMS" "$work/another/place/target/packages/SHA256SUMS" ||
    { echo "dist-check: the two builds differ" >&2; exit 1; }
echo "dist-check: two builds, the same bytes"
