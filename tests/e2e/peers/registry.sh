# A docker-registry on loopback and plain HTTP to it, for scripts. Sourced; the caller sets
#   peers  the cache that install.sh fills      host  127.0.0.1:<port>      work  a scratch folder
# and the functions say and die.
# shellcheck shell=bash disable=SC2154

# need COMMAND…: commands that a small Debian may lack and whose package has the same name.
need() {
    local command missing=()
    for command; do command -v "$command" >/dev/null || missing+=("$command"); done
    ((${#missing[@]})) || return 0
    [[ $(id -u) == 0 ]] || die "missing: ${missing[*]}; run apt-get install ${missing[*]} as root"
    say "installing ${missing[*]}"
    apt-get -q update >&2
    apt-get -q install -y --no-install-recommends "${missing[@]}" >&2
}

sha() { sha256sum <"$1" | cut -d' ' -f1; }
size() { stat -c %s "$1"; }

# start_registry: in the background and in a session of its own, so that Ctrl-C reaches the script alone;
# sets `registry` to its process.
start_registry() {
    local n
    printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "%s"}\n' "$work/registry" "$host" >"$work/registry.yml"
    if curl -s -o /dev/null "http://$host/v2/"; then die "$host is in use; stop what listens there"; fi
    setsid "$peers/bin/docker-registry" serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
    registry=$!
    for n in {1..100}; do
        curl -sf -o /dev/null "http://$host/v2/" && return
        sleep 0.1
    done
    cat "$work/registry.log" >&2
    die "docker-registry does not answer on $host"
}

# push_blob REPOSITORY FILE
push_blob() {
    local at
    at=$(curl -sf -X POST -D - -o /dev/null "http://$host/v2/$1/blobs/uploads/" | tr -d '\r' | awk 'tolower($1)=="location:" {print $2}')
    [[ $at == http* ]] || at=http://$host$at
    curl -sf -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$2" "$at&digest=sha256:$(sha "$2")" -o /dev/null
}

# push_manifest REPOSITORY FILE [TAG]: under its own digest when there is no tag; the file names its media type.
push_manifest() {
    curl -sf -X PUT -H "Content-Type: $(jq -r .mediaType "$2")" --data-binary "@$2" \
        "http://$host/v2/$1/manifests/${3:-sha256:$(sha "$2")}" -o /dev/null
}

# push_layers REPOSITORY ARCHITECTURE CONFIG LAYER CONFIG_FILE: pushes a one-layer image's blobs, writes its
# configuration to CONFIG_FILE and prints its manifest. CONFIG is the JSON of the `config` field.
push_layers() {
    jq -cnj --arg arch "$2" --argjson config "$3" --arg diff "sha256:$(sha "$4")" '{architecture: $arch, os: "linux",
        config: $config, rootfs: {type: "layers", diff_ids: [$diff]}}' >"$5"
    push_blob "$1" "$4"
    push_blob "$1" "$5"
    jq -cnj --arg config "sha256:$(sha "$5")" --argjson csize "$(size "$5")" \
        --arg layer "sha256:$(sha "$4")" --argjson lsize "$(size "$4")" '{schemaVersion: 2,
        mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $config, size: $csize},
        layers: [{mediaType: "application/vnd.oci.image.layer.v1.tar", digest: $layer, size: $lsize}]}'
}

# pack_folder FOLDER FILE: a tar that depends on nothing but the content, and is no longer than that needs.
pack_folder() {
    tar --blocking-factor=1 --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$2" .
}
