//! A program that ends by itself: how it ended, how long it took and how much memory it had at most.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub struct Ended {
    pub code: Option<i32>,
    /// Standard output and standard error, in that order.
    pub said: String,
    pub took: Duration,
    /// KiB resident at most, as last seen before it ended.
    pub peak: u64,
}

/// Runs it in an environment of its own: nothing of the machine's decides what it trusts.
pub fn run(program: &Path, arguments: &[String], environment: &[(&str, String)]) -> Ended {
    let (mut out, out_end) = std::io::pipe().unwrap();
    let begun = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(out_end.try_clone().unwrap())
        .stderr(out_end)
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut out, &mut said).map(|_| said)
    });
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        // The high-water mark goes with the process, before it can be waited for.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = mark.and_then(|m| m.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak);
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let took = begun.elapsed();
    Ended { code: ended.code(), said: reader.join().unwrap().unwrap(), took, peak }
}
