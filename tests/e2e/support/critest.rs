//! critest, the CRI's own conformance suite, on one socket.

use super::image::Image;
use super::peers::Peers;
use super::registry::Registry;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const STAGING: &str = "k8s-staging-cri-tools";

/// Pushes what critest pulls, under the names that containerd looks for in its mirror.
pub fn push_images(peers: &Peers, registry: &Registry) {
    let image = |name: &str| Image::script(peers, "sleep 3600").file("name", name);
    for (repository, tag) in [
        ("e2e-test-images/busybox", "1.29-2"),
        ("pause", "3.9"),
        (&format!("{STAGING}/test-image-latest"), "latest"),
        (&format!("{STAGING}/test-image-tag"), "test"),
        (&format!("{STAGING}/test-image-tag"), "all"),
        (&format!("{STAGING}/test-image-1"), "latest"),
        (&format!("{STAGING}/test-image-2"), "latest"),
        (&format!("{STAGING}/test-image-3"), "latest"),
    ] {
        image(repository).push(registry, repository, tag);
    }
    let same = image("tags");
    for tag in ["1", "2", "3"] {
        same.push(registry, &format!("{STAGING}/test-image-tags"), tag);
    }
    for (name, user) in [
        ("user-uid", "1002"),
        ("user-username", "www-data"),
        ("user-uid-group", "1003:users"),
        ("user-username-group", "www-data:100"),
        ("predefined-group", "default-user"),
    ] {
        image(name).user(user).push(registry, &format!("{STAGING}/test-image-{name}"), "latest");
    }
}

/// Runs the suite; answers with each test's name and outcome: `passed`, `failed`, …, leaving out what was skipped.
/// Some fail on any runtime here, for want of images that only the network has.
///
/// That a container out of memory is called `OOMKilled` is left out: containerd learns of the exit and of its cause by two
/// events in either order, so that it passes or fails by chance without crivet too (containerd issue 12260, mended
/// by its pull request 12714 in later versions than these).
pub fn run(peers: &Peers, socket: &Path) -> BTreeMap<String, String> {
    let dir = peers.path().join("critest");
    std::fs::create_dir_all(&dir).unwrap();
    // Without one of ours critest reads the machine's.
    std::fs::write(dir.join("crictl.yaml"), "timeout: 60\n").unwrap();
    let endpoint = format!("unix://{}", socket.display());
    let report = dir.join("report.xml");
    let _ = std::fs::remove_file(&report);
    let output = Command::new(peers.program("critest"))
        .arg("-config")
        .arg(dir.join("crictl.yaml"))
        .args(["-runtime-endpoint", &endpoint, "-image-endpoint", &endpoint])
        .args(["-ginkgo.seed", "1", "-ginkgo.skip", "OOMKilled", "-ginkgo.junit-report"])
        .arg(&report)
        .env("TMPDIR", &dir)
        .output()
        .unwrap();
    std::fs::write(peers.path().join("logs/critest.log"), &output.stdout).unwrap();
    let text = std::fs::read_to_string(&report)
        .unwrap_or_else(|_| panic!("no report from critest: {}", String::from_utf8_lossy(&output.stdout)));
    let cases = text.split("<testcase ").skip(1).filter_map(|case| {
        Some((attribute(case, "name")?.to_owned(), attribute(case, "status")?.to_owned()))
    });
    cases.filter(|(_, status)| status != "skipped").collect()
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element.split_once(&format!("{name}=\""))?.1.split('"').next()
}
