//! The kinds of value that settings are written in.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::image::quoted;

/// Longest path of a unix socket, bytes (unix(7): `sun_path` has 108, one for the final zero).
const SOCKET_PATH_BYTES: usize = 107;

/// How the path of CRI-O's socket ends (the kubelet's `CrioSocketSuffix`).
const CRIO_SOCKET: &str = "run/crio/crio.sock";

/// A unix socket, written `unix:///path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// Parses `unix:///absolute/path`. The error says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| format!("expected a socket as unix:///run/name.sock, found {}: {why}", quoted(text));
        let path = text.strip_prefix("unix://").ok_or_else(|| wrong("it does not begin with unix://"))?;
        let path = absolute(path).map_err(|why| wrong(&why))?;
        if path.as_os_str().len() > SOCKET_PATH_BYTES {
            return Err(wrong(&format!("the path is longer than {SOCKET_PATH_BYTES} bytes")));
        }
        Ok(Self(path))
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of what lives only while the machine runs, beside the listening socket: the control socket, the
    /// break-glass file. A kubelet takes its runtime for CRI-O only by the end of the socket's path; the
    /// folder is the one above that end.
    pub fn runtime_dir(&self) -> &Path {
        let folder = self.0.parent().unwrap_or(&self.0);
        if self.0.ends_with(CRIO_SOCKET) { folder.ancestors().nth(2).unwrap_or(folder) } else { folder }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// Parses an absolute path without `..` and control characters.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || text.chars().any(char::is_control) || path.file_name().is_none() {
        return Err(format!("expected an absolute path without \"..\", found {}", quoted(text)));
    }
    Ok(path.to_owned())
}

/// Parses a duration as Kubernetes writes it: whole numbers with `h`, `m`, `s` or `ms`, largest first, e.g. `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a duration such as 10s, 5m or 1h30m, found {}", quoted(text));
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let (mut rest, mut allowed, mut millis) = (text, units.as_slice(), 0_u64);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at_checked(letters).ok_or_else(wrong)?;
        let at = allowed.iter().position(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let (_, scale) = allowed.get(at).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        millis = number.checked_mul(*scale).and_then(|n| millis.checked_add(n)).ok_or_else(wrong)?;
        (rest, allowed) = (after, allowed.get(at + 1..).unwrap_or_default());
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_millis(millis)) }
}

/// A duration as [`duration`] reads it, in whole seconds: `48h`, `1h30m`.
pub fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let parts = parts.into_iter().filter(|(number, _)| *number > 0);
    let text: String = parts.map(|(number, unit)| format!("{number}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Parses a number of bytes as Kubernetes writes it: a whole number with `Ki`, `Mi`, `Gi` or nothing.
pub fn quantity(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected a size such as 512Ki, 100Mi or 1Gi, found {}", quoted(text));
    let units = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("", 1_u64)];
    let (number, scale) =
        units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale))).ok_or_else(wrong)?;
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(*scale)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_absolute_unix_sockets() {
        let endpoint = Endpoint::parse("unix:///run/crivet/crivet.sock").unwrap();
        assert_eq!(endpoint.path(), Path::new("/run/crivet/crivet.sock"));
        assert_eq!(endpoint.to_string(), "unix:///run/crivet/crivet.sock");
        for bad in [
            "/run/x.sock",
            "unix://run/x.sock",
            "tcp://1.2.3.4:5",
            "unix:///",
            "unix:///a/../b",
            "",
            "unix:///a\n",
        ] {
            assert!(Endpoint::parse(bad).unwrap_err().contains("unix:///run/name.sock"), "{bad}");
        }
        assert!(Endpoint::parse(&format!("unix:///{}", "a".repeat(106))).is_ok());
        assert!(Endpoint::parse(&format!("unix:///{}", "a".repeat(107))).is_err());
    }

    #[test]
    fn durations_are_read_as_kubernetes_writes_them() {
        for (text, millis) in [
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("0s", 0),
            ("1m1ms", 60_001),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["0s", "72h", "1h30m", "5m", "1h1s"] {
            assert_eq!(spoken(duration(text).unwrap()), text);
        }
        for bad in [
            "",
            "10",
            "s",
            "1s1h",
            "1s1s",
            "-1s",
            "1.5h",
            "1d",
            " 1s",
            "1S",
            "99999999999999999999s",
            "9999999999999999h",
            "é",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, bytes) in [("0", 0), ("17", 17), ("3Ki", 3072), ("100Mi", 100 << 20), ("1Gi", 1 << 30)] {
            assert_eq!(quantity(text), Ok(bytes), "{text}");
        }
        for bad in ["", "Mi", "1M", "+1", "-1", "1.5Gi", "99999999999999999999", "99999999999999Gi"] {
            assert!(quantity(bad).is_err(), "{bad}");
        }
    }
}
