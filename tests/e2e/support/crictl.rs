//! crictl on one socket.

use super::image::Pushed;
use super::peers::Peers;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[derive(Clone)]
pub struct Crictl {
    program: PathBuf,
    socket: PathBuf,
    dir: PathBuf,
}

/// A container that crictl made, with its sandbox.
pub struct Container {
    pub pod: String,
    pub id: String,
    log: PathBuf,
}

impl Crictl {
    pub fn new(peers: &Peers, socket: &Path) -> Self {
        let dir = peers.path().join("crictl");
        std::fs::create_dir_all(dir.join("logs")).unwrap();
        // Without one of ours crictl reads the machine's.
        std::fs::write(dir.join("crictl.yaml"), "timeout: 60\n").unwrap();
        Self { program: peers.program("crictl"), socket: socket.to_owned(), dir }
    }

    /// Runs crictl: its output, or what it said on the error stream.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String, String> {
        let endpoint = format!("unix://{}", self.socket.display());
        let output = Command::new(&self.program)
            .arg("--config")
            .arg(self.dir.join("crictl.yaml"))
            .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Value, String> {
        self.run(args).map(|text| serde_json::from_str(&text).expect("crictl prints JSON"))
    }

    pub fn pull(&self, reference: &str) -> Result<String, String> {
        self.run(["pull", reference])
    }

    /// Makes a host-network sandbox; answers with its ID.
    pub fn sandbox(&self, name: &str) -> Result<String, String> {
        self.sandbox_in(name, "e2e")
    }

    /// Makes a host-network sandbox in a namespace; answers with its ID.
    pub fn sandbox_in(&self, name: &str, namespace: &str) -> Result<String, String> {
        let file = self.write(&format!("{name}.pod.json"), &self.sandbox_config(name, namespace));
        self.run(["runp".as_ref(), file.as_os_str()])
    }

    /// Makes a host-network sandbox of a runtime handler; answers with its ID.
    pub fn sandbox_of(&self, name: &str, handler: &str) -> Result<String, String> {
        let file = self.write(&format!("{name}.pod.json"), &self.sandbox_config(name, "e2e"));
        self.run(["runp", "--runtime", handler, file.to_str().unwrap()])
    }

    /// The same, with labels or annotations, by that word.
    pub fn sandbox_with(&self, name: &str, handler: &str, what: &str, of: &Value) -> Result<String, String> {
        let mut config = self.sandbox_config(name, "e2e");
        config[what] = of.clone();
        let file = self.write(&format!("{name}.pod.json"), &config);
        self.run(["runp", "--runtime", handler, file.to_str().unwrap()])
    }

    /// Pulls for a pod of a namespace.
    pub fn pull_in(&self, reference: &str, namespace: &str) -> Result<String, String> {
        let file = self.write("pull.pod.json", &self.sandbox_config("pull", namespace));
        self.run(["pull", "--pod-config", file.to_str().unwrap(), reference])
    }

    /// Pulls for a pod of a namespace with `user:password`.
    pub fn pull_as(&self, reference: &str, namespace: &str, creds: &str) -> Result<String, String> {
        let file = self.write("pull.pod.json", &self.sandbox_config("pull", namespace));
        let config = file.to_str().unwrap();
        self.run(["pull", "--creds", creds, "--pod-config", config, reference])
    }

    /// Makes a container of whatever `image` says, for a pod of a namespace; answers with its ID.
    pub fn create_of(
        &self,
        name: &str,
        pod: &str,
        namespace: &str,
        image: &Value,
        mounts: &Value,
    ) -> Result<String, String> {
        let config = json!({"metadata": {"name": name}, "image": image, "mounts": mounts,
            "log_path": format!("{name}.log"), "linux": {}});
        let container = self.write(&format!("{name}.container.json"), &config);
        let sandbox = self.write(&format!("{name}.pod.json"), &self.sandbox_config(name, namespace));
        let files = [container.as_os_str(), sandbox.as_os_str()];
        self.run(["create".as_ref(), "--no-pull".as_ref(), pod.as_ref(), files[0], files[1]])
    }

    /// Makes and starts a container of an image that is there already, in a sandbox of its own.
    pub fn start(&self, name: &str, image: &Pushed) -> Result<Container, String> {
        let pod = self.sandbox(name)?;
        let id = self.create(name, &pod, image)?;
        self.run(["start", &id])?;
        Ok(Container { pod, id, log: self.dir.join("logs").join(format!("{name}.log")) })
    }

    /// Makes a container in a sandbox as a kubelet does, by image ID with the pod's reference beside it; answers
    /// with its ID.
    pub fn create(&self, name: &str, pod: &str, image: &Pushed) -> Result<String, String> {
        self.create_of(name, pod, "e2e", &named(&image.id, &image.reference), &json!([]))
    }

    fn sandbox_config(&self, name: &str, namespace: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": namespace, "uid": name, "attempt": 0},
            "log_directory": self.dir.join("logs"),
            "linux": {"cgroup_parent": "/k8s.io", "security_context": {"namespace_options": {"network": 2}}}})
    }

    fn write(&self, name: &str, value: &Value) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path
    }
}

impl Container {
    /// Stops and removes the container with its sandbox.
    pub fn remove(&self, crictl: &Crictl) -> Result<(), String> {
        crictl.run(["stop", "--timeout", "5", &self.id])?;
        crictl.run(["stopp", &self.pod])?;
        crictl.run(["rmp", &self.pod]).map(drop)
    }

    /// Waits for the container's first line on its standard output.
    pub fn first_line(&self) -> String {
        super::wait_for("the container's first line", Duration::from_secs(20), || {
            let log = std::fs::read_to_string(&self.log).ok()?;
            log_line(log.lines().next()?)
        })
    }
}

/// A create's image: what the runtime is to take, and what the pod says.
pub fn named(image: &str, user_specified_image: &str) -> Value {
    json!({"image": image, "user_specified_image": user_specified_image})
}

/// The message of one line of a CRI log: `<time> stdout F <message>`.
pub fn log_line(line: &str) -> Option<String> {
    line.splitn(4, ' ').nth(3).map(ToOwned::to_owned)
}
