//! What stands between client and runtime.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::UnixStream;

pub struct Contender {
    pub name: &'static str,
    pub socket: PathBuf,
    process: Option<Child>,
}

impl Contender {
    /// The process, for those that have one.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
    }
}

/// The runtime itself first, then crivet, then the peers that are installed.
pub async fn all(folder: &Path, runtime: &Path) -> Vec<Contender> {
    let mut all = vec![Contender { name: "runtime", socket: runtime.to_owned(), process: None }];
    for (name, start) in [
        ("crivet", crivet as fn(&Path, &Path, &Path) -> Option<Command>),
        ("socat", socat),
        ("HAProxy", haproxy),
        ("nginx", nginx),
    ] {
        let socket = folder.join(format!("{name}.sock"));
        let Some(mut command) = start(folder, &socket, runtime) else {
            println!("{name} is not installed; `make bench-peers`\n");
            continue;
        };
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let contender = Contender { name, socket, process: Some(process) };
        listens(name, &contender.socket).await;
        all.push(contender);
    }
    all
}

/// Waits until somebody answers on a socket.
pub async fn listens(name: &str, socket: &Path) {
    for _ in 0..2000 {
        if UnixStream::connect(socket).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{name} does not listen on {}", socket.display());
}

/// A peer's program: out of the tests' cache, else the machine's.
pub fn program(name: &str) -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/crivet/peers"));
    let cache = std::env::var_os("CRIVET_PEERS").map(PathBuf::from).or_else(home)?.join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [cache, "/usr/sbin".into()].into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|program| program.exists())
}

fn crivet(folder: &Path, listen: &Path, runtime: &Path) -> Option<Command> {
    let (folder, config) = (folder.display(), folder.join("crivet.yaml"));
    let text = format!(
        "apiVersion: crivet.dev/v1alpha1\nkind: ProxyConfiguration\nmode: enforce\nunmatched: allow\n\
         listen: unix://{}\nruntimeEndpoint: unix://{}\npolicyDir: {folder}/policies.d\n\
         stateDir: {folder}/state\nauditLog: {{path: {folder}/audit.jsonl}}\n",
        listen.display(),
        runtime.display(),
    );
    std::fs::create_dir_all(format!("{folder}/policies.d")).unwrap();
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crivet"));
    command.arg("serve").arg("--config").arg(config);
    Some(command)
}

fn socat(_: &Path, listen: &Path, runtime: &Path) -> Option<Command> {
    let mut command = Command::new(program("socat")?);
    command.arg(format!("UNIX-LISTEN:{},fork", listen.display()));
    command.arg(format!("UNIX-CONNECT:{}", runtime.display()));
    Some(command)
}

fn haproxy(folder: &Path, listen: &Path, runtime: &Path) -> Option<Command> {
    let config = folder.join("haproxy.cfg");
    let text = format!(
        "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n\
         frontend kubelet\n  bind unix@{} proto h2\n  default_backend runtime\n\
         backend runtime\n  http-reuse always\n  server runtime unix@{} proto h2\n",
        listen.display(),
        runtime.display(),
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(program("haproxy")?);
    command.arg("-db").arg("-f").arg(config);
    Some(command)
}

fn nginx(folder: &Path, listen: &Path, runtime: &Path) -> Option<Command> {
    let config = folder.join("nginx.conf");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {}/nginx-{name};\n", folder.display()))
        .concat();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let text = format!(
        "{user}\ndaemon off;\npid {}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
         client_max_body_size 0;\nkeepalive_requests 1000000000;\nhttp2_max_concurrent_streams 1000;\n\
         upstream runtime {{ server unix:{}; keepalive 64; keepalive_requests 1000000000; }}\n\
         server {{ listen unix:{} http2; location / {{ grpc_pass grpc://runtime; }} }}\n}}\n",
        folder.display(),
        runtime.display(),
        listen.display(),
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(program("nginx")?);
    command.arg("-e").arg("stderr").arg("-c").arg(config);
    Some(command)
}
