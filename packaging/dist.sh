#!/usr/bin/env bash
# Makes the .deb, the .rpm and the tarball. From the same commit they are the same bytes, wherever they are made with
# the same toolchain: no time but the commit's, no path of the machine, no order of a folder's.
#
# usage: dist.sh OUT [--binary FILE] [--version X.Y.Z]
#   OUT        the folder for what is made; target/dist-packages in `make dist`
#   --binary   packs this binary and builds none (tests)
#   --version  instead of Cargo.toml's (tests of upgrades)
# NFPM names the nfpm to be used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "dist: $*" >&2; exit 1; }
out=${1:?usage: dist.sh OUT [--binary FILE] [--version X.Y.Z]} binary='' version=''
shift
while (($#)); do
    case $1 in
        --binary) binary=${2:?} ;;
        --version) version=${2:?} ;;
        *) die "no option is called $1" ;;
    esac
    shift 2
done
: "${NFPM:?names nfpm; run make dist}"
version=${version:-$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)}
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) die "no packages are made for $(uname -m)" ;; esac
# The commit's time; from a tree without its history it must be given.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || true)}
[[ -n $SOURCE_DATE_EPOCH ]] || die "this is no checkout: set SOURCE_DATE_EPOCH to the time of the release, in seconds"
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022

if [[ -z $binary ]]; then
    # Panic messages name source files: as they are called in every build.
    cargo_home=${CARGO_HOME:-$HOME/.cargo}
    export RUSTFLAGS="--remap-path-prefix=$PWD=/crivet --remap-path-prefix=$cargo_home=/cargo"
    export CFLAGS="-ffile-prefix-map=$PWD=/crivet -ffile-prefix-map=$cargo_home=/cargo"
    cargo build --locked --profile dist --bin crivet
    unset RUSTFLAGS CFLAGS
    binary=${CARGO_TARGET_DIR:-target}/dist/crivet
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -rf "$out"/{tree,scripts,assets} "$out"/crivet[-_]* "$out/SHA256SUMS"
tree=$out/tree share=$out/tree/usr/share

put() { install -D -m "${3:-0644}" "$1" "$2"; }
put "$binary" "$tree/usr/bin/crivet" 0755
install -d -m 0755 "$tree/etc/crivet/policies.d"
put packaging/config.yaml "$tree/etc/crivet/config.yaml"
put systemd/crivet.service "$tree/usr/lib/systemd/system/crivet.service"
put systemd/crivet.socket "$tree/usr/lib/systemd/system/crivet.socket"
put systemd/crivet-content.service "$tree/usr/lib/systemd/system/crivet-content.service"
put systemd/crivet-content.timer "$tree/usr/lib/systemd/system/crivet-content.timer"
put systemd/crivet-content-requested.service "$tree/usr/lib/systemd/system/crivet-content-requested.service"
put systemd/crivet-content-requested.path "$tree/usr/lib/systemd/system/crivet-content-requested.path"
put systemd/sysusers.d/crivet.conf "$tree/usr/lib/sysusers.d/crivet.conf"
put systemd/tmpfiles.d/crivet.conf "$tree/usr/lib/tmpfiles.d/crivet.conf"
for policy in policy/*.yaml policy/containers-policy.json policy/namespaces/*.json; do
    put "$policy" "$share/crivet/policies/${policy#policy/}"
done
for schema in policy/*.schema.json docs/*.schema.json; do put "$schema" "$share/crivet/schemas/${schema##*/}"; done
for page in docs/*.md README.md SECURITY.md CHANGELOG.md; do put "$page" "$share/doc/crivet/${page##*/}"; done
# Debian's name for it.
put LICENSE "$share/doc/crivet/copyright"

# Without what a crate's build script would take for a reason to build it anew: the test of this script sets both.
env -u SOURCE_DATE_EPOCH -u OUT_DIR cargo run --locked --quiet --example assets -- "$out/assets" "$version"
for page in "$out"/assets/*.1; do
    gzip -9n "$page"
    put "$page.gz" "$share/man/man1/${page##*/}.gz"
done
put "$out/assets/crivet.bash" "$share/bash-completion/completions/crivet"
put "$out/assets/_crivet" "$share/zsh/site-functions/_crivet"
put "$out/assets/crivet.fish" "$share/fish/vendor_completions.d/crivet.fish"
find "$tree" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# Both packages' scripts contain the check whether a kubelet is pointed here: a removal must not depend on another file.
for script in packaging/deb/* packaging/rpm/*; do
    mkdir -p "$out/scripts/$(basename "$(dirname "$script")")"
    sed -e '/^KUBELET_CHECK$/{r packaging/kubelet-check.sh
d}' "$script" >"$out/scripts/${script#packaging/}"
done

# The newest version of the C library that the binary asks for.
glibc=$(objdump -T "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
export VERSION=$version ARCH=$arch GLIBC=${glibc#GLIBC_}
for format in deb rpm; do
    (cd "$out" && "$NFPM" package --config "$OLDPWD/packaging/nfpm.yaml" --packager "$format" --target . >/dev/null)
done
name=crivet-$version-linux-$arch
tar -C "$tree" --sort=name --owner=0 --group=0 --numeric-owner --format=ustar --mtime="@$SOURCE_DATE_EPOCH" \
    --transform "s,^\.,$name," -cf - . | gzip -n >"$out/$name.tar.gz"
rm -rf "$out/tree" "$out/scripts" "$out/assets"
(cd "$out" && sha256sum crivet[-_]* >SHA256SUMS && cat SHA256SUMS)
