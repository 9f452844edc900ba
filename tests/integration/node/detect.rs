//! What is found on nodes of all kinds, and what is planned for them.

use super::fake::Fake;
use super::{planned, refusal};
use crivet::node::detect::Kind;
use crivet::node::host::Runtime;
use crivet::node::plan::{Stage, drop_in};

const CRIVET: &str = "unix:///run/crivet/crivet.sock";

#[test]
fn kubeadm_keeps_its_variables_and_gets_the_flags_last() {
    let plan = planned(&Fake::kubeadm(), Some(Stage::Both)).unwrap();
    assert_eq!((plan.found.kind, plan.found.version), (Kind::Kubeadm, (1, 34)));
    assert_eq!(plan.found.runtime_socket.to_str(), Some("/var/run/containerd/containerd.sock"));
    let command = "ExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS";
    let flags = format!("--container-runtime-endpoint={CRIVET} --image-service-endpoint={CRIVET}");
    assert!(plan.drop_in.contains(&format!("\nExecStart=\n{command} {flags}\n")), "{}", plan.drop_in);
    assert!(!plan.drop_in.contains("\nRequires="));
}

impl Fake {
    fn with_socket(mut self, socket: &str) -> Self {
        self.sockets.push(socket.to_owned());
        self
    }
}

#[test]
fn the_endpoint_is_the_running_kubelets() {
    // kubeadm up to 1.31 hands the socket over as a flag, which wins over the file.
    let flag =
        Fake::plain("/usr/bin/kubelet --config=/c.yaml --container-runtime-endpoint=unix:///run/a.sock")
            .with_socket("/run/a.sock");
    flag.write("/c.yaml", "containerRuntimeEndpoint: unix:///run/no.sock\n");
    assert_eq!(planned(&flag, None).unwrap().found.runtime_socket.to_str(), Some("/run/a.sock"));
    // Its drop-ins win over the file, the last one over the others.
    let folder = Fake::plain("/usr/bin/kubelet --config=/c.yaml --config-dir=/d").with_socket("/run/b.sock");
    folder.write("/c.yaml", "containerRuntimeEndpoint: unix:///run/no.sock\nhealthzPort: 1\n");
    folder.write("/d/10.conf", "containerRuntimeEndpoint: unix:///run/no.sock\n");
    folder.write("/d/20.conf", "containerRuntimeEndpoint: unix:///run/b.sock\n");
    folder.write("/d/30.yaml", "containerRuntimeEndpoint: unix:///run/no.sock\n");
    let found = planned(&folder, None).unwrap().found;
    assert_eq!(found.runtime_socket.to_str(), Some("/run/b.sock"));
    assert_eq!(found.healthz.unwrap().port(), 1);
    // Nothing is said: the kubelet's own default.
    let silent = planned(&Fake::plain("/usr/bin/kubelet"), None).unwrap();
    assert_eq!(silent.found.runtime_socket.to_str(), Some("/run/containerd/containerd.sock"));
    assert_eq!(silent.found.kind, Kind::Plain);
}

#[test]
fn the_first_configuration_is_audit_only_and_starts() {
    let fake = Fake::kubeadm();
    fake.write("/etc/passwd", "crivet:x:990:989::/:/usr/sbin/nologin\n");
    let plan = planned(&fake, None).unwrap();
    let config = &plan.files[0];
    assert_eq!(config.path.to_str(), Some("/etc/crivet/config.yaml"));
    for line in ["mode: audit\n", "unmatched: allow\n", "vetterUser: crivet\n"] {
        assert!(config.text.contains(line), "{line}{}", config.text);
    }
    assert!(plan.notes.is_empty(), "{:?}", plan.notes);
    assert_eq!(plan.pointed.stage, Stage::Image);
    // Units that no package has brought run this very program.
    let service = plan.files.iter().find(|file| file.path.ends_with("crivet.service")).unwrap();
    assert!(service.text.contains("\nExecStart=/opt/bin/crivet serve --config /etc/crivet/config.yaml\n"));
    // Without the user the vetter is root's, and the operator is told.
    fake.write("/etc/passwd", "root:x:0:0::/:/bin/sh\n");
    let plan = planned(&fake, None).unwrap();
    assert!(!plan.files[0].text.contains("\nvetterUser") && plan.notes[0].contains("runs as root"));
}

const CONFIG: &str = "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nmode: audit\nunmatched: allow\n\
    listen: unix:///run/crivet/crivet.sock\nruntimeEndpoint: unix:///run/containerd/containerd.sock\n";

#[test]
fn a_configuration_that_is_there_is_kept_and_must_fit() {
    let fake = Fake::kubeadm();
    fake.write("/etc/crivet/config.yaml", CONFIG);
    let plan = planned(&fake, None).unwrap();
    assert!(plan.files.iter().all(|file| !file.path.starts_with("/etc/crivet")));
    for (from, to, why) in [
        ("mode: audit", "mood: audit", "config.yaml:3: "),
        ("containerd.sock\n", "other.sock\n", "runtimeEndpoint: expected the kubelet's own"),
        ("/run/crivet/", "/run/elsewhere/", "listen: expected a socket in /run/crivet"),
    ] {
        fake.write("/etc/crivet/config.yaml", &CONFIG.replace(from, to));
        let error = refusal(&fake);
        assert!(error.contains(why), "{error}");
    }
    fake.write("/etc/crivet/config.yaml", &CONFIG.replace("audit", "enforce"));
    assert!(planned(&fake, None).unwrap().notes[0].contains("mode: enforce"));
}

#[test]
fn the_packages_configuration_is_fitted_to_the_node_while_nobody_has_touched_it() {
    let first = include_str!("../../../packaging/config.yaml");
    let with_package = |fake: Fake| {
        fake.write("/etc/passwd", "crivet:x:990:989::/:/usr/sbin/nologin\n");
        fake.write("/etc/crivet/config.yaml", first);
        fake.write("/lib/systemd/system/crivet.service", "[Service]\nExecStart=/usr/bin/crivet serve\n");
        fake.write("/lib/systemd/system/crivet.socket", "[Socket]\nListenStream=/run/crivet/crivet.sock\n");
        fake.start("crivet.service");
        fake
    };
    // It fits containerd 1 as it is.
    let plan = planned(&with_package(Fake::kubeadm()), None).unwrap();
    assert!(plan.files.is_empty() && !plan.restart_crivet, "{plan:#}");

    let k3s = with_package(k3s("k3s.service", "/usr/local/bin/k3s server"));
    let plan = planned(&k3s, None).unwrap();
    let socket = "unix:///run/k3s/containerd/containerd.sock";
    let text = first.replace(
        "\nruntimeEndpoint: unix:///run/containerd/containerd.sock\n",
        &format!("\nruntimeEndpoint: {socket}\n"),
    );
    assert_eq!((plan.files[0].text.as_str(), plan.restart_crivet), (text.as_str(), true));
    // Touched, if only by a comment: it is the operator's.
    k3s.write("/etc/crivet/config.yaml", &format!("{first}# ours\n"));
    assert!(refusal(&k3s).contains("runtimeEndpoint: expected the kubelet's own"), "{}", refusal(&k3s));
}

#[test]
fn units_of_the_package_are_used_as_they_are() {
    let fake = Fake::kubeadm();
    fake.write("/lib/systemd/system/crivet.service", "[Service]\nExecStart=/usr/bin/crivet serve\n");
    fake.write("/lib/systemd/system/crivet.socket", "[Socket]\nListenStream=/run/crivet/crivet.sock\n");
    let files: Vec<_> = planned(&fake, None).unwrap().files.into_iter().map(|file| file.path).collect();
    assert_eq!(files, [std::path::PathBuf::from("/etc/crivet/config.yaml")]);
}

#[test]
fn in_front_of_crio_the_socket_ends_as_the_kubelet_knows_it() {
    let mut fake =
        Fake::plain("/usr/local/bin/kubelet --container-runtime-endpoint=unix:///var/run/crio/crio.sock")
            .with_socket("/var/run/crio/crio.sock");
    fake.runtime = Runtime { name: "cri-o".to_owned(), version: "1.34.0".to_owned() };
    let plan = planned(&fake, Some(Stage::Both)).unwrap();
    assert_eq!(plan.listen.to_str(), Some("/run/crivet/run/crio/crio.sock"));
    assert!(plan.files[0].text.contains("\nruntimeEndpoint: unix:///var/run/crio/crio.sock\n"));
    let socket = plan.files.iter().find(|file| file.path.ends_with("crivet.socket.d/90-crivet-listen.conf"));
    assert!(socket.unwrap().text.ends_with("ListenStream=\nListenStream=/run/crivet/run/crio/crio.sock\n"));
    // A configuration that is there with the usual socket would make the kubelet count otherwise.
    let config = CONFIG.replace("/run/containerd/containerd.sock", "/run/crio/crio.sock");
    fake.write("/etc/crivet/config.yaml", &config);
    assert!(planned(&fake, Some(Stage::Image)).is_ok());
    let error = planned(&fake, Some(Stage::Both)).unwrap_err().to_string();
    assert!(error.contains("listen: expected unix:///run/crivet/run/crio/crio.sock"), "{error}");
}

#[test]
fn containerd_2s_pause_image_is_written_down() {
    let mut fake = Fake::kubeadm();
    fake.runtime.version = "v2.1.4".to_owned();
    let image = |fake: &Fake| {
        let plan = planned(fake, None).unwrap();
        let text = plan.files[0].text.clone();
        let image = text.lines().find_map(|line| line.strip_prefix("pauseImage: ").map(str::to_owned));
        (image, plan.notes.iter().any(|note| note.contains("pause image")))
    };
    assert_eq!(image(&fake), (None, true));
    fake.pinned = vec!["registry.k8s.io/pause:3.10".to_owned()];
    assert_eq!(image(&fake), (Some("registry.k8s.io/pause:3.10".to_owned()), false));
    let table = "[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = 'mine.example/pause:1'\n";
    fake.write("/etc/containerd/config.toml", table);
    assert_eq!(image(&fake).0.as_deref(), Some("mine.example/pause:1"));
    fake.write("/etc/containerd/conf.d/10.toml", &table.replace("mine", "yours"));
    assert_eq!(image(&fake).0.as_deref(), Some("yours.example/pause:1"));
    fake.write("/etc/containerd/conf.d/10.toml", &table.replace("mine.example/pause:1", "a\\nb: c"));
    assert_eq!(image(&fake), (None, true));
}

#[test]
fn the_units_of_managed_nodes_keep_their_quotes_and_variables() {
    for command in [
        // Amazon's for Amazon Linux 2023, and one of AKS's kind.
        "/usr/bin/kubelet $NODEADM_KUBELET_ARGS",
        "/usr/local/bin/kubelet --node-labels=\"${KUBELET_NODE_LABELS}\" --v=2 $KUBELET_FLAGS",
    ] {
        let plan = planned(&Fake::plain(command), None).unwrap();
        let line = format!("\nExecStart={command} --image-service-endpoint={CRIVET}\n");
        assert!(plan.drop_in.ends_with(&line), "{}", plan.drop_in);
    }
}

fn k3s(unit: &str, command: &str) -> Fake {
    let fake = Fake::new().with_socket("/run/k3s/containerd/containerd.sock");
    fake.write(&format!("/etc/systemd/system/{unit}"), &format!("[Service]\nExecStart={command}\n"));
    fake.start(unit);
    fake
}

#[test]
fn k3s_and_rke2_hand_the_flags_on_to_their_kubelet() {
    let mut fake =
        k3s("k3s.service", "/usr/local/bin/k3s \\\n    server \\\n\t'--disable' \\\n\t'traefik' \\\n");
    fake.version = "k3s version v1.34.1+k3s1 (24fc436e)".to_owned();
    let plan = planned(&fake, Some(Stage::Both)).unwrap();
    assert_eq!(plan.found.kind, Kind::K3s);
    let command = format!(
        "ExecStart=/usr/local/bin/k3s server '--disable' 'traefik' --kubelet-arg=container-runtime-endpoint={CRIVET} \
         --kubelet-arg=image-service-endpoint={CRIVET}\n"
    );
    assert!(plan.drop_in.ends_with(&command), "{}", plan.drop_in);
    assert_eq!(drop_in(&plan.found.unit).to_str(), Some("/etc/systemd/system/k3s.service.d/90-crivet.conf"));

    let rke2 = planned(&k3s("rke2-agent.service", "/usr/local/bin/rke2 agent"), None).unwrap();
    assert_eq!(rke2.found.kind, Kind::Rke2);
    assert_eq!(rke2.found.runtime_socket.to_str(), Some("/run/k3s/containerd/containerd.sock"));
}

#[test]
fn k3s_with_a_runtime_of_its_own_choice_is_not_supported() {
    let fake = k3s("k3s.service", "/usr/local/bin/k3s server --docker");
    assert!(refusal(&fake).contains("found the setting docker"), "{}", refusal(&fake));
    let fake = k3s("k3s-agent.service", "/usr/local/bin/k3s agent");
    fake.write("/etc/rancher/k3s/config.yaml.d/a.yaml", "container-runtime-endpoint: unix:///x.sock\n");
    assert!(refusal(&fake).contains("container-runtime-endpoint"), "{}", refusal(&fake));
}

#[test]
fn an_old_kubelet_is_refused() {
    for version in ["Kubernetes v1.30.14", "Kubernetes v1.9.0"] {
        let mut fake = Fake::kubeadm();
        fake.version = version.to_owned();
        assert!(refusal(&fake).contains("expected a kubelet of 1.31 or later"), "{}", refusal(&fake));
    }
    let mut fake = Fake::kubeadm();
    fake.version = "what?".to_owned();
    assert!(refusal(&fake).contains("expected a Kubernetes version"), "{}", refusal(&fake));
}

#[test]
fn systems_that_are_not_changed_from_within_are_named_with_the_reason() {
    for (id, why) in [
        ("rhcos", "Machine Config Operator"),
        ("talos", "no systemd"),
        ("bottlerocket", "read-only"),
        ("cos", "at each boot"),
    ] {
        let fake = Fake::kubeadm();
        fake.write("/etc/os-release", &format!("ID=\"{id}\"\n"));
        let error = refusal(&fake);
        assert!(error.starts_with("not supported here: ") && error.contains(why), "{error}");
    }
    let rhel = Fake::kubeadm();
    rhel.write("/etc/machine-config-daemon/currentconfig", "{}");
    assert!(refusal(&rhel).contains("OpenShift"));
    for (unit, why) in
        [("k0sworker.service", "k0s install"), ("snap.microk8s.daemon-kubelite.service", "snap")]
    {
        let fake = Fake::new();
        fake.write(&format!("/etc/systemd/system/{unit}"), "[Service]\nExecStart=/bin/x\n");
        fake.start(unit);
        assert!(refusal(&fake).contains(why), "{}", refusal(&fake));
    }
}

#[test]
fn a_kubelet_that_is_no_unit_is_left_to_be_done_by_hand() {
    let fake = Fake::new();
    assert!(refusal(&fake).contains("found none"));
    fake.write("/proc/77/cmdline", "/usr/bin/kubelet\0--v=2\0");
    let error = refusal(&fake);
    assert!(error.contains("PID 77") && error.contains("by hand: start the kubelet with"), "{error}");
    std::fs::remove_dir_all(fake.at("/run/systemd")).unwrap();
    assert!(refusal(&fake).contains("systemd does not run this machine"));
}

#[test]
fn a_kubelet_that_does_not_run_is_not_touched() {
    let fake = Fake::new();
    fake.write("/lib/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet\n");
    assert!(refusal(&fake).contains("expected kubelet.service to be active"), "{}", refusal(&fake));
}

#[test]
fn a_wrapper_is_no_kubelet() {
    let fake = Fake::plain("/bin/sh -c 'exec kubelet'");
    assert!(refusal(&fake).contains("which is no kubelet"), "{}", refusal(&fake));
}

#[test]
fn a_later_drop_in_that_sets_the_command_is_in_the_way() {
    let fake = Fake::kubeadm();
    let later = "/etc/systemd/system/kubelet.service.d/95-mine.conf";
    fake.write(later, "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --mine\n");
    assert!(refusal(&fake).contains("95-mine.conf: expected the drop-in"), "{}", refusal(&fake));
    fake.write(later, "[Service]\nRestartSec=1\n");
    assert!(planned(&fake, None).is_ok());
}

#[test]
fn a_kubelet_pointed_at_crivet_by_hand_is_not_pointed_twice() {
    let fake = Fake::plain(&format!("/usr/bin/kubelet --container-runtime-endpoint={CRIVET}"));
    assert!(refusal(&fake).contains("take the flag out where it was set by hand"), "{}", refusal(&fake));
    let fake = Fake::plain("/usr/bin/kubelet --config=/c.yaml");
    fake.write("/c.yaml", &format!("containerRuntimeEndpoint: {CRIVET}\n"));
    assert!(refusal(&fake).contains("by its own flags or configuration file"), "{}", refusal(&fake));
}

#[test]
fn another_runtime_is_not_supported() {
    let mut fake = Fake::kubeadm().with_socket("/var/run/containerd/containerd.sock");
    fake.runtime.name = "docker".to_owned();
    assert!(refusal(&fake).contains("expected containerd or cri-o"), "{}", refusal(&fake));
}
