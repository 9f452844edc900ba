//! The report's page in a real browser.

use crate::support::peers::Peers;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// A log with this many findings, a tenth of them undecided, among decisions that were allowed.
fn log(findings: u64) -> String {
    let mut text = String::new();
    for hour in 0..24 * 9 {
        let day = 1 + hour / 24;
        let time = format!("2026-08-{day:02}T{:02}:10:00.000Z", hour % 24);
        let record = |changes: Value| {
            let mut record = json!({
                "time": time, "schemaVersion": 1, "kind": "CreateContainer", "mode": "audit", "decision": "allowed",
                "effective": "forwarded", "image": "sha256:00", "reference": "r.example/fine:1", "namespace": "web",
                "policies": [{"name": "ours", "outcome": "allowed"}], "message": "", "policySetHash": "sha256:01",
                "latencyMs": 3, "count": 20,
            });
            record.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            record.to_string()
        };
        writeln!(text, "{}", record(json!({}))).unwrap();
        if hour == 0 {
            writeln!(text, "{}", record(json!({"kind": "RunPodSandbox"}))).unwrap();
        }
        for number in (0..findings).filter(|number| number % (24 * 9) == hour) {
            let (decision, reason) = match number % 10 {
                0 => ("undecided", "RegistryLogin"),
                _ => ("denied", "SignatureMissing"),
            };
            // An image with a name that would be markup, and script.
            let image = format!("r.example/<script>document.title='x'</script><b onclick=x>{number}:1");
            let changes = json!({"decision": decision, "reason": reason, "reference": image, "count": 1,
                "message": format!("image {image}: {}", "why not, ".repeat(20))});
            writeln!(text, "{}", record(changes)).unwrap();
        }
    }
    text
}

/// The page as the browser has it, and what it complained about.
fn browse(peers: &Peers, page: &Path, profile: &str) -> (String, String) {
    let output = Command::new(peers.program("chromium"))
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", peers.path().join(profile).display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .env("HOME", peers.path())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (dom, said) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success() && dom.contains("</html>"), "{said}");
    // What the page says; the browser itself complains about a machine without a desktop.
    let console = said.lines().filter(|line| line.contains(":CONSOLE")).collect::<Vec<_>>().join("\n");
    (dom, console)
}

#[test]
fn the_page_is_right_in_a_browser_with_0_10_and_10_000_findings() {
    let Some(peers) = Peers::get() else { return };
    for findings in [0, 10, 10_000] {
        let (path, page) = (peers.path().join("audit.jsonl"), peers.path().join("report.html"));
        std::fs::write(&path, log(findings)).unwrap();
        let made = Command::new(env!("CARGO_BIN_EXE_crivet"))
            .args(["report", "-o", "html", "--file"])
            .args([&page, Path::new("--log"), &path])
            .status();
        assert!(made.unwrap().success());
        let (dom, console) = browse(&peers, &page, &format!("profile-{findings}"));
        assert_eq!(console, "", "{findings} findings");
        let there = |text: &str| assert!(dom.contains(text), "{findings} findings: no {text:?} in\n{dom}");
        let (denied, undecided) = (findings * 9 / 10, findings / 10);
        let rows = dom.matches("<summary>Message</summary>").count() as u64;
        assert_eq!(rows, denied.min(100) + undecided.min(100), "{findings} findings");
        match findings {
            0 => there("Ready to enforce: yes</h1>"),
            10 => {
                there("Denied: 9 findings</h2>");
                there("Could not be decided: 1 finding</h2>");
            }
            _ => {
                there("Denied: 9,000 findings</h2>");
                there("and 8,900 more findings with 8,900 decisions");
                there("Could not be decided: 1,000 findings</h2>");
            }
        }
        // A style that was refused would leave charts without colour and size.
        there("<style>\n:root");
        assert!(dom.contains("<rect class=\"allowed\""), "no chart");
        assert!(!dom.contains("<script") && !dom.contains("<b onclick"), "markup from a log");
        assert!(!dom.contains("<title>x"), "a script ran");
        assert!(dom.len() < 1 << 20, "{} bytes", dom.len());
    }
}

#[test]
fn a_page_that_was_tampered_with_runs_nothing() {
    let Some(peers) = Peers::get() else { return };
    let (path, page) = (peers.path().join("audit.jsonl"), peers.path().join("report.html"));
    std::fs::write(&path, log(1)).unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_crivet"))
        .args(["report", "-o", "html", "--log"])
        .arg(&path)
        .output();
    let whole = String::from_utf8(made.unwrap().stdout).unwrap();
    let script = "<main><script>document.title = 'x'</script><img src=\"https://r.example/x\">";
    std::fs::write(&page, whole.replace("<main>", script)).unwrap();
    let (dom, console) = browse(&peers, &page, "profile");
    assert!(console.contains("Content Security Policy"), "{console}");
    assert!(!dom.contains("<title>x"), "the script ran");
}
