//! docs/rollout.md, followed on a machine that boots by nothing but its own commands, with 30 pods that must not notice.

use crate::support::cosign::{Cosign, Key, Version};
use crate::support::crivet::signed_by;
use crate::support::image::{Image, Pushed};
use crate::support::kubelet::{Pod, StaticPods};
use crate::support::machine::{Machine, said};
use crate::support::machine_node::{install_containerd, install_kubelet, wait_kubelet};
use crate::support::package::{NEW, OLD, package};
use crate::support::peers::Peers;
use crate::support::registry::Registry;
use crate::support::{http, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const GUIDE: &str = include_str!("../../docs/rollout.md");
const LONG: Duration = Duration::from_secs(120);

/// A machine with a kubelet, and whoever follows the guide on it.
struct Walk {
    machine: Machine,
    pods: StaticPods,
    /// What stands for what in the guide's commands.
    words: Vec<(String, String)>,
    todo: Vec<&'static str>,
    begun: Instant,
}

impl Walk {
    /// Runs the guide's next step, which must have this name; its output.
    fn step(&mut self, name: &str) -> String {
        assert_eq!(self.todo.first(), Some(&name), "the guide's steps are followed in its order");
        self.todo.remove(0);
        let mut script = commands(name).to_owned();
        for (word, meant) in &self.words {
            script = script.replace(word, meant);
        }
        let output = self.machine.command("bash").args(["-euo", "pipefail", "-c", &script]).output().unwrap();
        let said = said(&output);
        eprintln!("== {name}, at {:.0?}\n{said}\n", self.begun.elapsed());
        assert!(output.status.success(), "step {name} failed: {}\n{said}\n{}", output.status, self.journal());
        said
    }

    fn journal(&self) -> String {
        self.machine.journal("crivet.service")
    }

    fn ready(&self, name: &str) {
        self.pods.wait_pod(name, LONG, Pod::ready);
    }

    fn starts(&self, name: &str, image: &str) {
        self.pods.add_pod(name, image, &json!({}));
        self.ready(name);
    }

    fn is_refused(&self, name: &str, image: &str) {
        self.pods.add_pod(name, image, &json!({}));
        let decided =
            |pod: &Pod| pod.ready() || pod.waiting().is_some_and(|(reason, _)| reason != "ContainerCreating");
        let waiting = self.pods.wait_pod(name, LONG, decided).waiting().unwrap_or_default();
        let said = format!("{} {}", waiting.0, waiting.1);
        let refused = said.contains("SignatureValidationFailed") && said.contains("found no signature");
        let audit = || self.machine.ok(["tail", "--lines=5", "/var/log/crivet/audit.jsonl"]);
        assert!(refused, "{name} is not refused: {said}\n{}\n{}", self.journal(), audit());
        eprintln!("{name}: {said}");
        self.pods.remove_pod(name);
    }
}

/// The commands under a step's name.
fn commands(name: &str) -> &'static str {
    let (_, rest) = GUIDE.split_once(&format!("<!-- step: {name} -->\n```sh\n")).unwrap();
    rest.split_once("```\n").unwrap().0
}

fn steps() -> Vec<&'static str> {
    GUIDE.lines().filter_map(|line| line.strip_prefix("<!-- step: ")?.strip_suffix(" -->")).collect()
}

/// The container of each pod and how often it was started anew.
fn running(pods: &StaticPods, names: &[String]) -> BTreeMap<String, (String, u64)> {
    let of = |name: &String| {
        let pod = pods.wait_pod(name, LONG, Pod::ready);
        let status: &Value = &pod.0["status"]["containerStatuses"][0];
        let id = status["containerID"].as_str().unwrap().to_owned();
        (name.clone(), (id, status["restartCount"].as_u64().unwrap()))
    };
    names.iter().map(of).collect()
}

#[test]
fn every_command_of_the_guide_has_a_step() {
    let blocks = GUIDE.matches("```sh\n").count();
    assert_eq!(steps().len(), blocks);
    for step in steps() {
        commands(step);
    }
}

#[test]
fn the_rollout_guide_holds_from_an_empty_machine_to_enforcement_and_back() {
    let Some(peers) = Peers::get() else { return };
    let machine = Machine::boot(&peers);
    let registry = Registry::start(&peers);
    install_containerd(&machine, &peers, "2", &registry);
    let cosign = Cosign::new(&peers, Version::V2);
    let key = cosign.generate_key("key");
    let images = Images::push(&peers, &registry, &cosign, &key);
    let pods = install_kubelet(&machine);
    machine.push(&package(&peers, OLD, ".deb"), "/root/old.deb");
    machine.push(&package(&peers, NEW, ".deb"), "/root/new.deb");
    let words = [
        (
            "\n          -----BEGIN PUBLIC KEY-----\n          …what `cosign public-key --key cosign.key` prints…\n          -----END PUBLIC KEY-----\n",
            pem(&key),
        ),
        ("registry.example.com", registry.address().to_owned()),
        ("./crivet_0.1.0-1_amd64.deb", "/root/old.deb".to_owned()),
        ("./crivet_0.1.1-1_amd64.deb", "/root/new.deb".to_owned()),
    ];
    let words = words.into_iter().map(|(word, meant)| (word.to_owned(), meant)).collect();
    let mut walk = Walk { machine, pods, words, todo: steps(), begun: Instant::now() };

    let names: Vec<String> = (0..30).map(|n| format!("before-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        let image = [&images.app, &images.app, &images.other, &images.late, &images.copy][n % 5];
        walk.pods.add_pod(name, &image.reference, &json!({}));
    }
    let before = running(&walk.pods, &names);
    let untouched = walk.machine.ok(["sh", "-c", TREE]);

    walk.step("package");
    walk.step("look");
    walk.step("policy");
    walk.step("verify");
    walk.step("inventory");
    walk.step("dry-run");
    walk.step("stage-image");
    wait_kubelet(&walk.machine, &walk.pods);
    walk.starts("image-stage", &images.app.reference);
    walk.step("stage-both");
    wait_kubelet(&walk.machine, &walk.pods);
    walk.starts("audited", &images.unsigned.reference);
    walk.starts("audited-copy", &images.copy.reference);
    walk.step("watch");
    let report = walk.step("report");
    assert!(
        report.contains("SignatureMissing") && report.contains("SignatureForOtherRepository"),
        "{report}"
    );

    // What the report asks for: the copy's policy is corrected, what is late gets a policy that only audits.
    let policies = "/etc/crivet/policies.d";
    let host = registry.address();
    let corrected = format!(
        "{}\n    claimedRepository: {{oneOf: [{host}/upstream/copy]}}\n",
        policy("copy", &format!("{host}/team/copy"), &key, "").trim_end()
    );
    walk.machine.write(&format!("{policies}/copy.yaml"), &corrected);
    walk.step("fix");
    walk.step("before");

    // Static pods run that would be denied: the switch is refused, and nothing is enforced.
    let config = walk.machine.read("/etc/crivet/config.yaml");
    walk.machine.write("/etc/crivet/config.yaml", &config.replace("\nmode: audit", "\nmode: enforce"));
    walk.machine.ok(["systemctl", "reload", "crivet"]);
    wait_for("the refusal of the switch", LONG, || walk.journal().contains("late").then_some(()));
    walk.starts("still-audited", &images.unsigned.reference);
    walk.pods.remove_pod("still-audited");
    walk.pods.remove_pod("audited");
    walk.machine.write("/etc/crivet/config.yaml", &config);
    let audits = policy("late", &format!("{host}/team/late"), &key, "  mode: audit\n");
    walk.machine.write(&format!("{policies}/late.yaml"), &audits);
    walk.step("enforce-one");
    wait_for("enforcement", LONG, || enforces().then_some(()));
    walk.is_refused("refused", &images.unsigned.reference);
    walk.starts("enforced", &images.app.reference);
    walk.starts("late", &images.late.reference);
    walk.step("enforced");

    walk.step("break-glass");
    wait_for("the broken glass", LONG, || (!enforces()).then_some(()));
    walk.starts("glass", &images.unsigned.reference);
    walk.pods.remove_pod("glass");
    walk.step("glass-back");
    wait_for("enforcement", LONG, || enforces().then_some(()));
    walk.is_refused("refused-again", &images.unsigned.reference);
    walk.step("bypass");
    wait_kubelet(&walk.machine, &walk.pods);
    walk.starts("bypassed", &images.app.reference);
    walk.step("back-again");
    wait_kubelet(&walk.machine, &walk.pods);
    walk.is_refused("refused-still", &images.unsigned.reference);
    walk.pods.add_pod("upgraded", &images.app.reference, &json!({}));
    walk.step("upgrade");
    walk.ready("upgraded");
    walk.step("uninstall");
    wait_kubelet(&walk.machine, &walk.pods);
    walk.starts("unvetted", &images.unsigned.reference);
    walk.step("remove");
    assert_eq!(running(&walk.pods, &names), before, "pods from before the rollout were started anew");
    assert_eq!(walk.machine.ok(["sh", "-c", TREE]), untouched, "the node is not as it was");
    assert!(walk.todo.is_empty(), "not followed: {:?}", walk.todo);
}

/// Files that are the administrator's or a package's, with owner, mode and content. The package's user stays, and policies do.
const TREE: &str = "find /etc /usr/bin /usr/lib /usr/share /var/lib/kubelet/*.* -xdev \\( -path /etc/crivet -o -path /usr/lib/locale \\) -prune -o \
    \\( -type f -o -type l \\) ! -name 'passwd*' ! -name 'group*' ! -name '*shadow*' ! -name 'sub?id*' ! -name '*.cache' \
    -printf '%M %U %G %s %p %l\\n' | sort";

struct Images {
    app: Pushed,
    /// Covered by a policy that asks for a signature, and without one.
    late: Pushed,
    unsigned: Pushed,
    /// Signed under another repository's name.
    copy: Pushed,
    /// Covered by no policy.
    other: Pushed,
}

impl Images {
    fn push(peers: &Peers, registry: &Registry, cosign: &Cosign, key: &Key) -> Images {
        let push = |name: &str, tag: &str| Image::says(peers, name).push(registry, name, tag);
        let images = Images {
            app: push("team/app", "v1"),
            late: push("team/late", "v1"),
            unsigned: push("team/unsigned", "v1"),
            copy: Image::says(peers, "copy").push(registry, "team/copy", "v1"),
            other: push("third/tool", "v1"),
        };
        cosign.sign(key, &images.app.by_digest, &[]);
        let identity = format!("{}/upstream/copy", registry.address());
        cosign.sign(key, &images.copy.by_digest, &["--sign-container-identity", &identity]);
        images
    }
}

fn policy(name: &str, glob: &str, key: &Key, spec: &str) -> String {
    crate::support::crivet::policy(name, glob, &format!("{spec}{}", signed_by(key)))
}

/// A key as the guide's policy has it.
fn pem(key: &Key) -> String {
    let text = &key.public;
    let lines: String = text.lines().map(|line| format!("          {line}\n")).collect();
    format!("\n{lines}")
}

/// Whether the machine's crivet enforces, by its metrics.
pub fn enforces() -> bool {
    let Ok(page) = http::request("127.0.0.1:9466", "GET", "/metrics", &[], &[]) else { return false };
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let line = page.lines().find(|line| line.starts_with("crivet_mode_info{") && line.ends_with(" 1"));
    line.is_some_and(|line| line.contains(",mode=\"enforce\""))
}
