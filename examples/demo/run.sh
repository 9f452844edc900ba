#!/usr/bin/env bash
# A node in small: a registry and a containerd on loopback and in a temporary folder, crivet in front of
# containerd in enforce mode, two images of which one is signed. Shows the signed one run, the other refused,
# and what crivet wrote down. Everything is gone afterwards, also after Ctrl-C. Needs root.
# usage: run.sh      (or: make demo)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
peers=${CRIVET_PEERS:-${HOME:?}/.cache/crivet/peers}
say() { printf 'demo: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; }

[[ $(id -u) == 0 ]] || die "containers need root; run make demo in a root shell"
# shellcheck source=../../tests/e2e/peers/registry.sh
source "$top/tests/e2e/peers/registry.sh"
need curl jq

step "Getting the parts: containerd, runc, docker-registry, cosign, crictl; building crivet"
"$top/tests/e2e/peers/install.sh" containerd-1.6 runc docker-registry busybox cosign-2 crictl
(cd "$top" && cargo build --locked --bin crivet)
crivet=${CARGO_TARGET_DIR:-$top/target}/debug/crivet

work=$(mktemp -d /tmp/crivet-demo.XXXXXX)
# What is started for the demo is found again by this.
export CRIVET_DEMO=$work
exec 3>&1
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# ours: the processes that carry the mark, and those that stand on a root file system below the folder.
ours() {
    local proc
    for proc in /proc/[0-9]*; do
        [[ ${proc#/proc/} != "$$" && ${proc#/proc/} != "$BASHPID" ]] || continue
        if tr '\0' '\n' 2>/dev/null <"$proc/environ" | grep -qxF "CRIVET_DEMO=$work" ||
            awk -v w="$work" '$5=="/" && index($0, w) {found=1} END {exit !found}' "$proc/mountinfo" 2>/dev/null; then
            echo "${proc#/proc/}"
        fi
    done
}

cleanup() {
    trap '' INT TERM HUP
    set +e
    # Wherever the output went when the signal came.
    exec >&3
    step "Cleaning up"
    # In order while containerd is there; by force what is left.
    [[ ! -S $work/containerd.sock ]] || timeout 20 "$peers/bin/crictl" --config "$work/crictl.yaml" \
        -r "unix://$work/containerd.sock" rmp --all --force >/dev/null 2>&1
    local pid n
    for pid in ${crivet_pid:-} ${containerd_pid:-} ${registry:-}; do kill "$pid" 2>/dev/null; done
    for n in {1..50}; do
        [[ -n $(jobs -rp) ]] || break
        sleep 0.1
    done
    for pid in $(ours); do kill -KILL "$pid" 2>/dev/null; done
    wait 2>/dev/null
    awk -v w="$work/" 'index($5, w)==1 {print $5}' /proc/self/mountinfo | tac | xargs -r -n1 umount -l
    rm -rf "$work"
    [[ ! -e $work ]] && echo "nothing is left of $work"
}

# wait_for WHAT LOG COMMAND…: until the command succeeds, 20 s at most.
wait_for() {
    local what=$1 log=$2 n; shift 2
    for n in {1..200}; do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    tail -n 20 "$log" >&2
    die "$what is not ready after 20 s; the end of its log is above"
}

# crictl_on SOCKET ARGS…
crictl_on() {
    local socket=$1; shift
    "$peers/bin/crictl" --config "$work/crictl.yaml" -r "unix://$socket" -i "unix://$socket" "$@"
}
through_crivet() { crictl_on "$work/crivet.sock" "$@"; }
past_crivet() { crictl_on "$work/containerd.sock" "$@"; }

# push_image NAME SCRIPT: a busybox that runs the script; sets `image` and `by_digest`.
push_image() {
    local config
    config=$(jq -cn --arg script "$2" '{Cmd: ["/bin/sh", "-c", $script], Env: ["PATH=/bin"]}')
    push_layers "$1" "$(dpkg --print-architecture)" "$config" "$work/layer.tar" "$work/$1.config" >"$work/$1.manifest"
    push_manifest "$1" "$work/$1.manifest" demo
    image=$host/$1:demo by_digest=$host/$1@sha256:$(sha "$work/$1.manifest")
}

sign() {
    show "cosign sign --key demo.key $1"
    HOME=$work COSIGN_PASSWORD='' "$peers/bin/cosign" sign --yes --tlog-upload=false --key "$work/demo.key" "$1" >"$work/cosign.log" 2>&1 ||
        { cat "$work/cosign.log" >&2; die "cosign does not sign"; }
}

start_containerd() {
    mkdir -p "$work/certs.d/$host"
    printf 'server = "http://%s"\n[host."http://%s"]\ncapabilities = ["pull", "resolve"]\n' "$host" "$host" >"$work/certs.d/$host/hosts.toml"
    sed -e "s|WORK|$work|g" -e "s|HOST|$host|g" -e "s|PEERS|$peers|g" "$here/containerd.toml" >"$work/containerd.toml"
    PATH=$peers/containerd-1.6:$PATH setsid "$peers/containerd-1.6/containerd" --config "$work/containerd.toml" >"$work/containerd.log" 2>&1 &
    containerd_pid=$!
    wait_for containerd "$work/containerd.log" past_crivet version
}

start_crivet() {
    mkdir -p "$work/policies.d" "$work/state"
    cp "$here/policy.yaml" "$work/policies.d/demo.yaml"
    sed -i "s|127.0.0.1:5000|$host|" "$work/policies.d/demo.yaml"
    sed 's/^/          /' "$work/demo.pub" >>"$work/policies.d/demo.yaml"
    sed "s|WORK|$work|g" "$here/config.yaml" >"$work/config.yaml"
    setsid "$crivet" serve --config "$work/config.yaml" >"$work/crivet.log" 2>&1 &
    crivet_pid=$!
    wait_for crivet "$work/crivet.log" through_crivet version
}

# sandbox NAME: a pod on the host's network, made through crivet; prints its ID.
sandbox() {
    jq -n --arg name "$1" --arg logs "$work/logs" '{metadata: {name: $name, namespace: "demo", uid: $name, attempt: 0},
        log_directory: $logs, linux: {cgroup_parent: "/k8s.io", security_context: {namespace_options: {network: 2}}}}' >"$work/$1.pod"
    through_crivet runp "$work/$1.pod"
}

# create NAME POD IMAGE: a container, made through crivet as a kubelet does it, by the image's ID with the
# reference beside it; prints its ID.
create() {
    local id
    id=$(through_crivet inspecti -o json "$3" | jq -r .status.id)
    jq -n --arg name "$1" --arg id "$id" --arg image "$3" '{metadata: {name: $name}, image: {image: $id, user_specified_image: $image},
        log_path: ($name + ".log"), linux: {}}' >"$work/$1.container"
    through_crivet create --no-pull "$2" "$work/$1.container" "$work/$1.pod"
}

for port in {5000..5050}; do
    host=127.0.0.1:$port
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
mkdir -p "$work/logs" "$work/root/bin" "$work/root/tmp"
echo 'timeout: 60' >"$work/crictl.yaml"
cp "$peers/bin/busybox" "$work/root/bin/busybox"
for applet in sh echo sleep; do ln -s busybox "$work/root/bin/$applet"; done
pack_folder "$work/root" "$work/layer.tar"

step "A registry on $host with a pause image and two others, and a key"
start_registry
(cd "$work" && HOME=$work COSIGN_PASSWORD='' "$peers/bin/cosign" generate-key-pair --output-key-prefix demo >"$work/cosign.log" 2>&1)
stay="trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"
push_image pause "$stay"
sign "$by_digest"
push_image signed "echo 'Hello: somebody vouches for me.'; $stay"
signed=$image
sign "$by_digest"
push_image unsigned "echo 'Hello: nobody knows where I am from.'; $stay"
unsigned=$image
echo "$unsigned is pushed, and not signed"

step "containerd, and crivet in front of it"
start_containerd
start_crivet
cat "$work/policies.d/demo.yaml"

step "The signed image runs"
show crictl pull "$signed"
through_crivet pull "$signed"
pod=$(sandbox signed)
container=$(create signed "$pod" "$signed")
through_crivet start "$container" >/dev/null
wait_for "the container's log" "$work/crivet.log" grep -q . "$work/logs/signed.log"
show crictl logs "${container:0:13}"
through_crivet logs "$container"

step "The unsigned image is not pulled"
show crictl pull "$unsigned"
if through_crivet pull "$unsigned" 2>"$work/refusal"; then die "an unsigned image was pulled"; fi
cat "$work/refusal"
grep -q SignatureValidationFailed "$work/refusal" || die "the pull failed for another reason"

step "Nor does it run when it came in behind crivet's back"
show crictl -r containerd.sock pull "$unsigned"
past_crivet pull "$unsigned"
pod=$(sandbox unsigned)
show crictl create "${pod:0:13}" unsigned.json pod.json
if create unsigned "$pod" "$unsigned" 2>"$work/refusal"; then die "a container of an unsigned image was made"; fi
cat "$work/refusal"
grep -q SignatureValidationFailed "$work/refusal" || die "the container failed for another reason"

step "What crivet wrote down"
wait_for "the audit log" "$work/crivet.log" test -s "$work/audit.jsonl"
show cat audit.jsonl
cat "$work/audit.jsonl"
