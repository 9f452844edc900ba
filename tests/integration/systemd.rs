//! The unit files, judged by systemd's own tools. Nothing is started or installed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crivet::node::journal::Pointed;
use crivet::node::plan;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

/// Runs a tool of systemd's; `None`, and says so, if the machine has none.
fn run(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!(
                "skipped: {} is not on this machine (Debian package systemd)",
                command.get_program().display()
            );
            None
        }
        Err(error) => panic!("{command:?}: {error}"),
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The units as they ship, but for where the binary is; and a kubelet for the drop-in.
fn units() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let service = fs::read_to_string(shipped().join("crivet.service")).unwrap();
    assert!(service.contains("\nExecStart=/usr/bin/crivet serve --config /etc/crivet/config.yaml\n"));
    let service = service.replace("/usr/bin/crivet", env!("CARGO_BIN_EXE_crivet"));
    fs::write(dir.path().join("crivet.service"), service).unwrap();
    fs::copy(shipped().join("crivet.socket"), dir.path().join("crivet.socket")).unwrap();
    let check = fs::read_to_string(shipped().join("crivet-content.service")).unwrap();
    assert!(check.contains("\nExecStart=/usr/bin/crivet content check --config /etc/crivet/config.yaml\n"));
    let check = check.replace("/usr/bin/crivet", env!("CARGO_BIN_EXE_crivet"));
    fs::write(dir.path().join("crivet-content.service"), check).unwrap();
    fs::copy(shipped().join("crivet-content.timer"), dir.path().join("crivet-content.timer")).unwrap();
    let requested = fs::read_to_string(shipped().join("crivet-content-requested.service")).unwrap();
    let command = "/usr/bin/crivet content check --requested --config /etc/crivet/config.yaml";
    assert!(requested.contains(&format!("\nExecStart={command}\n")));
    let requested = requested.replace("/usr/bin/crivet", env!("CARGO_BIN_EXE_crivet"));
    fs::write(dir.path().join("crivet-content-requested.service"), requested).unwrap();
    let path = fs::read_to_string(shipped().join("crivet-content-requested.path")).unwrap();
    assert!(path.contains(&format!("\nPathExists=/run/crivet/{}\n", crivet::relay::requested::NAME)));
    fs::write(dir.path().join("crivet-content-requested.path"), path).unwrap();
    let kubelet = "[Service]\nExecStart=/bin/true $KUBELET_EXTRA_ARGS\n";
    fs::write(dir.path().join("kubelet.service"), kubelet).unwrap();
    let drop_in = dir.path().join("kubelet.service.d");
    fs::create_dir(&drop_in).unwrap();
    fs::write(drop_in.join(plan::DROP_IN), kubelets_drop_in()).unwrap();
    dir
}

/// The drop-in that `crivet node install` would write for that kubelet.
fn kubelets_drop_in() -> String {
    plan::drop_in_text(&Pointed {
        stage: plan::Stage::Image,
        unit: "kubelet.service".to_owned(),
        base: "/bin/true $KUBELET_EXTRA_ARGS".to_owned(),
        flags: vec!["--image-service-endpoint=unix:///run/crivet/crivet.sock".to_owned()],
        is_the_kubelet: true,
        healthz: None,
    })
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let dir = units();
    for unit in [
        "crivet.service",
        "crivet.socket",
        "crivet-content.service",
        "crivet-content.timer",
        "crivet-content-requested.service",
        "crivet-content-requested.path",
        "kubelet.service",
    ] {
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]).arg(dir.path().join(unit));
        let Some(output) = run(&mut verify) else { return };
        assert!(output.status.success(), "{unit}: {}", said(&output));
        // An unknown key is only a warning. Those about other units of this machine are not ours.
        let said = said(&output);
        let ours = dir.path().to_string_lossy();
        let warnings: Vec<_> = said.lines().filter(|line| line.contains(&*ours)).collect();
        assert!(warnings.is_empty(), "{unit}: {warnings:#?}");
    }
}

#[test]
fn the_services_are_exposed_no_more_than_they_must_be() {
    let dir = units();
    // In tenths. 2.1 with the vetter's drop to its user and the network, on systemd 252; versions differ a little.
    for (unit, threshold) in [
        ("crivet.service", "24"),
        ("crivet-content.service", "24"),
        ("crivet-content-requested.service", "24"),
    ] {
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=yes", "--threshold", threshold]).arg(dir.path().join(unit));
        let Some(output) = run(&mut security) else { return };
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn users_and_folders_are_made_with_their_owners() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let at = |tool: &str| {
        let mut command = Command::new(tool);
        command.arg("--root").arg(root.path());
        command
    };
    let Some(users) = run(at("systemd-sysusers").arg(shipped().join("sysusers.d/crivet.conf"))) else {
        return;
    };
    if !users.status.success() && rustix::process::geteuid().as_raw() != 0 {
        println!("skipped: making users in a root of their own needs root");
        return;
    }
    assert!(users.status.success(), "{}", said(&users));
    let passwd = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let user: Vec<_> = passwd.lines().find(|l| l.starts_with("crivet:")).unwrap().split(':').collect();
    assert!(user[6].ends_with("nologin"), "{user:?}");
    let uid: u32 = user[2].parse().unwrap();
    let folders =
        run(at("systemd-tmpfiles").arg("--create").arg(shipped().join("tmpfiles.d/crivet.conf"))).unwrap();
    assert!(folders.status.success(), "{}", said(&folders));
    for (path, mode, owner) in [
        ("etc/crivet/policies.d", 0o755, 0),
        ("run/crivet", 0o755, 0),
        ("var/lib/crivet", 0o755, 0),
        ("var/lib/crivet/vetter", 0o700, uid),
        ("var/log/crivet", 0o750, uid),
    ] {
        let metadata = fs::metadata(root.path().join(path)).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid()), (mode, owner), "{path}");
    }
}

#[test]
fn nothing_ties_crivet_to_another_units_end() {
    let shipped_text = |unit| (unit, fs::read_to_string(shipped().join(unit)).unwrap());
    let units =
        [shipped_text("crivet.service"), shipped_text("crivet.socket"), ("drop-in", kubelets_drop_in())];
    for (unit, text) in units {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let key = line.split('=').next().unwrap();
            assert!(
                !["Requires", "Requisite", "BindsTo", "PartOf", "MemoryMax", "MemoryHigh"].contains(&key),
                "{unit}: {line}"
            );
        }
    }
    let service = fs::read_to_string(shipped().join("crivet.service")).unwrap();
    for line in [
        "StartLimitIntervalSec=0",
        "Restart=always",
        "RestartSec=1",
        "RuntimeDirectoryPreserve=yes",
        "OOMPolicy=continue",
        "Type=notify",
        "CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL",
    ] {
        assert!(service.lines().any(|l| l == line), "{line}");
    }
}
