# Whether a kubelet of this node is pointed at crivet. Both packages' scripts have it in them, and it asks nobody: it
# must work with a crivet that does not. It would rather find one that is not there than miss one that is.
pointed_at_crivet() {
    found=
    # What runs: the kubelet's flags, and those of the distributions that have it in a process of their own.
    for process in /proc/[0-9]*; do
        name=$(cat "$process/comm" 2>/dev/null) || continue
        case $name in
            kubelet* | hyperkube | k3s* | rke2* | k0s* | kubelite)
                if tr '\0' '\n' 2>/dev/null <"$process/cmdline" | grep -qs 'run/crivet/'; then
                    found="the command line of $name"
                fi ;;
        esac
    done
    # What will run after the next start.
    for file in \
        /etc/systemd/system/*kube*.service /etc/systemd/system/*kube*.service.d/* /run/systemd/system/*kube*.service.d/* \
        /etc/systemd/system/k3s*.service /etc/systemd/system/k3s*.service.d/* \
        /etc/systemd/system/rke2*.service /etc/systemd/system/rke2*.service.d/* \
        /etc/systemd/system/k0s*.service /etc/systemd/system/k0s*.service.d/* \
        /etc/default/kube* /etc/sysconfig/kube* /etc/kubernetes/kubelet* /etc/kubernetes/kubelet*/* \
        /var/lib/kubelet/config.yaml /var/lib/kubelet/config.json /var/lib/kubelet/*.env /var/lib/kubelet/config.d/* \
        /etc/rancher/k3s/config.yaml /etc/rancher/k3s/config.yaml.d/* \
        /etc/rancher/rke2/config.yaml /etc/rancher/rke2/config.yaml.d/*; do
        if [ -f "$file" ] && grep -v '^[[:space:]]*#' "$file" 2>/dev/null | grep -qs 'run/crivet/'; then
            found=$file
        fi
    done
    [ -n "$found" ]
}

refuse_while_pointed_at() {
    if pointed_at_crivet; then
        echo "crivet: not removed: the kubelet is pointed at crivet ($found) and would have no runtime." >&2
        echo "crivet: run 'crivet node uninstall', or point the kubelet back at its runtime and restart it, and try again." >&2
        exit 1
    fi
}
