//! The part of a Kubernetes API that a kubelet needs to run pods with pull secrets: what a test puts there is listed and
//! watched; of what the kubelet writes, the pods' status is kept. Static pods may name no secrets.

use super::kubelet::Pod;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The node that pods are for.
pub const NODE: &str = "node";
/// The pull secret of pods, in their namespace.
pub const PULL_SECRET: &str = "pull";

/// What can be asked for: the end of its collection's path, its version and its kind.
const KINDS: [(&str, &str, &str); 7] = [
    ("nodes", "v1", "Node"),
    ("pods", "v1", "Pod"),
    ("services", "v1", "Service"),
    ("secrets", "v1", "Secret"),
    ("csinodes", "storage.k8s.io/v1", "CSINode"),
    ("csidrivers", "storage.k8s.io/v1", "CSIDriver"),
    ("runtimeclasses", "node.k8s.io/v1", "RuntimeClass"),
];

pub struct ApiServer {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Plural, object; its place is its resource version.
    objects: Mutex<Vec<(&'static str, Value)>>,
    over: AtomicBool,
}

impl ApiServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<State>::default();
        let server = Self { address, state: Arc::clone(&state) };
        // Room for pods, and what the kubelet looks for at its start.
        let status = json!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "capacity": {"pods": "110", "cpu": "8", "memory": "16Gi"},
            "allocatable": {"pods": "110", "cpu": "8", "memory": "16Gi"}});
        let metadata = json!({"name": NODE, "uid": NODE, "labels": {"kubernetes.io/os": "linux"}});
        server.put("nodes", json!({"metadata": metadata, "status": status}));
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": NODE});
        let metadata = json!({"name": NODE, "uid": NODE, "ownerReferences": [owner]});
        server.put("csinodes", json!({"metadata": metadata, "spec": {"drivers": []}}));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if state.over.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&state);
                // A client that went away is its own business.
                std::thread::spawn(move || drop(answer(&state, stream)));
            }
        });
        server
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "e2e", "user": {}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}]})
        .to_string()
    }

    /// The login `user:password` for a registry, as the pull secret of pods.
    pub fn put_pull_secret(&self, registry: &str, login: &str) {
        let config = json!({"auths": {registry: {"auth": STANDARD.encode(login)}}}).to_string();
        self.put("secrets", json!({"metadata": {"name": PULL_SECRET, "namespace": "e2e", "uid": PULL_SECRET},
            "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": STANDARD.encode(config)}}));
    }

    /// A pod with one container, host networking and the pull secret, called as a static pod of this name would be.
    pub fn add_pod(&self, name: &str, image: &str, pull_policy: &str) {
        // What the real one fills in.
        let container = json!({"name": "main", "image": image, "imagePullPolicy": pull_policy,
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"});
        let spec = json!({"hostNetwork": true, "nodeName": NODE, "containers": [container], "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 1, "dnsPolicy": "Default", "securityContext": {},
            "enableServiceLinks": false, "imagePullSecrets": [{"name": PULL_SECRET}]});
        let name = format!("{name}-{NODE}");
        let metadata = json!({"name": name, "namespace": "e2e", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"});
        self.put("pods", json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}));
    }

    /// Waits until the kubelet has said of a pod what `want` says.
    pub fn wait_pod(&self, name: &str, limit: Duration, want: impl Fn(&Pod) -> bool) -> Pod {
        let name = format!("{name}-{NODE}");
        let found = || {
            let objects = self.state.objects.lock().unwrap();
            let is_it =
                |(of, object): &&(&str, Value)| *of == "pods" && object["metadata"]["name"] == name.as_str();
            objects.iter().find(is_it).map(|(_, object)| Pod(object.clone())).unwrap()
        };
        let deadline = Instant::now() + limit;
        loop {
            let pod = found();
            if want(&pod) {
                return pod;
            }
            let status = &pod.0["status"];
            assert!(Instant::now() < deadline, "pod {name} is not as wanted within {limit:?}: {status:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn put(&self, plural: &'static str, mut object: Value) {
        let (_, version, kind) = KINDS.iter().find(|(known, ..)| *known == plural).unwrap();
        let mut objects = self.state.objects.lock().unwrap();
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        object["metadata"]["resourceVersion"] = json!((objects.len() + 1).to_string());
        objects.push((plural, object));
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.address));
    }
}

fn answer(state: &State, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut length = 0;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field)?;
        let Some((name, value)) = field.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let plural = path.rsplit('/').next().unwrap_or_default();
    let collection = KINDS.iter().find(|(known, ..)| *known == plural);
    match (method, collection) {
        ("GET", Some((plural, ..))) if query.contains("watch=") => watch(state, stream, plural, query),
        ("GET", Some((plural, version, kind))) => {
            let objects = state.objects.lock().unwrap();
            let items: Vec<_> =
                objects.iter().filter(|(of, _)| of == plural).map(|(_, object)| object).collect();
            let list = json!({"apiVersion": version, "kind": format!("{kind}List"), "items": items,
                "metadata": {"resourceVersion": objects.len().to_string()}});
            reply(stream, "200 OK", &list)
        }
        ("GET" | "PATCH" | "PUT", None) => {
            let mut objects = state.objects.lock().unwrap();
            let is_it = |of: &str, object: &Value| {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                path.trim_end_matches("/status").ends_with(&format!("/{of}/{name}"))
            };
            let Some((_, object)) = objects.iter_mut().find(|(of, object)| is_it(of, object)) else {
                return reply(stream, "404 Not Found", &status(404, "NotFound"));
            };
            if let (true, Ok(patch)) = (method == "PATCH", serde_json::from_slice::<Value>(&body)) {
                merge_status(&mut object["status"], &patch["status"]);
            }
            reply(stream, "200 OK", object)
        }
        _ => reply(stream, "404 Not Found", &status(404, "NotFound")),
    }
}

/// Kubernetes' strategic merge of a pod's status: conditions are merged by type, other lists are replaced.
fn merge_status(status: &mut Value, patch: &Value) {
    for (key, new) in patch.as_object().into_iter().flatten().filter(|(key, _)| !key.starts_with('$')) {
        match (key.as_str(), status[key].as_array_mut()) {
            ("conditions", Some(known)) => {
                for condition in new.as_array().into_iter().flatten() {
                    match known.iter_mut().find(|known| known["type"] == condition["type"]) {
                        Some(known) => {
                            for (key, value) in condition.as_object().into_iter().flatten() {
                                known[key] = value.clone();
                            }
                        }
                        None => known.push(condition.clone()),
                    }
                }
            }
            _ => status[key] = new.clone(),
        }
    }
}

fn status(code: u16, reason: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "code": code})
}

fn reply(mut stream: TcpStream, status: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Everything after the version that is asked for, one by one, until the client or the server goes.
fn watch(state: &State, mut stream: TcpStream, plural: &str, query: &str) -> std::io::Result<()> {
    let asked = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let initial = asked("sendInitialEvents") == Some("true");
    let mut seen = match initial {
        true => 0,
        false => asked("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0),
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")?;
    let mut told_of_the_first = !initial;
    while !state.over.load(Ordering::SeqCst) {
        let new: Vec<_> = state.objects.lock().unwrap().iter().skip(seen).cloned().collect();
        seen += new.len();
        for (_, object) in new.iter().filter(|(of, _)| *of == plural) {
            writeln!(stream, "{}", json!({"type": "ADDED", "object": object}))?;
        }
        if !told_of_the_first {
            let (_, version, kind) = KINDS.iter().find(|(known, ..)| *known == plural).unwrap();
            let end = json!({"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": seen.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"}}});
            writeln!(stream, "{}", json!({"type": "BOOKMARK", "object": end}))?;
            told_of_the_first = true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
