//! Certificates by file name, as docker lays them out in `certs.d/<host[:port]>/`. Pure.

use std::path::Path;

use super::TlsFiles;

/// Who reads the folder: they differ about a key that is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// containerd: the key may stand in the certificate's file.
    Containerd,
    /// containers/image: an error.
    Containers,
}

/// `*.crt` are CA certificates, `*.cert` client certificates with their `*.key`. Other files mean nothing.
///
/// # Errors
/// A certificate without key or a key without certificate.
pub(super) fn files(dir: &Path, names: &[String], reader: Reader) -> Result<TlsFiles, String> {
    let mut tls = TlsFiles::default();
    let has = |name: &str| names.iter().any(|other| other == name);
    for name in names {
        if name.ends_with(".crt") {
            tls.ca.push(dir.join(name));
        } else if let Some(base) = name.strip_suffix(".cert") {
            let key = format!("{base}.key");
            match (has(&key), reader) {
                (true, _) => tls.client.push((dir.join(name), Some(dir.join(key)))),
                (false, Reader::Containerd) => tls.client.push((dir.join(name), None)),
                (false, Reader::Containers) => {
                    return Err(format!("{}: expected its key {key} beside it", dir.join(name).display()));
                }
            }
        } else if let Some(base) = name.strip_suffix(".key")
            && reader == Reader::Containers
            && !has(&format!("{base}.cert"))
        {
            return Err(format!(
                "{}: expected its certificate {base}.cert beside it",
                dir.join(name).display()
            ));
        }
    }
    Ok(tls)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(names: &[&str], reader: Reader) -> Result<TlsFiles, String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        files(Path::new("/d"), &names, reader)
    }

    #[test]
    fn files_are_told_apart_by_their_ending() {
        for reader in [Reader::Containerd, Reader::Containers] {
            let tls = of(&["README", "a.crt", "b.crt", "c.cert", "c.key"], reader).unwrap();
            assert_eq!(tls.ca, [Path::new("/d/a.crt"), Path::new("/d/b.crt")]);
            assert_eq!(tls.client, [("/d/c.cert".into(), Some("/d/c.key".into()))]);
            assert_eq!(tls.skip_verify, None);
        }
    }

    #[test]
    fn missing_key_is_in_the_same_file_for_containerd_and_an_error_for_containers_image() {
        assert_eq!(of(&["c.cert"], Reader::Containerd).unwrap().client, [("/d/c.cert".into(), None)]);
        let error = of(&["c.cert"], Reader::Containers).unwrap_err();
        assert_eq!(error, "/d/c.cert: expected its key c.key beside it");
    }

    #[test]
    fn key_without_certificate_is_an_error_for_containers_image_only() {
        assert_eq!(of(&["c.key"], Reader::Containerd).unwrap(), TlsFiles::default());
        assert!(of(&["c.key"], Reader::Containers).unwrap_err().contains("c.cert"));
    }
}
