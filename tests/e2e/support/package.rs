//! The packages of the crivet that was just built, as `make dist` makes them.

use super::peers::Peers;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What stands in for the release before, and for this one.
pub const OLD: &str = "0.0.9";
pub const NEW: &str = "0.1.0";

/// The packages of both versions, of one binary: only the version differs. Made once for all tests.
pub fn packages(peers: &Peers) -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        std::fs::create_dir_all(&dir).unwrap();
        // Without what debuggers read, which is most of a test's binary.
        let binary = dir.join("crivet");
        let strip = Command::new("strip").arg("-o").arg(&binary).arg(env!("CARGO_BIN_EXE_crivet")).status();
        assert!(strip.unwrap().success());
        for version in [OLD, NEW] {
            dist(peers, &binary, version, &dir.join(version));
        }
        dir
    })
}

/// Runs `packaging/dist.sh` from this tree.
pub fn dist(peers: &Peers, binary: &Path, version: &str, out: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/dist.sh");
    let mut command = Command::new(script);
    // Of the cargo that runs this test: the script's own cargo would build crates anew because of them.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_")) {
        if !["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    let output = command
        .arg(out)
        .args(["--binary".as_ref(), binary.as_os_str(), "--version".as_ref(), version.as_ref()])
        .env("NFPM", peers.tool("nfpm"))
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .output()
        .unwrap();
    assert!(output.status.success(), "dist.sh: {}", String::from_utf8_lossy(&output.stderr));
}

/// The one file in a version's folder whose name ends so.
pub fn package(peers: &Peers, version: &str, ending: &str) -> PathBuf {
    let files = std::fs::read_dir(packages(peers).join(version)).unwrap().flatten().map(|e| e.path());
    let mut found = files.filter(|path| path.to_string_lossy().ends_with(ending));
    found.next().unwrap_or_else(|| panic!("no {ending} of {version}"))
}
