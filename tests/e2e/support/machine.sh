#!/bin/sh
# Boots systemd as the first process of namespaces of its own, on a Debian root folder laid under an overlay. What a
# container tool would do, and no more: nothing of it is made read-only, because a kubelet and a runtime run inside.
#
# usage: machine.sh outer NAME LOWER DIR PEERS
#   NAME   of the control group, in every hierarchy
#   LOWER  the root folder, which stays as it is
#   DIR    where what is written goes; the same DIR again is the same machine after a reboot
#   PEERS  the real parts' folder, seen inside as /opt/peers
set -eu
stage=$1 name=$2 lower=$3 dir=$4 peers=$5
groups=/sys/fs/cgroup

outer() {
    mkdir -p "$dir/up" "$dir/work" "$dir/root" "$dir/containerd" "$dir/containers" "$dir/kubelet"
    if [ -e $groups/cgroup.controllers ]; then set -- $groups/; else set -- $groups/*/; fi
    for hierarchy; do
        [ ! -L "${hierarchy%/}" ] || continue
        mkdir -p "$hierarchy$name"
        # A new group of version 1 has no processors and no memory, and takes no process before it has.
        for file in cpuset.cpus cpuset.mems; do
            [ ! -e "$hierarchy$name/$file" ] || [ -e $groups/cgroup.controllers ] || cat "$hierarchy$file" >"$hierarchy$name/$file"
        done
        echo $$ >"$hierarchy$name/cgroup.procs"
    done
    exec unshare --mount --pid --fork --kill-child=KILL --uts --ipc --cgroup sh "$0" inner "$name" "$lower" "$dir" "$peers"
}

inner() {
    root=$dir/root
    mount --make-rprivate /
    mount -t overlay -o "lowerdir=$lower,upperdir=$dir/up,workdir=$dir/work" overlay "$root"
    mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
    mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
    mount -t tmpfs -o nosuid,mode=755 tmpfs "$root/dev"
    # kmsg: the kubelet reads there of processes the kernel killed, and does not start without.
    for node in null zero full random urandom tty kmsg; do
        : >"$root/dev/$node"
        mount --bind "/dev/$node" "$root/dev/$node"
    done
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s fd/0 "$root/dev/stdin"
    ln -s fd/1 "$root/dev/stdout"
    ln -s fd/2 "$root/dev/stderr"
    ln -s pts/ptmx "$root/dev/ptmx"
    mkdir "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$root/dev/pts"
    mount -t tmpfs -o nosuid,nodev tmpfs "$root/dev/shm"
    mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$root/run"
    mount -t tmpfs -o nosuid,nodev tmpfs "$root/tmp"
    mount_groups "$root$groups"

    # An overlay cannot stand on an overlay: what the runtime and the kubelet keep is on the folder below.
    for keeps in containerd containers kubelet; do
        mkdir -p "$root/var/lib/$keeps"
        mount --bind "$dir/$keeps" "$root/var/lib/$keeps"
    done
    mkdir -p "$root/opt/peers"
    mount --bind "$peers" "$root/opt/peers"
    mount -o remount,bind,ro "$root/opt/peers"

    echo node >"$root/etc/hostname"
    hostname node
    printf '127.0.0.1 localhost node\n' >"$root/etc/hosts"
    # Fixed, so that no boot is a first boot: that would enable every unit there is.
    echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
    # Kernel settings and modules are the host's, and so are the kernel's messages.
    for unit in systemd-sysctl systemd-modules-load; do
        ln -sfn /dev/null "$root/etc/systemd/system/$unit.service"
    done
    mkdir -p "$root/etc/systemd/journald.conf.d"
    printf '[Journal]\nReadKMsg=no\nRateLimitBurst=0\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/machine.conf"

    cd "$root"
    mkdir -p .old
    pivot_root . .old
    # Still the old root's umount: the new one has its own, but which is looked up first does not matter.
    umount -l .old
    rmdir .old
    exec env -i container=crivet-e2e PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        CRIVET_E2E_SCRATCH="$CRIVET_E2E_SCRATCH" /lib/systemd/systemd
}

# The hierarchies that this machine has, as seen from the machine's own groups.
mount_groups() {
    if [ -e $groups/cgroup.controllers ]; then
        mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$1"
        return
    fi
    mount -t tmpfs -o nosuid,nodev,noexec,mode=755 tmpfs "$1"
    while IFS=: read -r number controllers _; do
        if [ "$number" = 0 ]; then
            mkdir "$1/unified"
            mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$1/unified"
            continue
        fi
        mkdir "$1/${controllers#name=}"
        mount -t cgroup -o "nosuid,nodev,noexec,$controllers" cgroup "$1/${controllers#name=}"
    done </proc/self/cgroup
}

$stage
