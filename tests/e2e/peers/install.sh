#!/usr/bin/env bash
# Puts the real parts that crivet is tested against into a cache outside the tree:
#   ${CRIVET_PEERS:-~/.cache/crivet/peers}/bin/…            what the tests, the benches and the demo run
#   …/containerd-1.6/ containerd-1.7/ containerd-2/         one folder per containerd, with its shim
#   …/bin/crio conmon pinns                                 CRI-O, its monitor and its keeper of namespaces
#   …/cni/                                                  network plugins
#   …/machine/                                              the root folder of a Debian node that boots; as root only
#   …/versions.txt                                          part, version, sha256
# Debian packages are unpacked, not installed: no service is started, nothing of the machine is touched, and
# root is not needed but for the node's root folder, whose files have owners. The mirror is the machine's own; a suite other than the machine's is reached through a
# private apt configuration. What Debian lacks is built with the machine's Go from the Go module proxy.
#
# usage: install.sh [PART...]      all parts when none is named; `install.sh --list` names them
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers=${CRIVET_PEERS:-${HOME:?}/.cache/crivet/peers}
fixture_services=$here/../../fixtures/services
archive_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# part | suite | packages: the first gives the part its version, the others are libraries it needs.
# Upstream versions are pinned, Debian's revisions are not: a security update keeps this working.
debian_parts='
containerd-1.6  | bookworm | containerd=1.6.*
containerd-1.7  | trixie   | containerd=1.7.*
containerd-2    | sid      | containerd=2.*
runc            | bookworm | runc=1.1.*
conmon          | bookworm | conmon=2.1.* libglib2.0-0
cni             | bookworm | containernetworking-plugins=1.1.*
docker-registry | bookworm | docker-registry=2.8.*
busybox         | bookworm | busybox-static=1:1.35.*
haproxy         | bookworm | haproxy=2.6.* liblua5.3-0 libopentracing1 libopentracing-c-wrapper0
socat           | bookworm | socat=1.7.* libwrap0
nginx           | bookworm | nginx=1.22.*
cosign-2        | trixie   | cosign=2.5.*
cosign-3        | sid      | cosign=3.*
faketime        | bookworm | libfaketime=0.9.*
promtool        | bookworm | prometheus=2.42.*
'
# A browser, which Debian moves to each new version. Its many libraries are those that this machine lacks.
browser_parts='
chromium        | bookworm | chromium
'
go_parts='crictl critest kubelet crio olareg'
# What only verdicts are recorded with: named, not part of all, as it takes a quarter of an hour.
named_go_parts='policy-tester'
# What only the fixtures are made with: named, not part of all. Node 20 or later; the lock file pins the rest.
npm_parts='sigstore-npm'
# A node as small as it can be that boots with systemd and installs packages; rpm is there to read and try ours.
machine_suite=bookworm
machine_packages=systemd,systemd-sysv,dbus,procps,iproute2,rpm

say() { printf 'peers: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
debian_names() { awk -F'|' 'NF==3 {gsub(/ /,"",$1); print $1}' <<<"$debian_parts$browser_parts"; }
field() { awk -F'|' -v p="$1" -v n="$2" 'NF==3 {k=$1; gsub(/ /,"",k); if (k==p) {gsub(/^ +| +$/,"",$n); print $n}}' <<<"$debian_parts$browser_parts"; }

# A part is complete when its stamp holds the recipe it would be made by now.
recipe() {
    if [[ " $go_parts $named_go_parts " == *" $1 "* ]]; then
        local dir; dir=$(go_dir "$1")
        echo "go $(cat "$dir"/go.mod "$dir"/go.sum "$dir"/*.go 2>/dev/null | sha256sum | cut -c1-16)"
    elif [[ " $npm_parts " == *" $1 "* ]]; then
        echo "npm $(cat "$fixture_services"/package.json "$fixture_services"/package-lock.json | sha256sum | cut -c1-16)"
    elif [[ $1 == machine ]]; then
        echo "machine 1 $machine_suite $machine_packages"
    else
        echo "debian 1 $(field "$1" 2) $(field "$1" 3)"
    fi
}
complete() {
    [[ -e $peers/pkg/$1 || -e $peers/bin/$1 ]] && [[ -f $peers/stamps/$1 && $(cat "$peers/stamps/$1") == "$(recipe "$1")" ]]
}

# The machine's own mirror: where it takes Debian's main component from, leaving out -security and -updates.
mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(SUITE)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F'|' '$1=="Debian" && $3=="main" && $2 !~ /-/ {print $4; exit}'
}

# apt_in SUITE ARGS…: apt-get as this machine has it set up (proxies, certificates), but with one suite as
# its only source and nothing taken as installed.
apt_in() {
    local suite=$1 dir=$peers/apt/$1; shift
    apt-get -q -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$dir/lists" -o Dir::Cache="$dir/cache" -o Dir::State::status="$dir/status" \
        -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

declare -A suite_ready=()
ready_suite() {
    local suite=$1 dir=$peers/apt/$1 uri
    [[ -z ${suite_ready[$suite]:-} ]] || return 0
    command -v apt-get >/dev/null || die "apt-get is missing: the peers come from Debian; run this on Debian"
    [[ -r $archive_keyring ]] || die "$archive_keyring is missing; run apt-get install debian-archive-keyring"
    uri=$(mirror)
    if [[ -z $uri ]]; then
        # Origin is only known once the machine's own lists have been fetched.
        [[ $(id -u) == 0 ]] && apt-get -q update >&2
        uri=$(mirror)
    fi
    [[ -n $uri ]] || die "no Debian mirror found in this machine's apt sources; run apt-get update as root"
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    : >"$dir/status"
    echo "deb [signed-by=$archive_keyring] $uri $suite main" >"$dir/sources.list"
    say "reading Debian's package lists ($suite)"
    apt_in "$suite" update >"$dir/update.log" 2>&1 || { cat "$dir/update.log" >&2; die "apt-get update failed for $suite"; }
    suite_ready[$suite]=1
}

# missing_with SUITE PACKAGE: it and what it needs and this machine does not have.
missing_with() {
    printf '%s ' "$2"
    apt_in "$1" -o Dir::State::status=/var/lib/dpkg/status --no-install-recommends --simulate install "$2" |
        awk -v p="$2" '$1=="Inst" && $2!=p {printf "%s ", $2}'
}

install_debian() {
    local part=$1 suite packages work deb
    suite=$(field "$part" 2) packages=$(field "$part" 3)
    ready_suite "$suite"
    work=$(mktemp -d "$peers/tmp.XXXXXX")
    if [[ $browser_parts == *"$part "* ]]; then
        packages=$(missing_with "$suite" "$packages") || die "$part: apt-get cannot say what it needs"
    fi
    say "$part: ${packages%% *} from $suite"
    # shellcheck disable=SC2086 # a list of words
    (cd "$work" && apt_in "$suite" download $packages >log 2>&1) || { cat "$work/log" >&2; die "$part: apt-get download failed"; }
    mkdir "$work/root"
    for deb in "$work"/*.deb; do
        dpkg -x "$deb" "$work/root"
        printf '%s %s %s\n' "$(dpkg-deb -f "$deb" Package)" "$(dpkg-deb -f "$deb" Version)" "$(sha256sum <"$deb" | cut -d' ' -f1)"
    done >"$work/versions"
    rm -rf "$peers/pkg/$part"
    mv "$work/root" "$peers/pkg/$part"
    mv "$work/versions" "$peers/pkg/$part.versions"
    rm -rf "$work"
    case $part in
        containerd-*) ln -sfn "pkg/$part/usr/bin" "$peers/$part" ;;
        cni) ln -sfn "pkg/$part/usr/lib/cni" "$peers/$part" ;;
        haproxy | nginx) launcher "$part" "usr/sbin/$part" "$part" ;;
        runc) launcher runc usr/sbin/runc runc ;;
        conmon) launcher conmon usr/bin/conmon conmon ;;
        busybox) launcher busybox bin/busybox busybox ;;
        promtool) launcher promtool usr/bin/promtool promtool ;;
        chromium) launcher chromium usr/lib/chromium/chromium chromium ;;
        cosign-2) launcher cosign-2 usr/bin/cosign cosign ;;
        faketime) ln -sfn "../pkg/$part/usr/lib/$(uname -m)-linux-gnu/faketime/libfaketime.so.1" "$peers/bin/libfaketime.so" ;;
        cosign-3) launcher cosign-3 usr/bin/cosign cosign3 ;;
        *) launcher "$part" "usr/bin/$part" "$part" ;;
    esac
}

# launcher PART BINARY NAME: bin/NAME runs the unpacked binary; where it brought libraries, with those. The cache may be
# seen under another path: a machine that boots sees it at its own.
launcher() {
    local lib dirs=
    for lib in "$peers/pkg/$1"/{usr/,}lib/*-linux-gnu*/{,pulseaudio/}*.so*; do
        [[ -e $lib && :$dirs: != *:${lib%/*}:* ]] && dirs+=${dirs:+:}${lib%/*}
    done
    rm -f "$peers/bin/$3"
    if [[ -n $dirs ]]; then
        # shellcheck disable=SC2016 # expanded by the launcher
        printf '#!/bin/sh\npeers=$(dirname "$(dirname "$(readlink -f "$0")")")\nLD_LIBRARY_PATH="%s" exec "$peers/pkg/%s" "$@"\n' \
            "${dirs//"$peers"/\$peers}" "$1/$2" >"$peers/bin/$3"
        chmod 755 "$peers/bin/$3"
    else
        ln -s "../pkg/$1/$2" "$peers/bin/$3"
    fi
}

# mmdebstrap is unpacked and run as it is; what it makes is a root folder with all its owners and modes.
install_machine() {
    local work tools=$peers/pkg/machine/mmdebstrap
    ready_suite "$machine_suite"
    work=$(mktemp -d "$peers/tmp.XXXXXX")
    say "machine: a root folder of $machine_suite with $machine_packages"
    (cd "$work" && apt_in "$machine_suite" download mmdebstrap >log 2>&1) || { cat "$work/log" >&2; die "machine: apt-get download failed"; }
    rm -rf "$peers/pkg/machine"
    mkdir -p "$tools"
    dpkg -x "$work"/mmdebstrap_*.deb "$tools"
    TMPDIR=$work perl "$tools/usr/bin/mmdebstrap" --mode=root --variant=minbase --format=tar --include="$machine_packages" \
        "$machine_suite" "$work/root.tar" "deb [signed-by=$archive_keyring] $(mirror) $machine_suite main" >"$work/log" 2>&1 ||
        { tail -n 30 "$work/log" >&2; die "machine: mmdebstrap failed; the end of its log is above"; }
    mkdir "$peers/pkg/machine/root"
    tar -C "$peers/pkg/machine/root" --xattrs --numeric-owner -xf "$work/root.tar"
    ln -sfn pkg/machine/root "$peers/machine"
    printf 'machine %s %s\n' "$(cat "$peers/machine/etc/debian_version")" "$(sha256sum <"$work/root.tar" | cut -d' ' -f1)" >"$peers/pkg/machine.versions"
    rm -rf "$work"
}

go_dir() {
    case $1 in
        kubelet | olareg) echo "$here/$1" ;;
        crio) echo "$here/cri-o" ;;
        policy-tester) echo "$here/policy-controller" ;;
        *) echo "$here/cri-tools" ;;
    esac
}

install_go() {
    local part=$1 dir module version flags="-s -w" began=$SECONDS job sources
    command -v go >/dev/null || die "$part: the go command is missing; install Go 1.26 or later"
    dir=$(go_dir "$part")
    case $part in
        kubelet) module=k8s.io/kubernetes ;;
        olareg) module=github.com/olareg/olareg ;;
        crio) module=github.com/cri-o/cri-o ;;
        policy-tester) module=github.com/sigstore/policy-controller ;;
        *) module=sigs.k8s.io/cri-tools ;;
    esac
    cd "$dir"
    version=$(go list -m -f '{{.Version}}' "$module")
    local out=$peers/bin/.$part.new
    case $part in
        kubelet)
            # What the kubelet reports as its version, and refuses to start without.
            local v=k8s.io/component-base/version
            flags+=" -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=$(cut -d. -f2 <<<"$version")"
            set -- go build -trimpath -ldflags "$flags" -o "$out" . ;;
        olareg)
            set -- go build -trimpath -ldflags "$flags" -o "$out" . ;;
        crictl)
            set -- go build -trimpath -ldflags "$flags -X $module/pkg/version.Version=$version" -o "$out" "$module/cmd/crictl" ;;
        crio)
            # pinns is C, and comes with CRI-O's sources.
            sources=$(go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
            "${CC:-cc}" -std=c99 -Os -Wall -static -o "$peers/bin/pinns" "$sources"/pinns/src/*.c
            # Without C libraries: no GPG, btrfs or seccomp.
            set -- go build -trimpath -tags "containers_image_openpgp containers_image_ostree_stub exclude_graphdriver_btrfs" \
                -ldflags "$flags" -o "$out" "$module/cmd/crio" ;;
        policy-tester)
            set -- go build -trimpath -ldflags "$flags" -o "$out" "$module/cmd/tester" ;;
        critest)
            set -- go test -c -trimpath -ldflags "$flags" -o "$out" "$module/cmd/critest" ;;
    esac
    say "$part: building $module $version from the Go module proxy (the kubelet and CRI-O take minutes)"
    CGO_ENABLED=0 GOFLAGS=-mod=readonly "$@" &
    job=$!
    while kill -0 "$job" 2>/dev/null; do
        sleep 1
        (((SECONDS - began) % 30)) || say "$part: still building, $((SECONDS - began)) s"
    done
    wait "$job" || die "$part: the build failed; the message is above"
    cd - >/dev/null
    mv "$out" "$peers/bin/$part"
    printf '%s %s %s\n' "$module/$part" "$version" "$(sha256sum <"$peers/bin/$part" | cut -d' ' -f1)" >"$peers/pkg/$part.versions"
}

install_npm() {
    local part=$1 dir=$peers/pkg/$1
    command -v npm >/dev/null || die "$part: npm is missing; install Node.js 20 or later"
    say "$part: from the npm registry"
    rm -rf "$dir" && mkdir -p "$dir"
    cp "$fixture_services"/package.json "$fixture_services"/package-lock.json "$dir"
    (cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund >log 2>&1) || { cat "$dir/log" >&2; die "$part: npm ci failed"; }
    printf '%s %s %s\n' "$part" "$(node -p "require(\"$dir/package.json\").dependencies[\"@sigstore/sign\"]")" \
        "$(sha256sum <"$dir/package-lock.json" | cut -d' ' -f1)" >"$peers/pkg/$part.versions"
}

main() {
    local part parts
    [[ ${1:-} != --list ]] || { debian_names; tr ' ' '\n' <<<"$go_parts $named_go_parts $npm_parts machine"; return; }
    # shellcheck disable=SC2046 # a list of words
    (($#)) || set -- $(debian_names) $go_parts machine
    for part; do
        grep -qxF "$part" < <(debian_names; tr ' ' '\n' <<<"$go_parts $named_go_parts $npm_parts machine") || die "no part is called $part; see install.sh --list"
        complete "$part" || parts+=" $part"
    done
    if [[ -n ${parts:-} ]]; then
        mkdir -p "$peers"/{bin,pkg,stamps,apt}
        exec 9>"$peers/lock"
        flock 9
        trap 'rm -rf "$peers"/tmp.*' EXIT
        for part in $parts; do
            complete "$part" && continue
            case $part in
                machine)
                    if [[ $(id -u) != 0 ]]; then
                        say "machine: left out, its files have owners; run this as root to get it"
                        continue
                    fi
                    install_machine ;;
                *)
                    if [[ " $go_parts $named_go_parts " == *" $part "* ]]; then
                        install_go "$part"
                    elif [[ " $npm_parts " == *" $part "* ]]; then
                        install_npm "$part"
                    else
                        install_debian "$part"
                    fi ;;
            esac
            recipe "$part" >"$peers/stamps/$part"
        done
        sort "$peers"/pkg/*.versions >"$peers/versions.txt"
    fi
    say "ready in $peers ($(wc -l <"$peers/versions.txt") components in versions.txt)"
}

main "$@"
