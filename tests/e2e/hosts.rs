//! Registries that only the runtime's own files or a proxy lead to: a private CA with client certificates, mirrors, a proxy.
//! containerd pulls by the same files beside crivet.

use crate::support::crivet::{Activation, key_policy};
use crate::support::image::Pushed;
use crate::support::node::{DENIED, Node, REGISTRY_UNAVAILABLE, Setup, assert_refused};
use crate::support::registry::Registry;
use crate::support::secured::{Secured, file};
use crate::support::wait_for;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// No name that leads anywhere by itself.
const REGISTRY: &str = "private.test";

/// A node whose policies want a signature on everything, [`REGISTRY`] included.
fn node(by: impl FnOnce() -> Activation) -> Option<Node> {
    node_with("1.6", by)
}

fn node_with(containerd: &str, by: impl FnOnce() -> Activation) -> Option<Node> {
    let node = Node::activated(&Setup { containerd, ..Setup::default() }, |_| by())?;
    node.crivet.put_policies(&[
        key_policy("all", &node.glob("**"), &node.key),
        key_policy("private", &format!("{REGISTRY}/**"), &node.key),
    ]);
    Some(node)
}

/// Has crivet read the files that these lines of its `registry` settings name.
fn set_registry(node: &Node, settings: &str) {
    let config = node.peers.path().join("crivet/config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}registry: {{{settings}}}\n")).unwrap();
    node.crivet.reload();
}

fn by_config_path(node: &Node) {
    set_registry(node, &format!("configPath: '{}'", node.containerd.config_path().display()));
}

/// Pushes an image into the node's registry under this name, signed for [`REGISTRY`] or not; answers with what a pod calls
/// it.
fn push(node: &Node, name: &str, signed: bool) -> (Pushed, String) {
    let pushed = node.push(name, &node.says(name).file("name", name));
    if signed {
        let identity = format!("{REGISTRY}/{name}");
        node.cosign.sign(&node.key, &pushed.by_digest, &["--sign-container-identity", &identity]);
    }
    let reference = format!("{REGISTRY}/{name}:1");
    (pushed, reference)
}

/// containerd 1.x takes a file without a `host` for none, so there is always one.
fn hosts_toml(url: &str, settings: &str) -> String {
    format!("server = \"{url}\"\n{settings}\n[host.\"{url}\"]\n{settings}\n")
}

/// `client = …` with the client certificate.
fn client_pair() -> String {
    format!("client = [[\"{}\", \"{}\"]]\n", file("client.crt").display(), file("client.key").display())
}

fn with_tls(registry: &Secured, client: &str) -> String {
    let ca = format!("ca = [\"{}\"]\n", file("ca.crt").display());
    hosts_toml(&format!("https://{}", registry.address()), &(ca + client))
}

fn without_tls(registry: &Registry) -> String {
    hosts_toml(&format!("http://{}", registry.address()), "")
}

#[test]
fn image_behind_a_private_ca_and_a_client_certificate_is_vetted_and_pulled() {
    let Some(node) = node(Activation::default) else { return };
    let tls = Secured::with_client_certificates(&node.peers, &node.registry);
    let (pushed, signed) = push(&node, "signed", true);
    let (_, unsigned) = push(&node, "unsigned", false);
    node.containerd.put_hosts(REGISTRY, &with_tls(&tls, &client_pair()));

    // crivet was not told where the runtime's files are: it looks for the name itself.
    let refused = node.crictl().pull(&signed);
    assert_refused(refused, REGISTRY_UNAVAILABLE, &["its name does not resolve"]);

    by_config_path(&node);
    node.crictl().pull(&signed).unwrap();
    assert_refused(node.crictl().pull(&unsigned), DENIED, &["private.test/unsigned"]);
    let images = node.containerd.crictl().run(["images", "--quiet", "--no-trunc"]).unwrap();
    assert!(images.contains(&pushed.id), "{images}");
    for agent in ["crivet/", "containerd/"] {
        assert!(tls.log().contains(agent), "{agent} did not ask the registry with TLS");
    }

    // Without the client certificate the registry is not there for anybody; the file is read again by itself.
    node.containerd.put_hosts(REGISTRY, &with_tls(&tls, ""));
    let (_, other) = push(&node, "other", true);
    wait_for("the file to be read", Duration::from_secs(30), || {
        // Until then crivet lets it through, and containerd cannot pull it.
        node.crictl().pull(&other).err().filter(|refused| refused.contains("RegistryUnavailable: "))
    });
}

#[test]
fn mirror_that_is_down_is_followed_by_the_registry_for_crivet_and_containerd_alike() {
    for version in ["1.6", "2"] {
        let Some(node) = node_with(version, Activation::default) else { return };
        mirror_is_down(&node);
    }
}

fn mirror_is_down(node: &Node) {
    // Bound, and nobody listens.
    let down = format!("127.0.0.1:{}", crate::support::free_port());
    let (server, mirror) = (node.registry.address(), Registry::start(&node.peers));
    let hosts = format!(
        "server = \"http://{server}\"\n[host.\"http://{down}\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        mirror.address()
    );
    node.containerd.put_hosts(REGISTRY, &hosts);
    by_config_path(node);
    let (_, signed) = push(node, "signed", true);
    node.crictl().pull(&signed).unwrap();
    // The second mirror is empty, and asked for what it may be asked for: not what the tag points at.
    let asked = mirror.requests_of("crivet/");
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|request| request.contains("ns=private.test")), "{asked:?}");
    assert!(!asked.iter().any(|request| request.contains("manifests/1")), "{asked:?}");
    assert!(!mirror.requests_of("containerd/").is_empty());

    let (_, unsigned) = push(node, "unsigned", false);
    let refused = node.crictl().pull(&unsigned);
    // What the mirror that is down may have is not absent.
    assert_refused(refused, REGISTRY_UNAVAILABLE, &[&down, "connection refused"]);
}

#[test]
fn registries_conf_leads_to_a_mirror() {
    let Some(node) = node(Activation::default) else { return };
    node.containerd.put_hosts(REGISTRY, &without_tls(&node.registry));
    let conf = node.peers.path().join("registries.conf");
    let mirror =
        format!("[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n", node.registry.address());
    std::fs::write(&conf, format!("[[registry]]\nlocation = \"{REGISTRY}\"\nblocked = true\n{mirror}"))
        .unwrap();
    set_registry(&node, &format!("registriesConf: {}", conf.display()));
    let (_, signed) = push(&node, "signed", true);
    let (_, unsigned) = push(&node, "unsigned", false);
    node.crictl().pull(&signed).unwrap();
    assert_refused(node.crictl().pull(&unsigned), DENIED, &["private.test/unsigned"]);
    assert!(node.crivet.log().contains("TLS certificates are NOT checked"), "{}", node.crivet.log());
}

/// An HTTP proxy that only makes tunnels, and all of them to one place.
struct Proxy {
    address: String,
    to: Arc<OnceLock<String>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (to, asked): (Arc<OnceLock<String>>, Arc<Mutex<Vec<String>>>) = Default::default();
        let (target, log) = (Arc::clone(&to), Arc::clone(&asked));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (target, log) = (Arc::clone(&target), Arc::clone(&log));
                std::thread::spawn(move || tunnel(client, &target, &log));
            }
        });
        Self { address, to, asked }
    }
}

fn tunnel(client: TcpStream, to: &OnceLock<String>, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    log.lock().unwrap().push(head.join("; "));
    let server = TcpStream::connect(to.get()?).ok()?;
    let mut writer = client.try_clone().ok()?;
    writer.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    let mut back = server.try_clone().ok()?;
    let answers = std::thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut writer);
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    let mut forth = server;
    let _ = std::io::copy(&mut reader, &mut forth);
    let _ = forth.shutdown(std::net::Shutdown::Write);
    answers.join().ok()
}

#[test]
fn registry_behind_a_proxy_is_vetted_through_it() {
    let proxy = Proxy::start();
    let url = OsString::from(format!("http://user:secret-of-the-proxy@{}", proxy.address));
    let environment = vec![("HTTPS_PROXY".to_owned(), url), ("NO_PROXY".to_owned(), "other.test".into())];
    let by = || Activation { environment, ..Activation::default() };
    let Some(node) = node(by) else { return };
    let tls = Secured::with_client_certificates(&node.peers, &node.registry);
    proxy.to.set(tls.address().to_owned()).unwrap();
    // containerd gets there by itself; crivet by a name that only the proxy knows. The certificate is for another one.
    node.containerd.put_hosts(REGISTRY, &without_tls(&node.registry));
    let own = node.peers.path().join("certs.d").join(REGISTRY);
    std::fs::create_dir_all(&own).unwrap();
    let text = format!("skip_verify = true\n{}", client_pair());
    std::fs::write(own.join("hosts.toml"), text).unwrap();
    set_registry(&node, &format!("configPath: {}", node.peers.path().join("certs.d").display()));

    let (_, signed) = push(&node, "signed", true);
    let (_, unsigned) = push(&node, "unsigned", false);
    node.crictl().pull(&signed).unwrap();
    assert_refused(node.crictl().pull(&unsigned), DENIED, &["private.test/unsigned"]);
    assert!(tls.log().contains("crivet/"));
    let asked = proxy.asked.lock().unwrap().clone();
    assert!(!asked.is_empty());
    for head in asked {
        assert!(head.starts_with("CONNECT private.test:443 HTTP/1.1; "), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic "), "{head}");
    }
    let log = node.crivet.log();
    assert!(
        log.contains("TLS certificates are NOT checked") && !log.contains("secret-of-the-proxy"),
        "{log}"
    );
}
