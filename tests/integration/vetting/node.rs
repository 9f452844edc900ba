//! A node: crivet between a test's calls, a scripted runtime and a registry.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crivet::cri::v1;
use http::Request;
use prost::Message;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::registry::{Image, Registry};
use super::runtime::Runtime;
use super::signer::Signer;
use crate::support::client::{Answer, CREATE, Client, PULL, request};
use crate::support::daemon::{CRIVET, Crivet, Place};
use crate::support::{framed, until, within};

pub struct Node {
    pub place: Place,
    pub registry: Registry,
    pub runtime: Runtime,
    pub signer: Signer,
    metrics: SocketAddr,
}

impl Node {
    /// A node without policies; crivet does not run yet.
    pub async fn new() -> Node {
        let place = Place::new();
        std::fs::create_dir(place.path().join("policies.d")).unwrap();
        let runtime = Runtime::start(place.path());
        let registry = Registry::start().await;
        Node { place, registry, runtime, signer: Signer::new(), metrics: own_address() }
    }

    /// A node whose policy wants everything of its registry signed by its key.
    pub async fn strict() -> Node {
        let node = Node::new().await;
        node.policy("all.yaml", &node.signed_by("all", &node.signer, ""));
        node
    }

    pub fn host(&self) -> String {
        self.registry.host()
    }

    /// `repository:tag` with its registry.
    pub fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// The text of a policy that wants all images of the registry signed by a key; `spec` are more lines of it.
    pub fn signed_by(&self, name: &str, signer: &Signer, spec: &str) -> String {
        let mut text = format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             images: ['{}/**']\n{spec}  requirements:\n    keys:\n    - name: {name}-key\n      data: |\n",
            self.host()
        );
        for line in signer.pem().lines() {
            writeln!(text, "        {line}").unwrap();
        }
        text
    }

    /// The text of a policy that denies all images of the registry.
    pub fn denying(&self, name: &str) -> String {
        format!(
            "apiVersion: crivet.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             images: ['{}/**']\n  deny: {{reason: closed for today}}\n",
            self.host()
        )
    }

    pub fn policies(&self) -> PathBuf {
        self.place.path().join("policies.d")
    }

    pub fn policy(&self, file: &str, text: &str) {
        std::fs::write(self.policies().join(file), text).unwrap();
    }

    /// Pushes an image to the registry, where the runtime will pull it.
    pub fn push(&self, repository: &str, tag: &str, word: &str) -> Image {
        let image = Image::new(word);
        self.registry.push(repository, tag, &image);
        self.runtime.arrives(&self.named(&format!("{repository}:{tag}")), &image);
        image
    }

    pub fn push_signed(&self, repository: &str, tag: &str, word: &str) -> Image {
        let image = self.push(repository, tag, word);
        self.registry.sign(repository, &image, &self.signer);
        image
    }

    /// Writes the configuration with these lines beside sockets and folders.
    pub fn configure(&self, lines: &str) -> PathBuf {
        let at = |name: &str| self.place.path().join(name).display().to_string();
        let mut text = "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\n".to_owned();
        writeln!(text, "listen: unix://{}", at("crivet.sock")).unwrap();
        writeln!(text, "runtimeEndpoint: unix://{}", at("runtime.sock")).unwrap();
        writeln!(text, "policyDir: {}", at("policies.d")).unwrap();
        writeln!(text, "stateDir: {}", at("state")).unwrap();
        writeln!(text, "metricsAddress: {}", self.metrics).unwrap();
        if !lines.contains("auditLog") {
            writeln!(text, "auditLog: {{path: {}}}", at("audit.jsonl")).unwrap();
        }
        if !lines.contains("unmatched") {
            text.push_str("unmatched: allow\n");
        }
        text.push_str(lines);
        let file = self.place.path().join("config.yaml");
        std::fs::write(&file, text).unwrap();
        file
    }

    pub async fn enforce(&self) -> Gate {
        self.serve("mode: enforce\n").await
    }

    pub async fn audit(&self) -> Gate {
        self.serve("mode: audit\n").await
    }

    /// Starts crivet with these lines in its configuration; answers when it vets.
    pub async fn serve(&self, lines: &str) -> Gate {
        self.configure(lines);
        let gate = self.start(&[]).await;
        until("the vetter is ready", 20, || gate.readied() > 0).await;
        gate
    }

    /// Starts crivet with the configuration there is; answers when it listens.
    pub async fn start(&self, environment: &[(&str, &str)]) -> Gate {
        let mut command = Command::new(CRIVET);
        command.arg("serve").arg("--config").arg(self.place.path().join("config.yaml"));
        command.envs(environment.iter().copied());
        let crivet = Crivet::spawn(&self.place, command);
        until("crivet serves", 20, || crivet.log().contains("serving")).await;
        let client = crivet.client().await;
        Gate { crivet, client }
    }

    /// The audit records written so far.
    pub fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.place.path().join("audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for an audit record like this one.
    pub async fn record(&self, what: &str, like: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        until(what, 20, || {
            found = self.records().into_iter().find(&like);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// The page of metrics.
    pub async fn metrics(&self) -> String {
        let ask = async {
            let mut stream = tokio::net::TcpStream::connect(self.metrics).await.unwrap();
            let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut page = String::new();
            stream.read_to_string(&mut page).await.unwrap();
            page
        };
        within("metrics", 10, ask).await
    }

    /// The sum of a metric's samples whose line starts so.
    pub async fn metric(&self, start: &str) -> f64 {
        let page = self.metrics().await;
        let samples = page.lines().filter(|line| line.starts_with(start));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// An address that nobody else has: a free port of 127.0.0.1 may be some connection's own a moment later.
fn own_address() -> SocketAddr {
    static NODES: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, high.max(1), low, NODES.fetch_add(1, Ordering::SeqCst)], 9466))
}

/// crivet, running.
pub struct Gate {
    pub crivet: Crivet,
    pub client: Client,
}

impl Gate {
    /// How often the vetter has taken over a configuration.
    pub fn readied(&self) -> usize {
        self.crivet.log().matches("the vetter is ready").count()
    }

    /// SIGHUP; answers when the vetter has taken it over.
    pub async fn reload(&self) {
        let before = self.readied();
        self.crivet.signal("HUP");
        until("the reload", 20, || self.readied() > before).await;
    }

    pub async fn pull(&self, image: &str) -> Answer {
        self.client.call(PULL, &pull(image).encode_to_vec()).await
    }

    pub async fn create(&self, id: &str, image: &str) -> Answer {
        self.client.call(CREATE, &create("prod", id, image).encode_to_vec()).await
    }

    /// The vetter's process, if there is one.
    pub fn vetter(&self) -> Option<u32> {
        vetter_of(self.crivet.pid())
    }

    /// Sends the vetter a signal; it must be there.
    pub fn signal_vetter(&self, signal: &str) {
        send(self.vetter().unwrap(), signal);
    }

    /// Kills each vetter as soon as it is there, until what this gives is dropped.
    pub fn keep_killing_the_vetter(&self) -> Killing {
        self.signal_vetter("KILL");
        let (pid, stop) = (self.crivet.pid(), Arc::<AtomicBool>::default());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if let Some(vetter) = vetter_of(pid) {
                    send(vetter, "KILL");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Killing { stop, thread: Some(thread) }
    }

    /// As `pull` or `create`, with a `grpc-timeout`.
    pub async fn timed(&self, path: &str, timeout: &'static str, message: Vec<u8>) -> Answer {
        let mut request: Request<()> = request(path);
        request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static(timeout));
        self.client.send(request, framed(&message)).await.unwrap()
    }
}

/// Stops killing when dropped.
pub struct Killing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Killing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().unwrap().join();
    }
}

/// The only child that a relay ever has.
fn vetter_of(relay: u32) -> Option<u32> {
    let children =
        std::fs::read_to_string(format!("/proc/{relay}/task/{relay}/children")).unwrap_or_default();
    children.split_whitespace().next()?.parse().ok()
}

fn send(pid: u32, signal: &str) {
    // A process that has ended meanwhile is what was wanted.
    let _ = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).output();
}

pub fn pull(image: &str) -> v1::PullImageRequest {
    v1::PullImageRequest {
        image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
        auth: None,
        sandbox_config: Some(pod("prod")),
    }
}

pub fn create(namespace: &str, id: &str, image: &str) -> v1::CreateContainerRequest {
    let image =
        v1::ImageSpec { image: id.to_owned(), user_specified_image: image.to_owned(), ..Default::default() };
    let metadata = v1::ContainerMetadata { name: "main".to_owned() };
    v1::CreateContainerRequest {
        pod_sandbox_id: "sandbox".to_owned(),
        config: Some(v1::ContainerConfig {
            metadata: Some(metadata),
            image: Some(image),
            mounts: Vec::new(),
        }),
        sandbox_config: Some(pod(namespace)),
    }
}

pub fn pod(namespace: &str) -> v1::PodSandboxConfig {
    let metadata = v1::PodSandboxMetadata {
        name: "web".to_owned(),
        uid: "0a1b".to_owned(),
        namespace: namespace.to_owned(),
    };
    v1::PodSandboxConfig { metadata: Some(metadata), labels: Default::default() }
}

/// A whole successful answer.
pub fn allowed(answer: &Answer) -> bool {
    answer.code() == 0 && answer.message().is_empty()
}

/// What an answer of crivet's own says; fails if it is none.
pub fn refusal(answer: &Answer) -> String {
    assert_eq!(answer.code(), 2, "{answer:?}");
    assert!(answer.is_trailers_only(), "{answer:?}");
    let bytes = answer.message().as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let hex = std::str::from_utf8(&bytes[at + 1..at + 3]).unwrap();
            decoded.push(u8::from_str_radix(hex, 16).unwrap());
            at += 3;
        } else {
            decoded.push(byte);
            at += 1;
        }
    }
    let text = String::from_utf8(decoded).unwrap();
    assert!(!text.chars().any(char::is_control), "more than one line: {text:?}");
    text
}
