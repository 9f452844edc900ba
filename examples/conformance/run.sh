#!/bin/sh
# Runs examples/conformance over the cases of sigstore's conformance suite (https://github.com/sigstore/sigstore-conformance,
# test/assets/bundle-verify), as its test_bundle.py does. A case whose name ends in _fail has to fail, every other to hold.
# Usage: run.sh PROGRAM. CRIVET_CONFORMANCE: the folder that holds bundle-verify and a.txt.
set -u
program=$1
suite=${CRIVET_CONFORMANCE:-../shared/conformance}
if ! [ -d "$suite/bundle-verify" ]; then
    echo "conformance: skipped: there is no $suite/bundle-verify (CRIVET_CONFORMANCE)"
    exit 0
fi
identity=https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main
issuer=https://token.actions.githubusercontent.com
right=0 all=0
for case in "$suite"/bundle-verify/*/; do
    case=${case%/}
    artifact=$suite/a.txt
    [ -e "$case/artifact" ] && artifact=$case/artifact
    if [ -e "$case/key.pub" ]; then
        set -- --key "$case/key.pub"
    else
        set -- --certificate-identity "$(cat "$case/identity" 2>/dev/null || echo "$identity")" \
            --certificate-oidc-issuer "$(cat "$case/issuer" 2>/dev/null || echo "$issuer")"
    fi
    [ -e "$case/trusted_root.json" ] && set -- "$@" --trusted-root "$case/trusted_root.json"
    said=$("$program" verify-bundle --bundle "$case/bundle.sigstore.json" "$@" "$artifact" 2>&1)
    code=$?
    expected=0
    case $case in *_fail) expected=1 ;; esac
    all=$((all + 1))
    if [ "$code" = "$expected" ]; then
        right=$((right + 1))
        [ "${VERBOSE:-}" ] && echo "right: $(basename "$case"): $said"
    else
        echo "WRONG: $(basename "$case"): exit $code, expected $expected: $said"
    fi
done
echo "conformance: $right of $all cases right"
[ "$right" = "$all" ] && [ "$all" -gt 0 ]
