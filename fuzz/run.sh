#!/usr/bin/env bash
# Runs fuzz targets one after the other: fuzz/run.sh CARGO-FUZZ [TARGET…]
#
# FUZZ_SECONDS each (60 where nothing is said). What was found before is in fuzz/corpus and is gone on with; an input that
# breaks something is left in fuzz/artifacts. No sanitizer: crivet has no unsafe code, and the stable toolchain has none.
set -euo pipefail
cd "$(dirname "$0")/.."
fuzz=$1
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(sed -n 's|^path = "targets/\(.*\)\.rs"|\1|p' fuzz/Cargo.toml)

# Cases of sigstore's conformance suite, which are not in the tree.
conformance() {
    local case
    for case in "${CRIVET_CONFORMANCE:-}"/bundle-verify/*/; do
        [ -f "$case/$1" ] || continue
        { echo "$2"; cat "$case/$1"; } >"fuzz/corpus/$target/conformance-$(basename "$case")"
    done
}

for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target"
    case $target in
    bundle) conformance bundle.sigstore.json keyless-rekor1-bundle ;;
    trusted_root) conformance trusted_root.json keyless-rekor1-bundle ;;
    esac
    options=(-max_total_time="${FUZZ_SECONDS:-60}" -timeout=30 -rss_limit_mb=1024 -print_final_stats=1)
    [ ! -f "fuzz/dictionaries/$target" ] || options+=(-dict="$PWD/fuzz/dictionaries/$target")
    echo "== $target"
    CRIVET_FUZZ_SEEDS=$PWD/fuzz/corpus/$target "$fuzz" run --sanitizer none "$target" -- "${options[@]}"
done
