//! CreateContainer of a proven image through crivet, all checks and the look afterwards included, beside the same
//! call on the runtime itself. Real containerd, real registry, an image signed with real cosign.
//!
//! What counts is what crivet adds, as a share of what the runtime needs; no figure here is a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    dead_code,
    reason = "a bench reports what went wrong by panicking; it uses a part of the end-to-end tests' harness"
)]

mod layers;
#[path = "../../tests/e2e/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use crivet::cri::runtime::RuntimeClient;
use crivet::cri::v1;
use hyper_util::rt::TokioIo;
use support::image::Pushed;
use support::node::{Node, Setup};
use tonic::transport::{Channel, Endpoint, Uri};

const CREATES: usize = 300;
const WARM: usize = 20;

fn main() {
    for version in ["1.6", "2"] {
        // containerd 2.x does not say which pause image it would pull.
        let setup =
            Setup { containerd: version, settings: "pauseImage: REGISTRY/pause:test\n", ..Setup::default() };
        let Some(node) = Node::start(&setup) else {
            println!("# CreateContainer: left out, it needs root and `make peers`");
            return;
        };
        let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        threads.block_on(measure(&node, version));
        threads.block_on(layers::measure(&node, version));
    }
}

/// containerd's own socket, and crivet's in front of it.
#[derive(Clone, Copy)]
enum Side {
    Runtime,
    Crivet,
}

/// Creates on either side, in one sandbox.
struct Creates {
    pod: String,
    clients: [Channel; 2],
    asks: [RuntimeClient; 2],
    made: usize,
}

impl Creates {
    fn new(node: &Node, pod: String) -> Creates {
        let (containerd, relay) = (node.containerd.socket(), node.crivet.socket());
        let sides = [containerd, relay.as_path()];
        Creates {
            pod,
            clients: sides.map(channel),
            asks: sides.map(|socket| RuntimeClient::new(socket, socket)),
            made: 0,
        }
    }

    /// How long a create took. What it made is removed.
    async fn create(&mut self, side: Side, image: &Pushed) -> Duration {
        let at = side as usize;
        self.made += 1;
        let request = request(&self.pod, image, &format!("c{}", self.made));
        // As a kubelet does before each create, to learn the user.
        self.asks[at].image_status(&image.reference).await.unwrap();
        let (id, took) = create(&mut self.clients[at], request).await;
        self.asks[Side::Runtime as usize].remove_container(&id).await.unwrap();
        took
    }
}

async fn measure(node: &Node, version: &str) {
    let image = node.push_signed("proven", &node.says("proven"));
    node.crictl().pull(&image.reference).unwrap();
    let mut creates = Creates::new(node, node.crictl().sandbox("bench").unwrap());
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..WARM + CREATES {
        for side in [Side::Runtime, Side::Crivet] {
            let took = creates.create(side, &image).await;
            if number >= WARM {
                times[side as usize].push(took);
            }
        }
    }
    let [direct, through] = times.map(median);
    let added = through.saturating_sub(direct);
    println!("# CreateContainer of a proven image, containerd {version}, {CREATES} each in turn\n");
    println!("| | median |\n|---|---|");
    println!("| containerd itself | {direct:.2?} |\n| through crivet | {through:.2?} |");
    println!(
        "| added | {added:.2?}, {:.3} of the runtime's own |\n",
        added.as_secs_f64() / direct.as_secs_f64()
    );
}

async fn create(client: &mut Channel, request: v1::CreateContainerRequest) -> (String, Duration) {
    let mut grpc = tonic::client::Grpc::new(client.clone());
    grpc.ready().await.unwrap();
    let codec: tonic_prost::ProstCodec<v1::CreateContainerRequest, v1::CreateContainerResponse> =
        tonic_prost::ProstCodec::default();
    let path = "/runtime.v1.RuntimeService/CreateContainer".parse().unwrap();
    let started = Instant::now();
    let answer = grpc.unary(tonic::Request::new(request), path, codec).await;
    let took = started.elapsed();
    (answer.unwrap().into_inner().container_id, took)
}

fn request(pod: &str, image: &Pushed, name: &str) -> v1::CreateContainerRequest {
    let metadata = v1::PodSandboxMetadata {
        name: "bench".to_owned(),
        uid: "bench".to_owned(),
        namespace: "e2e".to_owned(),
    };
    let image = v1::ImageSpec {
        image: image.id.clone(),
        user_specified_image: image.reference.clone(),
        ..Default::default()
    };
    v1::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned() }),
            image: Some(image),
            mounts: Vec::new(),
        }),
        sandbox_config: Some(v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() }),
    }
}

fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
