//! Installing, taking back, and the way around in an emergency.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::NodeError;
use super::api::{self, Access};
use super::check::{self, Calls, Through};
use super::detect::show;
use super::host::{Host, read, read_text};
use super::journal::{
    self, FOLDER, Journal, Part, STATE, Step, UnitState, put_back, remove_file, write_file,
};
use super::plan::{self, DROP_IN, Plan, SWITCH, TRIAL, UNITS, VOLATILE, drop_in, trial};
use super::unit::{self, UnitFile};

/// Tells that somebody took the emergency way.
pub const MARKER: &str = "/var/lib/crivet/node/bypass.json";
/// How long crivet may take to answer its first call.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Why the kubelet was pointed past crivet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypass {
    /// The operator's reason.
    pub reason: String,
    /// Seconds since 1970.
    pub at: u64,
}

/// The marker of a bypass, if there is one that can be read.
pub fn bypassed(host: &dyn Host) -> Option<Bypass> {
    Some(marked(&read(host, Path::new(MARKER)).ok().flatten()?))
}

/// What the marker's bytes say.
pub fn marked(bytes: &[u8]) -> Bypass {
    let unreadable = |_| Bypass { reason: format!("{MARKER} cannot be read"), at: 0 };
    serde_json::from_slice(bytes).unwrap_or_else(unreadable)
}

/// Does what the plan says. If the kubelet does not come through, everything is taken back, and the error says why.
pub fn install(host: &dyn Host, plan: &Plan, mut journal: Journal) -> Result<(), NodeError> {
    journal.trying = Some(plan.pointed.clone());
    let Err(why) = forward(host, plan, &mut journal) else {
        host.say(true, &format!("installed: {}", plan.pointed.stage.words()));
        return Ok(());
    };
    host.say(true, &format!("{why}; taking everything back"));
    match rollback(host, &mut journal, plan.timeout) {
        Ok(()) => Err(NodeError::NotThrough(format!("{why}; the node is as it was before"))),
        Err(error) => Err(NodeError::NotThrough(format!(
            "{why}; AND THE NODE IS NOT AS IT WAS: {error}; run `crivet node bypass` or see `systemctl status {}`",
            plan.pointed.unit
        ))),
    }
}

fn forward(host: &dyn Host, plan: &Plan, journal: &mut Journal) -> Result<(), NodeError> {
    let unit = &plan.pointed.unit;
    journal.make_folder(host, Path::new(STATE), 0o755, None)?;
    for folder in &plan.folders {
        journal.make_folder(host, &folder.path, folder.mode, folder.owner)?;
    }
    for file in &plan.files {
        journal.write_file(host, &file.path, &file.text, Part::Crivet)?;
    }
    if !plan.files.is_empty() {
        host.systemctl(&["daemon-reload"])?;
    }
    note_checks(host, plan, journal)?;
    start_crivet(host, plan, journal)?;
    ask(host, plan)?;
    go_on(host)?;
    arm(host, plan)?;

    journal.step(host, Step::Restart { unit: unit.clone() })?;
    let trial = trial(unit);
    make_volatile_folder(host, &trial)?;
    write_file(host, &trial, plan.drop_in.as_bytes(), 0o644, None)?;
    host.systemctl(&["daemon-reload"])?;
    in_force(host, plan, &trial)?;
    let access = ready_before(host, plan);
    let (old_pid, since) = (show(host, unit)?.pid, host.now());
    host.systemctl(&["restart", "--no-block", unit])?;
    host.say(false, &format!("restarted {unit}; waiting for the kubelet"));
    let flags = if plan.pointed.is_the_kubelet { plan.pointed.flags.as_slice() } else { &[] };
    let through = Through {
        unit,
        old_pid,
        flags,
        healthz: plan.pointed.healthz,
        calls: Some(Calls { listen: &plan.listen, connections: plan.pointed.flags.len(), since }),
        ready: access.as_ref().map(|access| (access, since)),
    };
    for unseen in check::wait(host, &through, plan.timeout, true)? {
        host.say(false, &format!("not seen: {unseen}"));
    }

    let stays = drop_in(unit);
    journal.write_file(host, &stays, &plan.drop_in, Part::Kubelet)?;
    remove_volatile(host, &trial)?;
    host.systemctl(&["daemon-reload"])?;
    in_force(host, plan, &stays)?;
    journal.installed = journal.trying.take();
    journal.committed = journal.steps.len();
    journal.write(host)?;
    // From here on it stands, whatever happens to the rest.
    let rest = disarm(host).and_then(|()| remove_file(host, Path::new(MARKER)));
    if let Err(error) = rest {
        host.say(true, &format!("installed, but: {error}"));
    }
    Ok(())
}

/// Has the units that check the node's disk taken back as they are now: who enables them since, leaves links to them.
fn note_checks(host: &dyn Host, plan: &Plan, journal: &mut Journal) -> Result<(), NodeError> {
    let state = |name: &&str| {
        let shown = show(host, name)?;
        // Those that have nothing to be enabled by count as if they were.
        Ok(UnitState { name: (*name).to_owned(), enabled: shown.enabled, active: shown.active == "active" })
    };
    let before = plan.checks.iter().map(state).collect::<Result<Vec<_>, NodeError>>()?;
    if before.is_empty() { Ok(()) } else { journal.step(host, Step::Units { before }) }
}

fn start_crivet(host: &dyn Host, plan: &Plan, journal: &mut Journal) -> Result<(), NodeError> {
    let mut before = Vec::new();
    for name in UNITS {
        let shown = show(host, name)?;
        let active = shown.active == "active";
        before.push(UnitState { name: name.to_owned(), enabled: shown.enabled, active });
    }
    let ready = before.iter().all(|unit| unit.enabled && unit.active);
    if ready && !plan.restart_crivet {
        return Ok(());
    }
    // systemd starts no socket of a service that runs already.
    let without_socket = matches!(before.as_slice(), [socket, service] if service.active && !socket.active);
    journal.step(host, Step::Units { before })?;
    if plan.restart_crivet || without_socket {
        stop_crivet(host)?;
    }
    let [socket, service] = UNITS;
    host.systemctl(&["enable", socket, service])?;
    host.systemctl(&["start", socket, service])?;
    Ok(())
}

/// The socket first: it would start the service again for a call that waits.
fn stop_crivet(host: &dyn Host) -> Result<(), NodeError> {
    for name in UNITS {
        let shown = show(host, name)?;
        if shown.loaded && shown.active != "inactive" {
            host.systemctl(&["stop", name])?;
        }
    }
    Ok(())
}

/// Asks through crivet what the kubelet asks first.
fn ask(host: &dyn Host, plan: &Plan) -> Result<(), NodeError> {
    let until = host.elapsed() + FIRST_ANSWER;
    loop {
        let why = match host.runtime(&plan.listen) {
            Ok(runtime) if runtime == plan.found.runtime => return Ok(()),
            Ok(other) => format!("it answers as {} {}", other.name, other.version),
            Err(error) => error.to_string(),
        };
        if host.elapsed() >= until {
            return Err(NodeError::NotThrough(format!(
                "the runtime cannot be reached through crivet: {why}; `journalctl -u crivet` says more"
            )));
        }
        go_on(host)?;
        host.sleep(Duration::from_millis(500));
    }
}

fn go_on(host: &dyn Host) -> Result<(), NodeError> {
    match host.interrupted() {
        true => Err(NodeError::NotThrough("interrupted".to_owned())),
        false => Ok(()),
    }
}

/// The way to the API server, if it can be asked and calls the Node Ready: then it must do so afterwards.
fn ready_before(host: &dyn Host, plan: &Plan) -> Option<Access> {
    let path = plan.found.kubeconfig.as_ref()?;
    let asked = api::access(host, path).and_then(|access| Ok((host.node(&access)?, access)));
    match asked {
        Ok((node, access)) if node.ready => Some(access),
        Ok((node, access)) => {
            let text =
                format!("Node {} is not Ready as it is, so it need not be: {}", access.node, node.message);
            host.say(true, &text);
            None
        }
        Err(error) => {
            host.say(false, &format!("not seen: whether the Node is Ready: {error}"));
            None
        }
    }
}

/// That systemd would run what the drop-in says, and nobody's else.
fn in_force(host: &dyn Host, plan: &Plan, drop_in: &Path) -> Result<(), NodeError> {
    let unit = &plan.pointed.unit;
    let shown = show(host, unit)?;
    let mut files = Vec::new();
    for path in &shown.paths {
        let text = read_text(host, path)?.unwrap_or_default();
        files.push(UnitFile { path: path.clone(), text });
    }
    let command = unit::exec_start(unit, &files)?;
    if command.path != drop_in || !command.value.ends_with(&plan.pointed.flags.join(" ")) {
        return Err(NodeError::NotThrough(format!(
            "expected ExecStart= of {unit} to be that of {}, found that of {}; `systemctl cat {unit}` shows them",
            drop_in.display(),
            command.path.display()
        )));
    }
    Ok(())
}

fn arm(host: &dyn Host, plan: &Plan) -> Result<(), NodeError> {
    for file in plan.switch(host.program()) {
        make_volatile_folder(host, &file.path)?;
        write_file(host, &file.path, file.text.as_bytes(), 0o644, None)?;
    }
    host.systemctl(&["daemon-reload"])?;
    host.systemctl(&["start", SWITCH[0]])?;
    Ok(())
}

/// Takes the dead man's switch away, if it is there.
fn disarm(host: &dyn Host) -> Result<(), NodeError> {
    let mut there = false;
    for name in SWITCH {
        let path = Path::new(VOLATILE).join(name);
        if host.path(&path).exists() {
            there = true;
            // The timer only: the service may be what runs this.
            if name == SWITCH[0] {
                host.systemctl(&["stop", name])?;
            }
            remove_file(host, &path)?;
        }
    }
    if there {
        host.systemctl(&["daemon-reload"])?;
    }
    Ok(())
}

/// Takes back what was begun and not ended. Nothing, if all was ended.
pub fn rollback(host: &dyn Host, journal: &mut Journal, timeout: Duration) -> Result<(), NodeError> {
    if journal.unfinished() {
        let kept = undo(host, journal, journal.committed, timeout)?;
        kept.iter().for_each(|line| host.say(false, line));
    }
    disarm(host)
}

/// Takes everything back: the kubelet first. Without a journal, only what points the kubelet at crivet.
pub fn uninstall(host: &dyn Host, timeout: Duration) -> Result<(), NodeError> {
    let Some(mut journal) = Journal::read(host)? else {
        if past_crivet(host, timeout)?.is_empty() {
            host.say(false, "nothing to take away: crivet was not installed by `crivet node install`");
        } else {
            host.say(
                true,
                "the kubelet is pointed at the runtime; there is no journal, so the rest was left alone",
            );
        }
        Journal::sweep(host)?;
        return disarm(host);
    };
    let kept = undo(host, &mut journal, 0, timeout)?;
    disarm(host)?;
    kept.iter().for_each(|line| host.say(false, line));
    host.say(true, "uninstalled: the kubelet is pointed at the runtime");
    Ok(())
}

/// Takes back the steps from one on; each may have been taken back before. What was kept is returned.
fn undo(
    host: &dyn Host,
    journal: &mut Journal,
    from: usize,
    timeout: Duration,
) -> Result<Vec<String>, NodeError> {
    let steps: Vec<_> = journal.steps.get(from..).unwrap_or_default().to_vec();
    kubelet_back(host, journal, &steps, timeout)?;

    let mut kept = Vec::new();
    let (mut changed, mut units) = (false, Vec::new());
    for step in steps.iter().rev() {
        match step {
            Step::Units { before } => {
                // The socket first: it would start the service again for a call that waits.
                for unit in before {
                    put_unit_back(host, unit)?;
                }
                units.extend(before.iter().filter(|unit| unit.active));
            }
            Step::File { path, before, after, part: Part::Crivet } => {
                changed = true;
                kept.extend(put_back(host, path, before.as_ref(), after, Part::Crivet)?);
            }
            Step::Folder { path } if path != Path::new(STATE) => {
                let here = host.path(path);
                // The vetter's own folder is emptied; others stay if somebody put something there.
                if path.starts_with(STATE) && here.exists() {
                    fs::remove_dir_all(&here).map_err(super::at(path))?;
                } else if here.exists() && fs::remove_dir(&here).is_err() {
                    kept.push(format!("kept {}: it is not empty", path.display()));
                }
            }
            Step::Folder { .. } | Step::File { .. } | Step::Restart { .. } => {}
        }
    }
    if changed {
        host.systemctl(&["daemon-reload"])?;
    }
    // They ran before, with other files: they are theirs again.
    if changed && !units.is_empty() {
        stop_crivet(host)?;
        for unit in units {
            if show(host, &unit.name)?.loaded {
                host.systemctl(&["start", &unit.name])?;
            }
        }
    }
    let state_is_ours =
        steps.iter().any(|step| matches!(step, Step::Folder { path } if path == Path::new(STATE)));
    journal.steps.truncate(from);
    journal.committed = journal.committed.min(from);
    journal.trying = None;
    if from == 0 {
        journal.installed = None;
        remove_file(host, Path::new(MARKER))?;
        Journal::remove(host, state_is_ours)?;
    } else {
        journal.write(host)?;
    }
    Ok(kept)
}

/// Points the kubelet back, and waits for it.
fn kubelet_back(
    host: &dyn Host,
    journal: &Journal,
    steps: &[Step],
    timeout: Duration,
) -> Result<(), NodeError> {
    let pointed = [&journal.trying, &journal.installed].into_iter().flatten().next();
    let restarted = steps.iter().rev().find_map(|step| match step {
        Step::Restart { unit } => Some(unit.as_str()),
        _ => None,
    });
    for step in steps.iter().rev() {
        if let Step::File { path, before, after, part: Part::Kubelet } = step {
            put_back(host, path, before.as_ref(), after, Part::Kubelet)?;
        }
    }
    let Some(unit) = restarted else { return Ok(()) };
    remove_volatile(host, &trial(unit))?;
    restart_and_wait(host, unit, pointed.and_then(|pointed| pointed.healthz), timeout)
}

fn restart_and_wait(
    host: &dyn Host,
    unit: &str,
    healthz: Option<std::net::SocketAddr>,
    timeout: Duration,
) -> Result<(), NodeError> {
    host.systemctl(&["daemon-reload"])?;
    let old_pid = show(host, unit)?.pid;
    // A kubelet that could not start may have used up its tries. One that did not fail has nothing to be reset.
    let _ = host.systemctl(&["reset-failed", unit]);
    host.systemctl(&["restart", "--no-block", unit])?;
    host.say(false, &format!("restarted {unit}; waiting for the kubelet"));
    let through = Through { unit, old_pid, flags: &[], healthz, calls: None, ready: None };
    check::wait(host, &through, timeout, false).map(drop)
}

fn put_unit_back(host: &dyn Host, unit: &UnitState) -> Result<(), NodeError> {
    let shown = show(host, &unit.name)?;
    if !shown.loaded {
        return Ok(());
    }
    if !unit.active && matches!(shown.active.as_str(), "active" | "activating" | "reloading" | "failed") {
        host.systemctl(&["stop", &unit.name])?;
        let _ = host.systemctl(&["reset-failed", &unit.name]);
    }
    if !unit.enabled && shown.enabled {
        host.systemctl(&["disable", &unit.name])?;
    }
    Ok(())
}

/// The emergency: points the kubelet past crivet at once. Needs neither crivet nor its configuration, and no journal
/// that can be read.
pub fn bypass(host: &dyn Host, reason: &str, timeout: Duration) -> Result<(), NodeError> {
    host.say(true, &format!("BYPASS: {reason}"));
    // Another command may hang; it is not waited for.
    let _lock = journal::lock(host, Duration::from_secs(2));
    let units = past_crivet(host, timeout);
    let marker = Bypass { reason: reason.to_owned(), at: host.now() };
    let noted = note_bypass(host, &marker);
    if let Err(error) = noted.and_then(|()| disarm(host)) {
        host.say(true, &format!("the bypass was not written down: {error}"));
    }
    match units?.as_slice() {
        [] => {
            let text = "BYPASS: no drop-in of crivet's was found: the kubelet is not pointed at crivet by this command";
            host.say(true, text);
        }
        units => host.say(
            true,
            &format!(
                "BYPASS: {} runs past crivet; nothing is vetted until `crivet node install`",
                units.join(" and ")
            ),
        ),
    }
    Ok(())
}

fn note_bypass(host: &dyn Host, marker: &Bypass) -> Result<(), NodeError> {
    let folder = host.path(Path::new(FOLDER));
    fs::create_dir_all(&folder).map_err(super::at(&folder))?;
    let text = serde_json::to_vec(marker).unwrap_or_default();
    write_file(host, Path::new(MARKER), &text, 0o644, None)?;
    // The rest of the installation stays, for an uninstall or another install.
    let Some(mut journal) = Journal::read(host)? else { return Ok(()) };
    journal
        .steps
        .retain(|step| !matches!(step, Step::Restart { .. } | Step::File { part: Part::Kubelet, .. }));
    (journal.committed, journal.installed, journal.trying) = (journal.steps.len(), None, None);
    journal.write(host)
}

/// Removes every drop-in of crivet's, by its name, and restarts what had one. The units are returned.
fn past_crivet(host: &dyn Host, timeout: Duration) -> Result<Vec<String>, NodeError> {
    let healthz = Journal::read(host).ok().flatten();
    let healthz = healthz.and_then(|journal| journal.installed.or(journal.trying)?.healthz);
    let mut units = Vec::new();
    for (folder, name) in [("/etc/systemd/system", DROP_IN), (VOLATILE, TRIAL)] {
        for entry in fs::read_dir(host.path(Path::new(folder))).into_iter().flatten().flatten() {
            let of = entry.file_name();
            let Some(unit) = of.to_str().and_then(|of| of.strip_suffix(".d")) else { continue };
            let path = Path::new(folder).join(&of).join(name);
            if host.path(&path).exists() {
                remove_file(host, &path)?;
                units.push(unit.to_owned());
            }
        }
    }
    units.sort();
    units.dedup();
    for unit in &units {
        restart_and_wait(host, unit, healthz, timeout)?;
    }
    Ok(units)
}

fn make_volatile_folder(host: &dyn Host, path: &Path) -> Result<(), NodeError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    fs::create_dir_all(host.path(folder)).map_err(super::at(folder))
}

fn remove_volatile(host: &dyn Host, path: &Path) -> Result<(), NodeError> {
    remove_file(host, path)?;
    if let Some(folder) = path.parent() {
        let _ = fs::remove_dir(host.path(folder));
    }
    Ok(())
}

/// Whether the drop-in of a unit is as it was written.
pub fn drop_in_edited(host: &dyn Host, pointed: &journal::Pointed) -> Result<bool, NodeError> {
    let there = read(host, &drop_in(&pointed.unit))?;
    Ok(there.as_deref() != Some(plan::drop_in_text(pointed).as_bytes()))
}
