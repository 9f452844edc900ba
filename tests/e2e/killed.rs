//! kill -9 of crivet and of containerd, in turn, in the middle of pulls, creates and rechecks: no wrong yes, no denial without a
//! record, and whoever tries again gets what he should. `CRIVET_KILLS` is how often; 4 without it.

use crate::support::cri::Cri;
use crate::support::crivet::{policy, signed_by};
use crate::support::image::Pushed;
use crate::support::node::Node;
use crate::support::wait_for;
use crivet::cri::v1::CreateContainerRequest;
use serde_json::Value;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// How an answer with evidence against the image starts.
const DENIED: &str = "SignatureValidationFailed: image ";

fn kills() -> usize {
    std::env::var("CRIVET_KILLS").ok().map_or(4, |text| text.parse().expect("a number"))
}

struct Target {
    signed: Pushed,
    unsigned: Pushed,
    /// Vetted once; its tag has moved since, and the policy denies that.
    drifted: Pushed,
    node: Node,
}

/// What was answered with a denial, as its record tells it: by its reference and, of a create, its namespace.
type Denial = (String, Option<String>);

impl Target {
    fn start() -> Option<Self> {
        let node = Node::enforcing()?;
        let recheck =
            "  recheck: {interval: 1s, onDrift: deny, whenRegistryDown: deny, whenLoginRefused: deny}\n";
        let rechecked = format!("{recheck}{}", signed_by(&node.key));
        node.crivet.put_policies(&[policy("all", &node.glob("**"), &rechecked)]);
        let signed = node.push_signed("signed", &node.says("here"));
        let unsigned = node.push("unsigned", &node.says("never").file("unsigned", "x"));
        node.preload(&unsigned.reference);
        let drifted = node.push_signed("drifted", &node.says("never").file("drifted", "x"));
        for image in [&signed, &drifted] {
            node.crictl().pull(&image.reference).unwrap();
        }
        node.push_signed("drifted", &node.says("moved").file("moved", "x"));
        // So that what the pull was told is too old.
        std::thread::sleep(Duration::from_millis(1200));
        Some(Self { signed, unsigned, drifted, node })
    }

    fn create(&self, pod: &str, image: &Pushed, namespace: &str) -> CreateContainerRequest {
        let mut request = Cri::create_request(namespace, pod, &image.id, &image.reference);
        let metadata = request.sandbox_config.as_mut().and_then(|pod| pod.metadata.as_mut()).unwrap();
        namespace.clone_into(&mut metadata.namespace);
        request
    }

    /// Pulls and creates, under which one of the two is killed; what was denied by then.
    fn round(&mut self, number: usize) -> Vec<Denial> {
        let image = self.node.says("fresh").file("round", &number.to_string());
        let fresh = self.node.push_signed(&format!("fresh{number}"), &image);
        let other = self.node.push(&format!("other{number}"), &image.file("unsigned", "too"));
        let pod = self.node.crictl().sandbox(&format!("round{number}")).unwrap();
        let socket = self.node.crivet.socket();
        let kinds = [(&self.signed, "good"), (&self.unsigned, "bad"), (&self.drifted, "drifted")];
        let of = |kind: &str, part: usize| format!("{kind}-{number}-{part}");
        let requests = |part: usize| -> Vec<CreateContainerRequest> {
            kinds.iter().map(|(image, kind)| self.create(&pod, image, &of(kind, part))).collect()
        };
        let references = [fresh.reference.clone(), other.reference.clone()];
        let mut denied: Vec<Denial> = Vec::new();
        let (pulls, creates) = std::thread::scope(|scope| {
            let pulls = scope.spawn(|| Cri::connect(&socket).pull_at_once(&references));
            let creates = scope.spawn(|| {
                let cri = Cri::connect(&socket);
                (0..6).flat_map(|part| cri.create_at_once(requests(part))).collect::<Vec<_>>()
            });
            // At another moment each time.
            std::thread::sleep(Duration::from_millis((number as u64 * 37) % 400));
            let relay = rustix::process::Pid::from_raw(self.node.crivet.pid().try_into().unwrap()).unwrap();
            let containerd =
                rustix::process::Pid::from_raw(self.node.containerd.pid().try_into().unwrap()).unwrap();
            // The vetter ends with its relay, by itself.
            let victim = if number.is_multiple_of(2) { relay } else { containerd };
            rustix::process::kill_process(victim, rustix::process::Signal::KILL).unwrap();
            (pulls.join().unwrap(), creates.join().unwrap())
        });
        for (reference, pull) in references.iter().zip(pulls) {
            match pull {
                Ok(_) => assert_eq!(*reference, fresh.reference, "an unsigned image was pulled"),
                Err(status) if status.message().starts_with(DENIED) => {
                    assert_eq!(*reference, other.reference, "{status}");
                    denied.push((reference.clone(), None));
                }
                Err(_) => {}
            }
        }
        for (at, create) in creates.into_iter().enumerate() {
            let (image, kind) = kinds[at % kinds.len()];
            match create {
                Ok(_) => assert_eq!(kind, "good", "a container was made"),
                Err(status) if status.message().starts_with(DENIED) => {
                    assert_ne!(kind, "good", "{status}");
                    denied.push((image.reference.clone(), Some(of(kind, at / kinds.len()))));
                }
                Err(_) => {}
            }
        }
        match number.is_multiple_of(2) {
            true => {
                self.node.crivet.kill();
                self.node.crivet.start_again(&self.node.peers);
            }
            false => {
                self.node.containerd.kill();
                self.node.containerd.start_again(&self.node.peers);
            }
        }
        self.is_well(number, &pod, &fresh, &other);
        denied
    }

    /// Whoever tries again gets what he should.
    fn is_well(&self, number: usize, pod: &str, fresh: &Pushed, other: &Pushed) {
        let crictl = self.node.crictl();
        wait_for("the pull", PATIENCE, || crictl.pull(&fresh.reference).ok());
        let denied = |result: Result<String, String>| match result {
            Ok(_) => panic!("what is not signed was let through"),
            Err(text) => text.contains(DENIED).then_some(()),
        };
        wait_for("the denial of a pull", PATIENCE, || denied(crictl.pull(&other.reference)));
        let cri = Cri::connect(&self.node.crivet.socket());
        let mut tries = 0;
        let mut create = |image: &Pushed| {
            tries += 1;
            let request = self.create(pod, image, &format!("again-{number}-{tries}"));
            cri.create_at_once(vec![request]).remove(0).map_err(|status| status.message().to_owned())
        };
        wait_for("the create", PATIENCE, || create(&self.signed).ok());
        for image in [&self.unsigned, &self.drifted] {
            wait_for("the denial of a create", PATIENCE, || denied(create(image)));
        }
        let chains = self.node.containerd.chains();
        let wrong = |chain: &String| *chain == self.unsigned.chain || *chain == self.drifted.chain;
        assert!(!chains.values().any(wrong), "{chains:?}");
        self.node.containerd.crictl().run(["rmp", "--force", pod]).unwrap();
    }
}

#[test]
fn crivet_and_containerd_killed_in_the_middle_of_it_give_no_wrong_yes_and_lose_no_denial() {
    let Some(mut target) = Target::start() else { return };
    let mut denied = Vec::new();
    for number in 0..kills() {
        denied.extend(target.round(number));
    }
    assert!(!denied.is_empty(), "nothing was denied");
    let records = target.node.crivet.audit();
    let has_record = |(reference, namespace): &Denial| {
        records.iter().any(|record: &Value| {
            record["decision"] == "denied"
                && record["reference"] == reference.as_str()
                && namespace.as_ref().is_none_or(|namespace| record["namespace"] == namespace.as_str())
        })
    };
    let lost: Vec<_> = denied.iter().filter(|denial| !has_record(denial)).collect();
    eprintln!("{} kills, {} denials answered, {} without a record", kills(), denied.len(), lost.len());
    assert!(lost.is_empty(), "{lost:?}");
}
