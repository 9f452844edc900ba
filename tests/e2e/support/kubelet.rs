//! A real kubelet without an API server: it runs the static pods of one folder.

use super::api_server::{ApiServer, NODE};
use super::crictl::log_line;
use super::daemon::Daemon;
use super::http;
use super::peers::Peers;
use serde_json::{Value, json};
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct Kubelet {
    daemon: Daemon,
    pods: StaticPods,
}

/// The static pods of a kubelet whose node is called `node`, and what it says of them.
pub struct StaticPods {
    dir: PathBuf,
    /// `127.0.0.1:<port>` of the read-only server.
    address: String,
}

impl Deref for Kubelet {
    type Target = StaticPods;

    fn deref(&self) -> &StaticPods {
        &self.pods
    }
}

/// A kubelet's configuration for static pods in `pods` below its folder.
pub fn configuration(runtime: &str, dir: &Path, port: u16, read_only: u16) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": runtime,
        "staticPodPath": dir.join("pods"), "podLogsDir": dir.join("logs"),
        "volumePluginDir": dir.join("plugins"), "fileCheckFrequency": "1s", "syncFrequency": "2s",
        "address": "127.0.0.1", "port": port, "readOnlyPort": read_only, "healthzPort": 0,
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        // A machine of any kind: no cgroup tree of our own, no swap rule, no iptables, no eviction.
        "failCgroupV1": false, "failSwapOn": false, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [], "makeIPTablesUtilChains": false, "localStorageCapacityIsolation": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
    })
}

impl Kubelet {
    /// Starts the kubelet on a runtime's socket, which serves the images as well.
    pub fn start(peers: &Peers, runtime: &Path) -> Self {
        Self::started(peers, runtime, &json!({}), None)
    }

    /// As [`Kubelet::start`], with more fields of its configuration.
    pub fn start_with(peers: &Peers, runtime: &Path, more: &Value) -> Self {
        Self::started(peers, runtime, more, None)
    }

    /// As [`Kubelet::start`], with the pods of an API server too.
    pub fn start_with_api(peers: &Peers, runtime: &Path, api: &ApiServer) -> Self {
        Self::started(peers, runtime, &json!({"registerNode": false}), Some(api))
    }

    fn started(peers: &Peers, runtime: &Path, more: &Value, api: Option<&ApiServer>) -> Self {
        let pods = StaticPods::new(&peers.path().join("kubelet"), super::free_port());
        let (dir, address) = (pods.dir.clone(), pods.address.clone());
        let read_only = address.rsplit(':').next().unwrap().parse().unwrap();
        let runtime = format!("unix://{}", runtime.display());
        let mut config = configuration(&runtime, &dir, super::free_port(), read_only);
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let config_file = dir.join("config.json");
        fs::write(&config_file, config.to_string()).unwrap();
        let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let mut flags = vec![
            flag("config", &config_file),
            flag("root-dir", &dir.join("root")),
            flag("cert-dir", &dir.join("pki")),
            format!("--hostname-override={NODE}"),
            "--oom-score-adj=0".to_owned(),
            "--v=2".to_owned(),
        ];
        if let Some(api) = api {
            let kubeconfig = dir.join("kubeconfig");
            fs::write(&kubeconfig, api.kubeconfig()).unwrap();
            flags.push(flag("kubeconfig", &kubeconfig));
        }
        let daemon = Daemon::start(peers, "kubelet", &peers.program("kubelet"), flags, &[]);
        let mut kubelet = Self { daemon, pods };
        let Self { daemon, pods } = &mut kubelet;
        daemon.wait_ready(Duration::from_secs(60), || pods.answers());
        kubelet
    }

    /// All that the kubelet has written so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}

impl StaticPods {
    /// Makes the folders that a kubelet with [`configuration`] has below `dir`.
    pub fn new(dir: &Path, read_only: u16) -> Self {
        for sub in ["pods", "logs", "plugins"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        Self { dir: dir.to_owned(), address: format!("127.0.0.1:{read_only}") }
    }

    /// Whether the kubelet says which pods it has.
    pub fn answers(&self) -> bool {
        http::request(&self.address, "GET", "/pods", &[], &[]).is_ok_and(|reply| reply.status == 200)
    }

    /// Whether the kubelet takes itself for healthy: among others, its loop over the pods turns.
    pub fn healthy(&self) -> bool {
        http::request(&self.address, "GET", "/healthz", &[], &[]).is_ok_and(|reply| reply.status == 200)
    }

    /// What pods and containers use of processors and memory, counted now: the kubelet's summary, or its error.
    pub fn summary(&self) -> Result<Value, String> {
        let reply =
            http::request(&self.address, "GET", "/stats/summary?only_cpu_and_memory=true", &[], &[]).unwrap();
        let said = || String::from_utf8_lossy(&reply.body).into_owned();
        if reply.status == 200 {
            serde_json::from_slice(&reply.body).map_err(|_| said())
        } else {
            Err(said())
        }
    }

    /// Adds a static pod with one container and host networking; `container` adds to the container's fields.
    pub fn add_pod(&self, name: &str, image: &str, container: &Value) {
        let mut fields = json!({"name": "main", "image": image});
        for (key, value) in container.as_object().into_iter().flatten() {
            fields[key] = value.clone();
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "e2e"},
            "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 1, "containers": [fields]}});
        // Written elsewhere and moved, so that the kubelet never reads half of it.
        let file = format!("{name}.json");
        fs::write(self.dir.join(&file), pod.to_string()).unwrap();
        fs::rename(self.dir.join(&file), self.dir.join("pods").join(&file)).unwrap();
    }

    pub fn remove_pod(&self, name: &str) {
        fs::remove_file(self.dir.join("pods").join(format!("{name}.json"))).unwrap();
    }

    /// What the kubelet itself says of a static pod in `/pods`, once it knows it.
    pub fn pod(&self, name: &str) -> Option<Pod> {
        let reply = http::request(&self.address, "GET", "/pods", &[], &[]).ok()?;
        let mut list: Value = serde_json::from_slice(&reply.body).ok()?;
        // The kubelet adds the node's name to a static pod's.
        let name = format!("{name}-node");
        let mut items = list["items"].as_array_mut()?.iter_mut();
        items.find(|pod| pod["metadata"]["name"] == name.as_str()).map(|pod| Pod(pod.take()))
    }

    /// Waits until the pod is as `want` says.
    pub fn wait_pod(&self, name: &str, limit: Duration, want: impl Fn(&Pod) -> bool) -> Pod {
        let mut last = None;
        let deadline = std::time::Instant::now() + limit;
        while std::time::Instant::now() < deadline {
            last = self.pod(name);
            if last.as_ref().is_some_and(&want) {
                return last.unwrap();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let status = last.map_or(Value::Null, |pod| pod.0["status"].clone());
        panic!("pod {name} is not as wanted within {limit:?}: {status:#}");
    }

    /// The first line that the pod's container writes, waited for: a pod is ready before it has said anything.
    pub fn first_line(&self, name: &str) -> String {
        let what = format!("the first line of pod {name}");
        super::wait_for(&what, Duration::from_secs(20), || self.pod_log(name).into_iter().next())
    }

    /// The lines that the pod's container has written so far.
    pub fn pod_log(&self, name: &str) -> Vec<String> {
        let prefix = format!("e2e_{name}-node_");
        let folders = fs::read_dir(self.dir.join("logs")).into_iter().flatten().flatten();
        let mut folders = folders.filter(|f| f.file_name().to_string_lossy().starts_with(&prefix));
        let log = folders.next().and_then(|f| fs::read_to_string(f.path().join("main/0.log")).ok());
        log.unwrap_or_default().lines().filter_map(log_line).collect()
    }
}

/// A pod as `/pods` has it.
pub struct Pod(pub Value);

impl Pod {
    pub fn ready(&self) -> bool {
        let conditions = self.0["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    }

    /// Reason and message of the container that waits.
    pub fn waiting(&self) -> Option<(String, String)> {
        let waiting = self.0["status"]["containerStatuses"][0]["state"]["waiting"].as_object()?;
        let text = |key: &str| waiting.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some((text("reason"), text("message")))
    }
}
