//! Which folders a view of a snapshot is made of. Pure.

use std::path::PathBuf;

use crate::cri::runtime::unpacked::Mount;
use crate::image::quoted;

/// The folders of the layers, lowest first: of a view that containerd's overlayfs snapshotter made of so many.
///
/// # Errors
/// It is made of something else; one line.
pub fn folders(mounts: &[Mount], layers: usize) -> Result<Vec<PathBuf>, String> {
    let [mount] = mounts else {
        return Err(format!("expected one mount of its snapshots, found {}", mounts.len()));
    };
    let lower = match mount.kind.as_str() {
        // Of a single layer there is nothing to be laid over another.
        "bind" => mount.source.as_str(),
        "overlay" => {
            if mount.options.iter().any(|option| option == "userxattr") {
                return Err("its snapshots are those of a runtime without root, which crivet does not read"
                    .to_owned());
            }
            let lower = mount.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
            lower.ok_or_else(|| "expected lowerdir= in the mount of its snapshots, found none".to_owned())?
        }
        other => {
            return Err(format!("expected its snapshots as overlay or bind mounts, found {}", quoted(other)));
        }
    };
    if lower.contains('\\') {
        return Err(
            "the path of its snapshots has a colon or backslash in it, which crivet does not read".to_owned()
        );
    }
    let folders: Vec<PathBuf> = lower.split(':').rev().map(PathBuf::from).collect();
    if folders.len() != layers || folders.iter().any(|folder| !folder.is_absolute()) {
        return Err(format!(
            "expected {layers} absolute folders in the mount of its snapshots, found {}",
            quoted(lower)
        ));
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { kind: kind.to_owned(), source: source.to_owned(), options }
    }

    fn overlay(options: &[&str]) -> Vec<Mount> {
        vec![mount("overlay", "overlay", options)]
    }

    #[test]
    fn the_lowest_is_first() {
        let found = folders(&overlay(&["index=off", "lowerdir=/s/2/fs:/s/1/fs"]), 2).unwrap();
        assert_eq!(found, [PathBuf::from("/s/1/fs"), PathBuf::from("/s/2/fs")]);
        let single = [mount("bind", "/s/1/fs", &["ro", "rbind"])];
        assert_eq!(folders(&single, 1).unwrap(), [PathBuf::from("/s/1/fs")]);
    }

    #[test]
    fn anything_else_is_not_guessed_at() {
        let cases: [(Vec<Mount>, &str); 8] = [
            (vec![], "found 0"),
            (overlay(&["lowerdir=/s/1/fs"]), "expected 2 absolute folders"),
            (overlay(&["lowerdir=/s/3/fs:/s/2/fs:/s/1/fs"]), "expected 2 absolute folders"),
            (overlay(&["lowerdir=2/fs:1/fs"]), "expected 2 absolute folders"),
            (overlay(&["upperdir=/s/1/fs"]), "expected lowerdir="),
            (overlay(&["userxattr", "lowerdir=/s/2/fs:/s/1/fs"]), "without root"),
            (overlay(&["lowerdir=/a\\:b/2/fs:/s/1/fs"]), "colon or backslash"),
            (vec![mount("erofs", "/s/1/layer.erofs", &["ro"])], "found \"erofs\""),
        ];
        for (mounts, said) in cases {
            let error = folders(&mounts, 2).unwrap_err();
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
