//! What layers cost before a create: images of 1, 10 and 100, without and with a policy that asks for a check of them
//! (`content.layersCheckedWithin`), and that check itself.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crivet::limits;
use serde_json::Value;

use super::support::crivet::{Crivet, policy, signed_by};
use super::support::image::{Image, Pushed};
use super::support::node::Node;
use super::{Creates, Side, median};

const LAYERS: [usize; 3] = [1, 10, 100];
/// Bytes of the files of an image, in all its layers together.
const BYTES: usize = 64 << 20;
/// Creates by each of these ways: one in each round, so that what else the machine does hits all of them.
const ROUNDS: usize = 60;
/// Afterwards a document that was hashed counts no more.
const FORGOTTEN: Duration = Duration::from_millis(limits::DOCUMENT_SECONDS * 1000 + 50);

/// What the creates of one image took.
#[derive(Default)]
struct Times {
    runtime: Vec<Duration>,
    /// Index, manifest and config hashed for it.
    cold: Vec<Duration>,
    /// They were hashed a moment ago.
    warm: Vec<Duration>,
}

pub async fn measure(node: &Node, version: &str) {
    let images = LAYERS.map(|layers| {
        let image = Image::layered(&node.peers, layers, BYTES);
        let pushed = node.push_signed(&format!("layers-{layers}"), &image);
        node.crictl().pull(&pushed.reference).unwrap();
        pushed
    });
    println!("# CreateContainer of images of {BYTES} bytes, containerd {version}, medians of {ROUNDS}\n");
    println!("| layers | | containerd itself | first in a second | again |\n|---|---|---|---|---|");
    let mut creates = Creates::new(node, node.crictl().sandbox("layers").unwrap());
    let without = rounds(&mut creates, &images).await;
    table("no check asked for", without);

    // Not those of the pause image: the sandbox is there.
    let spec = format!("  content: {{layersCheckedWithin: 24h}}\n{}", signed_by(&node.key));
    let asks = policy("layers", &node.glob("layers-*"), &spec);
    let all = super::support::crivet::key_policy("all", &node.glob("pause"), &node.key);
    node.crivet.put_policies(&[asks, all]);
    let checks = images.each_ref().map(|image| check(node, &creates.pod, image));
    let with = rounds(&mut creates, &images).await;
    table("found whole by a check", with);
    println!(
        "\n| layers | the check of that image | read | | with starting and ending |\n|---|---|---|---|---|"
    );
    for (layers, (report, took)) in LAYERS.into_iter().zip(checks) {
        let (bytes, seconds) = (report["bytes"].as_f64().unwrap(), report["seconds"].as_f64().unwrap());
        println!(
            "| {layers} | {:.0} ms | {:.0} MB | {:.0} MB/s | {:.0} ms |",
            seconds * 1e3,
            bytes / 1e6,
            bytes / 1e6 / seconds,
            took.as_secs_f64() * 1e3
        );
    }
    println!();
}

async fn rounds(creates: &mut Creates, images: &[Pushed]) -> Vec<Times> {
    let mut times: Vec<Times> = images.iter().map(|_| Times::default()).collect();
    for round in 0..=ROUNDS {
        tokio::time::sleep(FORGOTTEN).await;
        // Each is the first after the pause as often as the others: that one pays for waking all up.
        for at in (0..images.len()).map(|at| (at + round) % images.len()) {
            let (image, times) = (&images[at], &mut times[at]);
            let took = [
                creates.create(Side::Runtime, image).await,
                creates.create(Side::Crivet, image).await,
                creates.create(Side::Crivet, image).await,
            ];
            // The first one through crivet is vetted.
            if round > 0 {
                times.runtime.push(took[0]);
                times.cold.push(took[1]);
                times.warm.push(took[2]);
            }
        }
    }
    times
}

fn table(what: &str, times: Vec<Times>) {
    for (layers, Times { runtime, cold, warm }) in LAYERS.into_iter().zip(times) {
        let runtime = median(runtime);
        let added = |through: Vec<Duration>| {
            let added = median(through).saturating_sub(runtime);
            format!("+ {added:.2?}, {:.2}", added.as_secs_f64() / runtime.as_secs_f64())
        };
        println!("| {layers} | {what} | {runtime:.2?} | {} | {} |", added(cold), added(warm));
    }
}

/// Has an image checked as a create that waits for it does; the report, and how long the command took.
fn check(node: &Node, pod: &str, image: &Pushed) -> (Value, Duration) {
    let refused = node.crictl().create("waits", pod, image).unwrap_err();
    assert!(refused.contains("layersCheckedWithin"), "{refused}");
    let config = Crivet::dir(&node.peers).join("config.yaml");
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_crivet")));
    command.args(["content", "check", "--requested", "-o", "json", "--config"]).arg(config);
    let begun = Instant::now();
    let output = command.output().unwrap();
    let took = begun.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (serde_json::from_slice(&output.stdout).unwrap(), took)
}
