//! A runtime handler of a real CRI-O whose guest pulls images by itself.

use super::Node;
use crate::support::crictl::Crictl;
use crate::support::crivet::{Crivet, key_policy};
use crate::support::image::Pushed;
use crate::support::node::{UNDECIDED, assert_refused};
use crate::support::wait_for;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// Where CRI-O writes down by which handler a sandbox was made, and the pod's author may write, too.
const HANDLER: &str = "io.kubernetes.cri-o.RuntimeHandler";
const PULLS: &str = "\\\"guest\\\" has runtime_pull_image";
const STARTED: &str = "the guest's shim was started";

impl Node {
    /// From now on the handler `guest` does what runc does.
    fn guest_is_like_runc(&mut self) {
        self.crio.write_handler("guest", &self.crio.like_runc());
        self.crio.restart(&self.peers);
    }

    /// From now on the handler `guest` is of type `vm` and pulls images by itself. Its shim does nothing but leave a file.
    fn guest_pulls(&mut self) -> PathBuf {
        let (lines, started) = self.guest_that_pulls();
        self.crio.write_handler("guest", &lines);
        self.crio.restart(&self.peers);
        started
    }

    /// The lines of such a handler, and the file.
    fn guest_that_pulls(&self) -> (String, PathBuf) {
        let dir = self.peers.path().join("guest");
        fs::create_dir_all(&dir).unwrap();
        let (shim, started) = (dir.join("containerd-shim-guest-v2"), dir.join("started"));
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *' start '*) : >{}; echo \"{STARTED}\" >&2 ;; esac\nexit 1\n",
            started.display()
        );
        fs::write(&shim, script).unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        let lines = format!(
            "runtime_path = \"{}\"\nruntime_type = \"vm\"\nruntime_root = \"{}\"\nruntime_pull_image = true\n",
            shim.display(),
            dir.display()
        );
        (lines, started)
    }

    /// The same policy with other settings.
    fn again(self, mode: &str, settings: &str) -> Self {
        let Self { crivet, crio, registry, cosign, key, peers } = self;
        drop(crivet);
        let policy = key_policy("all", &format!("{}/**", registry.address()), &key);
        let crivet = Crivet::start_with(&peers, &crio, mode, &[policy], settings, "info");
        Self { crivet, crio, registry, cosign, key, peers }
    }

    fn unbound(&self, kind: &str, effective: &str) -> Value {
        let is_it = |record: &Value| record["kind"] == kind && record["reason"] == "ContentUnbound";
        let record =
            wait_for("its record", Duration::from_secs(20), || self.crivet.audit().into_iter().find(is_it));
        let said = [&record["decision"], &record["effective"]];
        assert_eq!(said, [&json!("undecided"), &json!(effective)], "{record:#}");
        record
    }
}

fn create(crictl: &Crictl, pod: &str, name: &str, image: &Pushed) -> Result<String, String> {
    let named = json!({"image": image.by_digest, "user_specified_image": image.reference});
    crictl.create_of(name, pod, "e2e", &named, &json!([]))
}

#[test]
fn a_guest_that_pulls_by_itself_makes_nothing_unless_it_is_named() {
    let Some(mut node) = Node::start("enforce") else { return };
    let signed = node.push_signed("signed");
    let (crictl, direct) = (node.crivet.crictl().clone(), node.crio.crictl().clone());
    crictl.pull(&signed.reference).unwrap();

    // While it is a handler like any other, pods of it start.
    node.guest_is_like_runc();
    let before = crictl.sandbox_of("before", "guest").unwrap();
    let made = create(&crictl, &before, "before", &signed).unwrap();
    direct.run(["rm", &made]).unwrap();
    // The pods' authors say by which handler they are.
    let forge = |name, what| direct.sandbox_with(name, "guest", what, &json!({HANDLER: "runc"})).unwrap();
    let forged = ["labels", "annotations"].map(|what| forge(what, what));
    let ordinary = crictl.sandbox("ordinary").unwrap();
    let pods = direct.run(["pods", "--quiet"]).unwrap().lines().count();
    let containers = direct.run(["ps", "--all", "--quiet"]).unwrap();
    let started = node.guest_pulls();
    // What was known of CRI-O's configuration is believed for some seconds.
    let believed = Duration::from_secs(crivet::limits::CRIO_CONFIG_SECONDS);
    std::thread::sleep(believed);

    assert_refused(crictl.sandbox_of("guest", "guest"), UNDECIDED, &[PULLS, "insecureAllowRuntimes"]);
    let record = node.unbound("RunPodSandbox", "refused");
    assert_eq!(record["pod"], "guest", "{record:#}");
    assert_refused(create(&crictl, &before, "refused", &signed), UNDECIDED, &[PULLS]);
    let record = node.unbound("CreateContainer", "refused");
    assert_eq!((&record["pod"], &record["reference"]), (&json!("refused"), &json!(signed.reference)));
    for pod in &forged {
        let refused = create(&crictl, pod, "forged", &signed);
        assert_refused(refused, UNDECIDED, &[HANDLER, "of its own, which hides its runtime handler"]);
    }
    // CRI-O was asked for none of it.
    assert_eq!(direct.run(["pods", "--quiet"]).unwrap().lines().count(), pods);
    assert_eq!(direct.run(["ps", "--all", "--quiet"]).unwrap(), containers);
    assert!(!started.exists());

    // Pods of other handlers are as before.
    create(&crictl, &ordinary, "ordinary", &signed).unwrap();
    let named = crictl.sandbox_of("named", "runc").unwrap();
    create(&crictl, &named, "named", &signed).unwrap();
    // What is not there CRI-O would refuse by itself.
    let gone = crictl.sandbox_of("gone", "gone");
    assert_refused(gone, UNDECIDED, &["no runtime handler \\\"gone\\\"", "\\\"guest\\\", \\\"runc\\\""]);

    // CRI-O says something else from now on, and goes on by what it was started with.
    let like_runc = node.crio.like_runc();
    node.crio.write_handler("guest", &like_runc);
    node.crio.reload_handler("guest", &like_runc);
    std::thread::sleep(believed);
    assert_refused(crictl.sandbox_of("reloaded", "guest"), UNDECIDED, &[PULLS, "restart it"]);
    assert!(!started.exists());
    assert!(direct.sandbox_of("reloaded", "guest").unwrap_err().contains(STARTED));
    fs::remove_file(&started).unwrap();

    let node = node.again("enforce", "insecureAllowRuntimes: [guest]\n");
    let error = node.crivet.crictl().sandbox_of("allowed", "guest").unwrap_err();
    assert!(error.contains(STARTED) && !error.contains(UNDECIDED), "{error}");
    assert!(started.exists());
    let error = create(node.crivet.crictl(), &before, "allowed", &signed).unwrap_err();
    assert!(error.contains(STARTED) && !error.contains(UNDECIDED), "{error}");
}

#[test]
fn a_guest_that_pulls_by_itself_is_recorded_in_audit_mode() {
    let Some(mut node) = Node::start("audit") else { return };
    let signed = node.push_signed("signed");
    let crictl = node.crivet.crictl().clone();
    crictl.pull(&signed.reference).unwrap();
    node.guest_is_like_runc();
    let before = node.crio.crictl().sandbox_of("before", "guest").unwrap();
    node.guest_pulls();
    // The runtime's own words.
    let error = crictl.sandbox_of("guest", "guest").unwrap_err();
    assert!(error.contains(STARTED) && !error.contains(UNDECIDED), "{error}");
    let record = node.unbound("RunPodSandbox", "forwarded");
    assert!(record["message"].as_str().unwrap().contains("\"guest\" has runtime_pull_image"), "{record:#}");
    let error = create(&crictl, &before, "create", &signed).unwrap_err();
    assert!(error.contains(STARTED) && !error.contains(UNDECIDED), "{error}");
    node.unbound("CreateContainer", "forwarded");
}

#[test]
fn what_runs_by_a_guest_that_pulls_by_itself_is_undecided_in_the_inventory() {
    let Some(mut node) = Node::start("audit") else { return };
    let (guests, others) = (node.push_signed("guests"), node.push_signed("others"));
    node.guest_is_like_runc();
    let crictl = node.crio.crictl();
    for (handler, image) in [("guest", &guests), ("runc", &others)] {
        crictl.pull(&image.reference).unwrap();
        let pod = crictl.sandbox_of(handler, handler).unwrap();
        let made = create(crictl, &pod, handler, image).unwrap();
        crictl.run(["start", &made]).unwrap();
    }
    let (lines, _) = node.guest_that_pulls();
    node.crio.write_handler("guest", &lines);
    node.crio.reload_handler("guest", &lines);
    let (code, said) = node.crivet.json("inventory", &[]);
    let row = |image: &Pushed| {
        let running = said["running"].as_array().unwrap();
        running.iter().find(|row| row["reference"] == image.by_digest).expect(&image.by_digest)
    };
    assert_eq!((code, &row(&others)["decision"]), (Some(2), &json!("allowed")), "{said:#}");
    let row = row(&guests);
    assert_eq!(row["decision"], json!("undecided"), "{row:#}");
    assert!(row["message"].as_str().unwrap().contains("\"guest\" has runtime_pull_image"), "{row:#}");
}
