//! The node, as these commands touch it: files, systemd, the runtime's socket. Everything goes through [`Host`], so that
//! tests can stand on a prepared tree.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::api::{self, Access, Ready};
use super::{NodeError, at};
use crate::config::Endpoint;
use crate::control::{self, Control};
use crate::cri::runtime::RuntimeClient;
use crate::limits;

/// What a runtime says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// `containerd`, `cri-o`, …
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A connection to crivet's listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The process.
    pub pid: u32,
    /// Since when, seconds since 1970.
    pub connected: u64,
    /// It has made a call.
    pub called: bool,
}

/// The node.
pub trait Host {
    /// Where a file of the node is.
    fn path(&self, path: &Path) -> PathBuf;
    /// Runs systemctl, and gives what it printed.
    fn systemctl(&self, arguments: &[&str]) -> Result<String, NodeError>;
    /// What a program says to `--version`.
    fn version(&self, program: &Path) -> Result<String, NodeError>;
    /// Asks Version of a runtime's socket, as the kubelet does first of all.
    fn runtime(&self, socket: &Path) -> Result<Runtime, NodeError>;
    /// The names of the images the runtime keeps from being collected.
    fn pinned_images(&self, socket: &Path) -> Result<Vec<String>, NodeError>;
    /// Asks a running crivet who is connected to its listening socket.
    fn clients(&self, listen: &Path) -> Result<Vec<Client>, NodeError>;
    /// `GET path`: status and body.
    fn get(&self, address: SocketAddr, path: &str) -> Result<(u16, String), NodeError>;
    /// Asks the API server about this node.
    fn node(&self, access: &Access) -> Result<Ready, NodeError>;
    /// This program's own file.
    fn program(&self) -> &Path;
    /// Seconds since 1970.
    fn now(&self) -> u64;
    /// Since any fixed moment.
    fn elapsed(&self) -> Duration;
    /// Waits.
    fn sleep(&self, time: Duration);
    /// Whether the operator wants this ended.
    fn interrupted(&self) -> bool;
    /// Says a line to the operator, and for `loud` ones to the node's log as well.
    fn say(&self, loud: bool, line: &str);
}

/// Reads a file of the node; `None` if there is none.
pub fn read(host: &dyn Host, path: &Path) -> Result<Option<Vec<u8>>, NodeError> {
    let file = match std::fs::File::open(host.path(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(at(path))?,
    };
    let mut bytes = Vec::new();
    file.take(limits::NODE_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(at(path))?;
    if bytes.len() > limits::NODE_FILE_BYTES {
        return Err(NodeError::Refused(format!(
            "{}: expected at most {} bytes (limit NODE_FILE_BYTES)",
            path.display(),
            limits::NODE_FILE_BYTES
        )));
    }
    Ok(Some(bytes))
}

/// Reads a file of the node as text, whatever is not UTF-8 replaced; `None` if there is none.
pub fn read_text(host: &dyn Host, path: &Path) -> Result<Option<String>, NodeError> {
    Ok(read(host, path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The machine this runs on.
pub struct ThisMachine {
    program: PathBuf,
    start: Instant,
    interrupted: Arc<AtomicBool>,
    runtime: tokio::runtime::Runtime,
}

impl ThisMachine {
    /// Looks at the machine; from here on SIGINT and SIGTERM are a wish, and a lost terminal is nothing.
    pub fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let interrupted = Arc::<AtomicBool>::default();
        let heard = Arc::clone(&interrupted);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || hear(&heard))?;
        Ok(Self { program: std::env::current_exe()?, start: Instant::now(), interrupted, runtime })
    }
}

fn hear(interrupted: &AtomicBool) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let Ok(mut signals) = kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>() else { return };
        let [interrupt, terminate, hangup] = signals.as_mut_slice() else { return };
        loop {
            tokio::select! {
                _ = interrupt.recv() => interrupted.store(true, Ordering::Relaxed),
                _ = terminate.recv() => interrupted.store(true, Ordering::Relaxed),
                // A lost ssh session: what was begun is better ended, one way or the other.
                _ = hangup.recv() => {}
            }
        }
    });
}

impl Host for ThisMachine {
    fn path(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<String, NodeError> {
        run(Path::new("systemctl"), &[&["--no-pager", "--no-ask-password"], arguments].concat())
    }

    fn version(&self, program: &Path) -> Result<String, NodeError> {
        run(program, &["--version"])
    }

    fn runtime(&self, socket: &Path) -> Result<Runtime, NodeError> {
        let answer = self.runtime.block_on(async { RuntimeClient::new(socket, socket).version().await });
        let answer = answer.map_err(|error| unanswered(socket, &error))?;
        Ok(Runtime { name: answer.runtime_name, version: answer.runtime_version })
    }

    fn pinned_images(&self, socket: &Path) -> Result<Vec<String>, NodeError> {
        let images =
            self.runtime.block_on(async { RuntimeClient::new(socket, socket).pinned_images().await });
        let images = images.map_err(|error| unanswered(socket, &error))?;
        Ok(images.into_iter().filter_map(|image| image.repo_tags.into_iter().next()).collect())
    }

    fn clients(&self, listen: &Path) -> Result<Vec<Client>, NodeError> {
        let wrong = NodeError::NotThrough;
        let listen = Endpoint::parse(&format!("unix://{}", listen.display())).map_err(wrong)?;
        let asked = self.runtime.block_on(async {
            Control::connect(&control::socket(listen.runtime_dir())).await?.status().await
        });
        let status = asked.map_err(|error| wrong(error.to_string()))?;
        let client = |client: control::wire::Client| Client {
            pid: client.pid,
            connected: client.connected / 1000,
            called: client.calls > 0,
        };
        Ok(status.clients.into_iter().map(client).collect())
    }

    fn get(&self, address: SocketAddr, path: &str) -> Result<(u16, String), NodeError> {
        get(address, path).map_err(|error| {
            NodeError::NotThrough(format!("http://{address}{path} does not answer: {}", error.kind()))
        })
    }

    fn node(&self, access: &Access) -> Result<Ready, NodeError> {
        api::ask(access)
    }

    fn program(&self) -> &Path {
        &self.program
    }

    fn now(&self) -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |since| since.as_secs())
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn say(&self, loud: bool, line: &str) {
        // Whoever reads may have gone, with the ssh session; the work goes on.
        let _ = writeln!(io::stdout(), "{line}");
        if loud {
            to_the_journal(line);
        }
    }
}

fn unanswered(socket: &Path, error: &dyn std::fmt::Display) -> NodeError {
    NodeError::NotThrough(format!("unix://{} does not answer: {error}", socket.display()))
}

/// systemd's journal, by its native protocol: one datagram, a field a line. A node without it loses nothing else.
fn to_the_journal(line: &str) {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let entry = format!("MESSAGE=crivet node: {line}\nPRIORITY=4\nSYSLOG_IDENTIFIER=crivet\n");
    let _ = UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(entry.as_bytes(), "/run/systemd/journal/socket"));
}

/// Runs one of the programs there are: systemctl, and what the kubelet's unit runs, for its version. No shell; a time
/// limit; what it prints is cut.
fn run(program: &Path, arguments: &[&str]) -> Result<String, NodeError> {
    let command = format!("{} {}", program.display(), arguments.join(" "));
    let failed = |said: String| NodeError::Program { command: command.clone(), said };
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let deadline = Instant::now() + Duration::from_secs(limits::NODE_PROGRAM_SECONDS);
    let status = loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                let limit = limits::NODE_PROGRAM_SECONDS;
                return Err(failed(format!("not done after {limit} s (limit NODE_PROGRAM_SECONDS)")));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    if status.success() {
        return Ok(out);
    }
    let said: Vec<_> = err.lines().chain(out.lines()).filter(|line| !line.trim().is_empty()).collect();
    Err(failed(if said.is_empty() { status.to_string() } else { said.join("; ") }))
}

fn drain(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.by_ref().take(limits::NODE_PROGRAM_BYTES as u64).read_to_end(&mut bytes);
            // The rest is read and dropped, so that the program does not hang on a full pipe.
            let _ = io::copy(&mut stream, &mut io::sink());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A small HTTP/1.0 GET: the answer ends with the connection.
fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let limit = Duration::from_secs(limits::NODE_HTTP_SECONDS);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(limits::NODE_FILE_BYTES as u64).read_to_end(&mut bytes)?;
    parse_answer(&bytes)
}

/// Status and body of an HTTP answer that ended with its connection.
pub fn parse_answer(bytes: &[u8]) -> io::Result<(u16, String)> {
    let text = String::from_utf8_lossy(bytes);
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_told_with_what_it_said() {
        let error = run(Path::new("/bin/ls"), &["/nowhere-at-all"]).unwrap_err().to_string();
        assert!(
            error.contains("`/bin/ls /nowhere-at-all` failed:") && error.contains("No such file"),
            "{error}"
        );
        assert!(run(Path::new("/no/such/program"), &[]).is_err());
        assert_eq!(run(Path::new("/bin/echo"), &["a"]).unwrap(), "a\n");
    }

    #[test]
    fn an_answer_of_http_is_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        assert_eq!(get(address, "/healthz").unwrap(), (200, "ok".to_owned()));
        assert!(server.join().unwrap().starts_with("GET /healthz HTTP/1.0\r\n"));
        assert!(get(address, "/healthz").is_err());
    }
}
