//! What is decided for one must not be what another gets, while both are asked for at once and policies are exchanged beneath
//! them. `CRIVET_RACES_SECONDS` is how long each is tried; 10 without it.

use crate::support::cri::Cri;
use crate::support::crivet::{key_policy, policy, signed_by};
use crate::support::image::Pushed;
use crate::support::node::Node;
use crivet::cri::v1::CreateContainerRequest;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn seconds() -> Duration {
    let given = std::env::var("CRIVET_RACES_SECONDS").ok().map(|text| text.parse().expect("whole seconds"));
    Duration::from_secs(given.unwrap_or(10))
}

/// A create for a pod of this namespace.
fn create(name: &str, pod: &str, namespace: &str, image: &Pushed) -> CreateContainerRequest {
    let mut request = Cri::create_request(name, pod, &image.id, &image.reference);
    let metadata = request.sandbox_config.as_mut().and_then(|pod| pod.metadata.as_mut()).unwrap();
    namespace.clone_into(&mut metadata.namespace);
    request
}

/// Ends the others when the test does, also by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks for both at once, again and again: the first is allowed, the second never. Policies are exchanged meanwhile, so
/// that permits are void and all is decided anew.
fn race(node: &Node, policies: &[String], both: impl Fn(usize) -> [CreateContainerRequest; 2] + Sync) {
    node.crivet.put_policies(policies);
    let (cri, done) = (Cri::connect(&node.crivet.socket()), AtomicBool::new(false));
    let (mut made, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut reloads = 0;
            while !done.load(Ordering::Relaxed) {
                let other =
                    policy(&format!("nothing{reloads}"), "r.test/nothing", "  deny: {reason: a test}\n");
                node.crivet.put_policies(&[policies, &[other]].concat());
                reloads += 1;
                std::thread::sleep(Duration::from_millis(200));
            }
            eprintln!("{reloads} exchanges of policies");
        });
        let _ends = Ends(&done);
        let (begun, mut number) = (Instant::now(), 0);
        while begun.elapsed() < seconds() {
            let requests: Vec<_> = (0..4).flat_map(|part| both(number * 4 + part)).collect();
            number += 1;
            let mut ids = vec!["rm".to_owned()];
            for (at, result) in cri.create_at_once(requests).into_iter().enumerate() {
                match result {
                    Ok(id) if at % 2 == 0 => ids.push(id),
                    Ok(_) => panic!("a container was made that is to be denied"),
                    Err(status) => {
                        refused += 1;
                        // While the folder is exchanged it may be half there: undecided, and never made.
                        assert!(status.message().starts_with("SignatureValidationFailed: "), "{status}");
                    }
                }
            }
            made += ids.len() - 1;
            if ids.len() > 1 {
                node.containerd.crictl().run(ids).unwrap();
            }
        }
    });
    eprintln!("{made} made, {refused} refused");
    assert!(made > 0 && refused >= made / 2, "{made} made, {refused} refused");
}

#[test]
fn lax_namespaces_proof_is_never_a_strict_ones_however_they_race() {
    let Some(node) = Node::enforcing() else { return };
    let lax_key = node.cosign.generate_key("lax");
    let half = format!("  namespaces: [half-lax]\n{}", signed_by(&lax_key));
    let lax = "  namespaces: [lax]\n  insecureAcceptAnything: {reason: a test}\n";
    let policies = [
        key_policy("all", &node.glob("**"), &node.key),
        policy("lax", &node.glob("**"), lax),
        policy("half-lax", &node.glob("**"), &half),
    ];
    let image = node.push("app", &node.says("for some"));
    node.cosign.sign(&lax_key, &image.by_digest, &[]);
    node.preload(&image.reference);
    let pod = node.crictl().sandbox("race").unwrap();
    race(&node, &policies, |number| {
        let lax = if number % 2 == 0 { "lax" } else { "half-lax" };
        [
            create(&format!("a{number}"), &pod, lax, &image),
            create(&format!("b{number}"), &pod, "strict", &image),
        ]
    });
}

#[test]
fn one_teams_signature_never_speaks_for_a_copy_in_anothers_repository_however_they_race() {
    let Some(node) = Node::enforcing() else { return };
    let other_key = node.cosign.generate_key("other");
    let policies = [
        key_policy("all", &node.glob("**"), &node.key),
        key_policy("b", &node.glob("team-b/**"), &other_key),
    ];
    let image = node.says("vouched for by a");
    let ours = node.push_signed("team-a/app", &image);
    let copy = node.push("team-b/app", &image);
    // With its signature, as a mirror of everything would copy it.
    node.cosign.sign(&node.key, &copy.by_digest, &[]);
    assert_eq!((&ours.id, &ours.digest), (&copy.id, &copy.digest));
    for image in [&ours, &copy] {
        node.preload(&image.reference);
    }
    let pod = node.crictl().sandbox("race").unwrap();
    race(&node, &policies, |number| {
        [create(&format!("a{number}"), &pod, "e2e", &ours), create(&format!("b{number}"), &pod, "e2e", &copy)]
    });
}

/// The kubelet reads the user by the tag, and has the container made by the ID. Two signed images take turns under the tag.
#[test]
fn container_never_gets_the_user_of_another_image_under_its_tag() {
    let Some(node) = Node::enforcing() else { return };
    let [first, second] = ["1000", "0"].map(|user| {
        let image = node.says("$(id -u)").user(user).file("user", user);
        let pushed = image.push(&node.registry, "app", user);
        node.sign(&pushed);
        node.crictl().pull(&pushed.reference).unwrap();
        pushed
    });
    let tag = Pushed { reference: format!("{}/app:moving", node.registry.address()), ..first.clone() };
    let moves =
        |to: &Pushed| node.containerd.ctr(&["images", "tag", "--force", &to.reference, &tag.reference]);
    moves(&first);
    let pod = node.crictl().sandbox("user").unwrap();
    let cri = Cri::connect(&node.crivet.socket());
    let (begun, mut number, mut made, mut refused) = (Instant::now(), 0_usize, 0, 0);
    while begun.elapsed() < seconds() {
        number += 1;
        // What the kubelet reads now is `second`'s user if the tag is there; then the container is made by `first`'s ID.
        let read = if number.is_multiple_of(3) { &first } else { &second };
        moves(read);
        let known = std::thread::scope(|scope| {
            // It may move on while the create is under way.
            scope.spawn(|| {
                if number.is_multiple_of(2) {
                    moves(&second);
                }
            });
            cri.create_at_once(vec![create(&format!("c{number}"), &pod, "e2e", &tag)]).remove(0)
        });
        match known {
            Ok(id) => {
                assert_eq!(read.id, first.id, "made by an ID that the tag did not lead to");
                made += 1;
                node.containerd.crictl().run(["rm", &id]).unwrap();
            }
            Err(status) => {
                refused += 1;
                assert!(status.message().contains("undecided"), "{status}");
            }
        }
    }
    eprintln!("{made} made, {refused} undecided");
    assert!(made > 0 && refused > 0);
}
