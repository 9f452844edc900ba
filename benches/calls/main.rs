//! Every call of a pod's life, and everything a quiet kubelet asks, through crivet beside the same call on the runtime
//! itself: in audit mode and in enforce mode. Real containerd, real registry, an image signed with real cosign.
//!
//! What counts is the ratio; no figure here is a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    dead_code,
    reason = "a bench reports what went wrong by panicking; it uses a part of the end-to-end tests' harness"
)]

#[path = "../../tests/e2e/support/mod.rs"]
mod support;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use support::image::Pushed;
use support::node::{Node, Setup};
use wire::{Client, Message, first_text};

const LIVES: usize = 25;
const READS: usize = 300;
const WARM: usize = 3;

/// What a kubelet asks while nothing happens, and at the start.
const ASKED: [&str; 10] = [
    "RuntimeService/Version",
    "RuntimeService/Status",
    "RuntimeService/ListPodSandbox",
    "RuntimeService/ListContainers",
    "RuntimeService/ListContainerStats",
    "RuntimeService/ListPodSandboxStats",
    "RuntimeService/RuntimeConfig",
    "ImageService/ListImages",
    "ImageService/ImageFsInfo",
    "ImageService/ImageStatus",
];

/// The calls of a pod's life, in order.
const LIFE: [&str; 14] = [
    "ImageService/PullImage",
    "RuntimeService/RunPodSandbox",
    "RuntimeService/PodSandboxStatus",
    "RuntimeService/CreateContainer",
    "RuntimeService/StartContainer",
    "RuntimeService/ContainerStatus",
    "RuntimeService/ContainerStats",
    "RuntimeService/ExecSync",
    "RuntimeService/StopContainer",
    "RuntimeService/RemoveContainer",
    "RuntimeService/StopPodSandbox",
    "RuntimeService/RemovePodSandbox",
    "ImageService/ImageStatus",
    "ImageService/RemoveImage",
];

type Times = BTreeMap<&'static str, [Vec<Duration>; 2]>;

fn main() {
    for mode in ["audit", "enforce"] {
        let settings = "pauseImage: REGISTRY/pause:test\n";
        let Some(node) = Node::start(&Setup { containerd: "2", mode, settings, ..Setup::default() }) else {
            println!("# every call: left out, it needs root and `make peers`");
            return;
        };
        let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let times = threads.block_on(measure(&node));
        print(mode, times);
    }
}

async fn measure(node: &Node) -> Times {
    let image = node.push_signed("lives", &node.says("lives"));
    let sides = [Client::connect(node.containerd.socket()), Client::connect(&node.crivet.socket())];
    let mut times = Times::new();
    for number in 0..WARM + LIVES {
        for (side, client) in sides.iter().enumerate() {
            for (method, took) in life(client, &image, &format!("life{number}-{side}")).await {
                if number >= WARM {
                    times.entry(method).or_default()[side].push(took);
                }
            }
        }
    }
    node.crictl().pull(&image.reference).unwrap();
    let named = Message::default().message(1, &Message::default().text(1, &image.id));
    for number in 0..WARM + READS {
        for (side, client) in sides.iter().enumerate() {
            for method in ASKED {
                let image_status = method == "ImageService/ImageStatus";
                let request = if image_status { named.clone() } else { Message::default() };
                let (answer, took) = client.call(method, &request).await;
                answer.unwrap_or_else(|status| panic!("{method}: {status}"));
                if number >= WARM && !image_status {
                    times.entry(method).or_default()[side].push(took);
                }
            }
        }
    }
    times
}

/// One pod from its pull to its end.
async fn life(client: &Client, image: &Pushed, name: &str) -> Vec<(&'static str, Duration)> {
    let (mut pod, mut container, mut took) = (String::new(), String::new(), Vec::new());
    for method in LIFE {
        let request = request(method, image, name, &pod, &container);
        let (answer, time) = client.call(method, &request).await;
        let answer = answer.unwrap_or_else(|status| panic!("{method}: {status}"));
        took.push((method, time));
        match method {
            "RuntimeService/RunPodSandbox" => pod = first_text(&answer),
            "RuntimeService/CreateContainer" => container = first_text(&answer),
            _ => {}
        }
    }
    took
}

fn request(method: &str, image: &Pushed, name: &str, pod: &str, container: &str) -> Message {
    let new = Message::default;
    let by_name = new().text(1, &image.reference);
    let of_pod = new().text(1, pod);
    let of_container = new().text(1, container);
    // Field numbers are those of the CRI: PodSandboxConfig, ContainerConfig, and the request of each call.
    let host_network = new().number(1, 2);
    let linux = new().message(2, &new().message(1, &host_network));
    let metadata = new().text(1, name).text(2, name).text(3, "e2e");
    let sandbox = new().message(1, &metadata).message(8, &linux);
    match method.rsplit('/').next().unwrap() {
        "PullImage" => new().message(1, &by_name).message(3, &sandbox),
        "ImageStatus" | "RemoveImage" => new().message(1, &by_name),
        "RunPodSandbox" => new().message(1, &sandbox),
        "CreateContainer" => {
            let image = new().text(1, &image.id).far_text(18, &image.reference);
            let config = new().message(1, &new().text(1, "main")).message(2, &image).message(15, &new());
            of_pod.message(2, &config).message(3, &sandbox)
        }
        "ExecSync" => of_container.text(2, "/bin/true").number(3, 10),
        "StopContainer" => of_container.number(2, 10),
        "StopPodSandbox" | "RemovePodSandbox" | "PodSandboxStatus" => of_pod,
        _ => of_container,
    }
}

fn print(mode: &str, times: Times) {
    println!("# every call through crivet in {mode} mode, beside containerd 2 itself\n");
    println!("| call | containerd | through crivet | ratio |\n|---|---|---|---|");
    for (method, sides) in times {
        let [direct, through] = sides.map(median);
        let ratio = through.as_secs_f64() / direct.as_secs_f64();
        println!("| {method} | {direct:.2?} | {through:.2?} | {ratio:.2} |");
    }
    println!();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
