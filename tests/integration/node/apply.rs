//! Installing and taking back, killed anywhere.

use std::fs;
use std::path::Path;

use super::fake::Fake;
use super::{MINUTE, planned};
use crivet::node::NodeError;
use crivet::node::apply::{bypass, install, rollback, uninstall};
use crivet::node::host::Host;
use crivet::node::journal::Journal;
use crivet::node::plan::{Stage, drop_in, trial};
use crivet::node::status::status;

const KUBELET: &str = "kubelet.service";
const CONFIG: &str = "/etc/crivet/config.yaml";

fn run(fake: &Fake, stage: Option<Stage>) -> Result<(), NodeError> {
    let journal = Journal::read(fake)?.unwrap_or_default();
    install(fake, &planned(fake, stage)?, journal)
}

fn is_direct(fake: &Fake) -> bool {
    fake.is_active(KUBELET) && !fake.command_line(KUBELET).contains("crivet")
}

#[test]
fn the_stages_go_on_and_all_of_it_comes_off() {
    let fake = Fake::kubeadm();
    let before = fake.manifest();
    run(&fake, None).unwrap();
    assert_eq!(status(&fake).unwrap().in_front, Some(Stage::Image));
    run(&fake, Some(Stage::Both)).unwrap();
    assert_eq!(status(&fake).unwrap().in_front, Some(Stage::Both));
    let restarts = fake.restarts.get();
    assert!(planned(&fake, None).unwrap().in_place);
    run(&fake, Some(Stage::Image)).unwrap();
    assert_eq!((status(&fake).unwrap().in_front, fake.restarts.get()), (Some(Stage::Image), restarts + 1));
    uninstall(&fake, MINUTE).unwrap();
    fake.is_as(&before, "afterwards");
    assert!(is_direct(&fake) && !fake.is_active("crivet.service"));
    uninstall(&fake, MINUTE).unwrap();
    assert_eq!(fake.restarts.get(), restarts + 2);
}

const CHECKS: [&str; 4] = [
    "crivet-content.timer",
    "crivet-content-requested.path",
    "crivet-content.service",
    "crivet-content-requested.service",
];

#[test]
fn checks_come_without_being_enabled_and_go_though_they_were_enabled_since() {
    let fake = Fake::kubeadm();
    let before = fake.manifest();
    run(&fake, None).unwrap();
    for unit in CHECKS {
        let text = fake.read(&format!("/etc/systemd/system/{unit}"));
        assert!(!text.contains("/usr/bin/crivet "), "{unit}: {text}");
        assert_eq!(text.contains("ExecStart=/opt/bin/crivet content check"), unit.ends_with(".service"));
        assert!(!fake.is_active(unit) && !fake.is_enabled(unit), "{unit}");
    }
    assert!(!fake.exists("/etc/systemd/system/crivet-content-requested.path.d"));
    for unit in &CHECKS[..2] {
        fake.systemctl(&["enable", unit]).unwrap();
        fake.systemctl(&["start", unit]).unwrap();
    }
    // What is enabled stays so from one stage to the next.
    run(&fake, Some(Stage::Both)).unwrap();
    assert!(CHECKS[..2].iter().all(|unit| fake.is_active(unit) && fake.is_enabled(unit)));
    uninstall(&fake, MINUTE).unwrap();
    fake.is_as(&before, "afterwards");
    assert!(!CHECKS.iter().any(|unit| fake.is_active(unit)));
}

#[test]
fn checks_of_a_package_stay_the_package_s() {
    let fake = Fake::kubeadm();
    for unit in ["crivet.service", "crivet.socket"].iter().chain(&CHECKS) {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit);
        fake.write(&format!("/lib/systemd/system/{unit}"), &fs::read_to_string(shipped).unwrap());
    }
    fake.systemctl(&["enable", CHECKS[0]]).unwrap();
    fake.systemctl(&["start", CHECKS[0]]).unwrap();
    let before = fake.manifest();
    run(&fake, None).unwrap();
    assert!(CHECKS.iter().all(|unit| !fake.exists(&format!("/etc/systemd/system/{unit}"))));
    uninstall(&fake, MINUTE).unwrap();
    fake.is_as(&before, "afterwards");
    assert!(fake.is_active(CHECKS[0]) && fake.is_enabled(CHECKS[0]));

    // Of one that has none yet, neither: what its upgrade brings is not to be hidden.
    for unit in CHECKS {
        fs::remove_file(fake.at(&format!("/lib/systemd/system/{unit}"))).unwrap();
    }
    assert_eq!(planned(&fake, None).unwrap().checks, [""; 0]);
}

#[test]
fn requests_are_watched_for_where_crivet_s_socket_is() {
    let fake = Fake::kubeadm();
    run(&fake, None).unwrap();
    let config = fake.read(CONFIG).replace("/run/crivet/crivet.sock", "/run/crivet/cri/crivet.sock");
    uninstall(&fake, MINUTE).unwrap();
    fake.write(CONFIG, &config);
    let before = fake.manifest();
    run(&fake, None).unwrap();
    let drop_in = fake.read("/etc/systemd/system/crivet-content-requested.path.d/90-crivet-listen.conf");
    assert!(
        drop_in.ends_with("\n[Path]\nPathExists=\nPathExists=/run/crivet/cri/content-requested\n"),
        "{drop_in}"
    );
    assert!(planned(&fake, None).unwrap().in_place);
    uninstall(&fake, MINUTE).unwrap();
    fake.is_as(&before, "afterwards");
}

/// Kills an installation after each of its steps; `then` must bring the node back.
fn killed_everywhere(stage: Stage, before_that: impl Fn(&Fake), then: impl Fn(&Fake)) {
    for steps in 0.. {
        let fake = Fake::kubeadm();
        let before = fake.manifest();
        before_that(&fake);
        let ended = fake.killed_after(steps, || run(&fake, Some(stage)));
        if let Some(ended) = ended {
            ended.unwrap();
            assert!(steps > 50, "{steps}");
            return;
        }
        then(&fake);
        fake.is_as(&before, &format!("killed after {steps} steps"));
        assert!(is_direct(&fake), "killed after {steps} steps: {}", fake.command_line(KUBELET));
        assert!(!trial_is_there(&fake), "killed after {steps} steps");
    }
}

fn trial_is_there(fake: &Fake) -> bool {
    let switch = "/run/systemd/system/crivet-node-rollback.timer";
    fake.exists(trial(KUBELET).to_str().unwrap()) || fake.exists(switch)
}

#[test]
fn a_killed_installation_comes_off_byte_for_byte() {
    killed_everywhere(Stage::Both, |_| {}, |fake| uninstall(fake, MINUTE).unwrap());
}

#[test]
fn a_killed_change_of_stage_comes_off_byte_for_byte() {
    let image = |fake: &Fake| run(fake, Some(Stage::Image)).unwrap();
    killed_everywhere(Stage::Both, image, |fake| uninstall(fake, MINUTE).unwrap());
}

#[test]
fn a_reboot_in_the_middle_gives_the_kubelet_back_by_itself() {
    let back = |fake: &Fake| {
        let committed = Journal::read(fake).unwrap().is_some_and(|journal| journal.installed.is_some());
        fake.reboot();
        // Written to stay, but for the last words of the journal: the kubelet was through by then.
        assert!(is_direct(fake) || committed || fake.exists(drop_in(KUBELET).to_str().unwrap()));
        uninstall(fake, MINUTE).unwrap();
    };
    killed_everywhere(Stage::Both, |_| {}, back);
}

#[test]
fn the_dead_mans_switch_takes_back_what_was_begun() {
    for steps in 0.. {
        let fake = Fake::kubeadm();
        run(&fake, Some(Stage::Image)).unwrap();
        let stays = fake.read(drop_in(KUBELET).to_str().unwrap());
        let ended = fake.killed_after(steps, || run(&fake, Some(Stage::Both)));
        let mut journal = Journal::read(&fake).unwrap().unwrap();
        rollback(&fake, &mut journal, MINUTE).unwrap();
        let status = status(&fake).unwrap();
        assert!(!status.unfinished && status.drift.is_empty() && !trial_is_there(&fake), "{steps}: {status}");
        if ended.is_some() || status.in_front == Some(Stage::Both) {
            assert_eq!(status.installed.unwrap().stage, Stage::Both);
            return;
        }
        assert_eq!(status.in_front, Some(Stage::Image), "killed after {steps} steps");
        assert_eq!(fake.read(drop_in(KUBELET).to_str().unwrap()), stays, "killed after {steps} steps");
    }
}

#[test]
fn an_uninstallation_that_is_killed_is_ended_by_the_next() {
    for steps in 0.. {
        let fake = Fake::kubeadm();
        let before = fake.manifest();
        run(&fake, Some(Stage::Both)).unwrap();
        let ended = fake.killed_after(steps, || uninstall(&fake, MINUTE));
        uninstall(&fake, MINUTE).unwrap();
        fake.is_as(&before, &format!("killed after {steps} steps"));
        assert!(is_direct(&fake), "killed after {steps} steps");
        if ended.is_some() {
            assert!(steps > 30, "{steps}");
            return;
        }
    }
}

#[test]
fn a_kubelet_that_dies_is_taken_back_and_the_reason_told() {
    let fake = Fake::kubeadm();
    let before = fake.manifest();
    fake.refused.set("crivet.sock");
    let error = run(&fake, None).unwrap_err().to_string();
    assert!(error.contains("not through within 60 s: kubelet.service is inactive"), "{error}");
    assert!(error.ends_with("the node is as it was before"), "{error}");
    fake.is_as(&before, "afterwards");
    assert!(is_direct(&fake));
}

#[test]
fn a_kubelet_whose_calls_do_not_arrive_is_taken_back() {
    let fake = Fake::kubeadm();
    let before = fake.manifest();
    fake.connections.set(1);
    let error = run(&fake, Some(Stage::Both)).unwrap_err().to_string();
    assert!(error.contains("to arrive at crivet by 2 connections, found 1"), "{error}");
    fake.is_as(&before, "afterwards");
    assert!(is_direct(&fake));
}

#[test]
fn a_node_that_was_ready_must_be_so_again() {
    let node = |ready| {
        let fake = Fake::plain("/usr/bin/kubelet --kubeconfig=/etc/kubernetes/kubelet.conf");
        super::api::configure(&fake, &super::api::KUBECONFIG.replace("PORT", "6443"));
        fake.ready.set(ready);
        fake
    };
    let fake = node(Some(false));
    let before = fake.manifest();
    let error = run(&fake, None).unwrap_err().to_string();
    assert!(error.contains("Node node-1 is not Ready: PLEG is not healthy"), "{error}");
    fake.is_as(&before, "afterwards");
    run(&node(Some(true)), None).unwrap();
    // Nobody can tell: it is said, and not held against it.
    let fake = node(None);
    run(&fake, None).unwrap();
    assert!(fake.said.borrow().join("\n").contains("not seen: whether the Node is Ready"));
}

#[test]
fn an_interrupted_installation_is_taken_back() {
    let fake = Fake::kubeadm();
    let before = fake.manifest();
    fake.interrupted.set(true);
    assert!(run(&fake, None).unwrap_err().to_string().starts_with("interrupted"));
    fake.is_as(&before, "afterwards");
}

#[test]
fn a_configuration_that_was_edited_stays_and_is_named() {
    let fake = Fake::kubeadm();
    run(&fake, None).unwrap();
    let edited = fake.read(CONFIG) + "drainTimeout: 6s\n";
    fake.write(CONFIG, &edited);
    uninstall(&fake, MINUTE).unwrap();
    assert_eq!(fake.read(CONFIG), edited);
    let said = fake.said.borrow().join("\n");
    assert!(said.contains("kept /etc/crivet/config.yaml: it was edited since"), "{said}");
    assert!(is_direct(&fake));
}

#[test]
fn files_and_units_that_were_there_are_there_again() {
    let fake = Fake::kubeadm();
    fake.write("/lib/systemd/system/crivet.service", "[Service]\nExecStart=/usr/bin/crivet serve\n");
    fake.write("/lib/systemd/system/crivet.socket", "[Socket]\nListenStream=/run/crivet/other.sock\n");
    for folder in ["/etc/crivet/policies.d", "/var/lib/crivet/vetter", "/var/log/crivet"] {
        fs::create_dir_all(fake.at(folder)).unwrap();
    }
    fake.systemctl(&["enable", "crivet.socket", "crivet.service"]).unwrap();
    fake.systemctl(&["start", "crivet.socket", "crivet.service"]).unwrap();
    fake.write("/var/lib/crivet/config.last-good.yaml", "kept");
    fake.write(drop_in(KUBELET).to_str().unwrap(), "[Service]\nRestartSec=3\n");
    let before = fake.manifest();
    run(&fake, Some(Stage::Both)).unwrap();
    assert!(fake.exists("/etc/systemd/system/crivet.socket.d/90-crivet-listen.conf"));
    uninstall(&fake, MINUTE).unwrap();
    fake.is_as(&before, "afterwards");
    assert!(fake.is_active("crivet.socket") && fake.is_active("crivet.service"));
}

#[test]
fn bypass_needs_no_journal_and_no_configuration() {
    let fake = Fake::kubeadm();
    let before = fake.manifest();
    run(&fake, Some(Stage::Both)).unwrap();
    fake.write(CONFIG, "nonsense");
    fs::write(fake.at("/var/lib/crivet/node/journal.json"), "nonsense").unwrap();
    bypass(&fake, "it burns", MINUTE).unwrap();
    assert!(is_direct(&fake) && !fake.exists(drop_in(KUBELET).to_str().unwrap()));
    assert!(fake.said.borrow().join("\n").contains("BYPASS: it burns"));

    let fake = Fake::kubeadm();
    run(&fake, Some(Stage::Both)).unwrap();
    bypass(&fake, "it burns", MINUTE).unwrap();
    assert!(is_direct(&fake));
    let status = status(&fake).unwrap();
    assert_eq!((status.in_front, status.bypass.unwrap().reason.as_str()), (None, "it burns"));
    uninstall(&fake, MINUTE).unwrap();
    assert_eq!(fake.manifest().len(), before.len());
}

#[test]
fn later_drop_ins_that_do_not_set_the_command_are_in_nobodys_way() {
    let fake = Fake::kubeadm();
    fake.write("/etc/systemd/system/kubelet.service.d/95-mine.conf", "[Service]\nRestartSec=1\n");
    run(&fake, Some(Stage::Both)).unwrap();
    assert!(status(&fake).unwrap().drift.is_empty());
    let later = "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --mine\n";
    fake.write("/etc/systemd/system/kubelet.service.d/95-mine.conf", later);
    let drift = status(&fake).unwrap().drift;
    assert!(drift[0].contains("and is /usr/bin/kubelet --mine"), "{drift:?}");
}

#[test]
fn drift_is_noticed_and_mended_by_another_installation() {
    let fake = Fake::kubeadm();
    run(&fake, Some(Stage::Both)).unwrap();
    assert!(status(&fake).unwrap().drift.is_empty());
    // A package of a new kubelet brings another command.
    let unit = "/lib/systemd/system/kubelet.service.d/10-kubeadm.conf";
    fake.write(unit, &fake.read(unit).replace("$KUBELET_EXTRA_ARGS", "$KUBELET_EXTRA_ARGS --new"));
    let drift = status(&fake).unwrap().drift;
    assert!(drift.len() == 1 && drift[0].contains("--new in /lib/systemd"), "{drift:?}");
    run(&fake, None).unwrap();
    assert!(status(&fake).unwrap().drift.is_empty());
    assert!(fake.command_line(KUBELET).contains("--new --container-runtime-endpoint=unix:///run/crivet/"));

    fs::remove_file(fake.at(drop_in(KUBELET).to_str().unwrap())).unwrap();
    let drift = status(&fake).unwrap().drift;
    assert!(drift[0].contains("90-crivet.conf is gone"), "{drift:?}");
    // Still in front: the kubelet has not been restarted.
    assert_eq!(status(&fake).unwrap().in_front, Some(Stage::Both));
    assert!(Path::new(&fake.at("/run")).exists());
}

#[test]
fn a_kubelet_that_runs_past_crivet_is_mended_by_another_installation_though_all_files_are_there() {
    let fake = Fake::kubeadm();
    run(&fake, Some(Stage::Both)).unwrap();
    let drop_in = drop_in(KUBELET);
    let (path, text) = (drop_in.to_str().unwrap(), fake.read(drop_in.to_str().unwrap()));
    fs::remove_file(fake.at(path)).unwrap();
    fake.systemctl(&["restart", "--no-block", KUBELET]).unwrap();
    fake.write(path, &text);
    assert!(is_direct(&fake));
    let drift = status(&fake).unwrap().drift;
    assert!(drift.len() == 1 && drift[0].contains("run `crivet node install` again"), "{drift:?}");
    assert!(!planned(&fake, None).unwrap().in_place);
    run(&fake, None).unwrap();
    assert_eq!(status(&fake).unwrap().in_front, Some(Stage::Both));
    assert!(planned(&fake, None).unwrap().in_place);
}

#[test]
fn crivet_that_does_not_run_or_will_not_after_a_reboot_is_mended_by_another_installation() {
    let fake = Fake::kubeadm();
    run(&fake, Some(Stage::Both)).unwrap();
    for change in ["stop", "disable"] {
        for unit in ["crivet.socket", "crivet.service"] {
            assert!(planned(&fake, None).unwrap().in_place);
            fake.systemctl(&[change, unit]).unwrap();
            assert!(!planned(&fake, None).unwrap().in_place, "{change} {unit}");
            run(&fake, None).unwrap();
            assert!(fake.is_active(unit) && fake.is_enabled(unit), "{change} {unit}");
        }
    }
}
