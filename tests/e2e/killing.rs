//! The vetter is killed every second under load: audit loses no call and no time, enforce gives no wrong yes.
//! `CRIVET_KILLING_SECONDS` is how long, in either mode; 15 without it.

use crate::support::cri::Cri;
use crate::support::crivet::vetter_of;
use crate::support::image::Pushed;
use crate::support::node::{Node, Setup};
use crate::support::probe::Probe;
use crivet::cri::v1::CreateContainerRequest;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Kills each vetter a second after the one before, until dropped.
struct Killer {
    stop: Arc<AtomicBool>,
    killed: Arc<AtomicUsize>,
}

impl Killer {
    fn start(relay: u32) -> Self {
        let (stop, killed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let killer = Self { stop: Arc::clone(&stop), killed: Arc::clone(&killed) };
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
                let vetter = vetter_of(relay).and_then(Pid::from_raw);
                if vetter.is_some_and(|vetter| kill_process(vetter, Signal::KILL).is_ok()) {
                    killed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        killer
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Creates under load, and how they ended.
#[derive(Debug, Default)]
struct Creates {
    made: usize,
    refused: Vec<String>,
    /// Of a batch.
    slowest: Duration,
    all: Vec<Duration>,
}

impl Creates {
    /// Creates all at once; removes what was made.
    fn batch(&mut self, cri: &Cri, node: &Node, requests: Vec<CreateContainerRequest>) {
        let begun = Instant::now();
        let results = cri.create_at_once(requests);
        let took = begun.elapsed();
        self.slowest = self.slowest.max(took);
        self.all.push(took);
        let mut made = vec!["rm".to_owned()];
        for result in results {
            match result {
                Ok(id) => made.push(id),
                Err(status) => self.refused.push(status.message().to_owned()),
            }
        }
        self.made += made.len() - 1;
        if made.len() > 1 {
            node.containerd.crictl().run(made).unwrap();
        }
    }

    fn median(&self) -> Duration {
        let mut all = self.all.clone();
        all.sort();
        all.get(all.len() / 2).copied().unwrap_or_default()
    }
}

fn seconds() -> Duration {
    let given = std::env::var("CRIVET_KILLING_SECONDS").ok().map(|text| text.parse().expect("whole seconds"));
    Duration::from_secs(given.unwrap_or(15))
}

struct Load {
    node: Node,
    pod: String,
    signed: Pushed,
    unsigned: Pushed,
}

impl Load {
    fn start(mode: &str) -> Option<Self> {
        let node = Node::start(&Setup { mode, rust_log: "error", ..Setup::default() })?;
        let signed = node.push_signed("signed", &node.says("here"));
        let unsigned = node.push("unsigned", &node.says("never").file("unsigned", "x"));
        for image in [&signed, &unsigned] {
            node.preload(&image.reference);
        }
        let pod = node.crictl().sandbox("load").unwrap();
        Some(Self { node, pod, signed, unsigned })
    }

    /// A batch of creates. Half of them are for a namespace that no permit was ever given for: the vetter is asked.
    fn requests(&self, image: &Pushed, number: usize) -> Vec<CreateContainerRequest> {
        let request = |one| {
            let name = format!("c{number}-{one}-{}", image.id.get(7..19).unwrap());
            let mut request = Cri::create_request(&name, &self.pod, &image.id, &image.reference);
            let pod = request.sandbox_config.as_mut().and_then(|pod| pod.metadata.as_mut()).unwrap();
            if one % 2 == 0 {
                pod.namespace = format!("e2e-{number}-{one}");
            }
            request
        };
        (0..BATCH).map(request).collect()
    }
}

/// Creates at once.
const BATCH: usize = 4;

#[test]
fn a_vetter_killed_every_second_costs_audit_mode_no_call_and_no_time() {
    let Some(load) = Load::start("audit") else { return };
    let cri = Cri::connect(&load.node.crivet.socket());
    let mut before = Creates::default();
    for number in 0..20 {
        before.batch(&cri, &load.node, load.requests(&load.signed, number));
    }
    let probe = Probe::start(&load.node.crivet.socket());
    let killer = Killer::start(load.node.crivet.pid());
    let (mut during, begun, mut number) = (Creates::default(), Instant::now(), 1000);
    while begun.elapsed() < seconds() {
        for image in [&load.signed, &load.unsigned] {
            number += 1;
            during.batch(&cri, &load.node, load.requests(image, number));
        }
    }
    let answers = probe.end();
    eprintln!(
        "audit, {:?}: {} vetters killed; {} creates of {} made, {BATCH} at once, median {:?} (before: {:?}), slowest {:?} (before: {:?}); \
         {} other calls, {} failed, slowest {:?}",
        begun.elapsed(),
        killer.killed.load(Ordering::Relaxed),
        during.made,
        during.all.len() * BATCH,
        during.median(),
        before.median(),
        during.slowest,
        before.slowest,
        answers.calls,
        answers.failed.len(),
        answers.slowest
    );
    assert!(killer.killed.load(Ordering::Relaxed) > 0, "no vetter was killed");
    assert!(during.refused.is_empty(), "{:?}", during.refused);
    assert!(answers.failed.is_empty(), "{:?}", answers.failed);
}

#[test]
fn a_vetter_killed_every_second_makes_enforce_mode_say_no_wrong_yes() {
    let Some(load) = Load::start("enforce") else { return };
    let cri = Cri::connect(&load.node.crivet.socket());
    let probe = Probe::start(&load.node.crivet.socket());
    let killer = Killer::start(load.node.crivet.pid());
    let (mut good, mut bad) = (Creates::default(), Creates::default());
    let (begun, mut number) = (Instant::now(), 0);
    while begun.elapsed() < seconds() {
        number += 1;
        good.batch(&cri, &load.node, load.requests(&load.signed, number));
        bad.batch(&cri, &load.node, load.requests(&load.unsigned, number));
    }
    let answers = probe.end();
    eprintln!(
        "enforce, {:?}: {} vetters killed; signed: {} of {} creates made, median {:?}; unsigned: {} of {} made; \
         {} other calls, {} failed, slowest {:?}",
        begun.elapsed(),
        killer.killed.load(Ordering::Relaxed),
        good.made,
        good.all.len() * BATCH,
        good.median(),
        bad.made,
        bad.all.len() * BATCH,
        answers.calls,
        answers.failed.len(),
        answers.slowest
    );
    assert!(killer.killed.load(Ordering::Relaxed) > 0, "no vetter was killed");
    assert!(good.made > 0, "{:?}", good.refused.first());
    assert_eq!(bad.made, 0, "an unsigned image was let through");
    let wrong = |text: &&String| !text.starts_with("SignatureValidationFailed: ");
    assert_eq!(good.refused.iter().chain(&bad.refused).find(wrong), None);
    assert!(answers.failed.is_empty(), "{:?}", answers.failed);
}
