//! The units that check the node's disk, which come with crivet's own: nothing enables them but whoever wants them (docs/content.md).

use std::path::{Path, PathBuf};

use super::NodeError;
use super::detect::{show, unit_files};
use super::host::Host;
use super::plan::{CONFIG, LISTEN, NewFile, PERSISTENT, UNITS, by_this_program};
use super::unit;
use crate::relay::requested;

/// The units that check the node's disk, what starts others first.
const CHECKS: [(&str, &str); 4] = [
    ("crivet-content.timer", include_str!("../../systemd/crivet-content.timer")),
    (CHECK_REQUESTED, include_str!("../../systemd/crivet-content-requested.path")),
    ("crivet-content.service", include_str!("../../systemd/crivet-content.service")),
    ("crivet-content-requested.service", include_str!("../../systemd/crivet-content-requested.service")),
];
/// Watches crivet's runtime folder for requests of checks.
const CHECK_REQUESTED: &str = "crivet-content-requested.path";

/// Plans to write them where no package has brought them and nobody else; and the folder that one of them watches, where that is
/// another. Which units are new.
pub fn plan(
    host: &dyn Host,
    runtime_dir: &Path,
    files: &mut Vec<NewFile>,
) -> Result<Vec<&'static str>, NodeError> {
    let folder = Path::new(PERSISTENT);
    // A package that does not have them is an older one, and an upgrade brings them: not to be hidden by these.
    let service = show(host, UNITS[1])?;
    let is_packaged =
        service.loaded && service.paths.first().is_some_and(|path| !path.starts_with(PERSISTENT));
    let mut new = Vec::new();
    for (name, text) in CHECKS {
        if !is_packaged && !show(host, name)?.loaded {
            files.push(NewFile { path: folder.join(name), text: by_this_program(host, text) });
            new.push(name);
        }
    }
    let request = runtime_dir.join(requested::NAME);
    let path = show(host, CHECK_REQUESTED)?;
    let watched: Vec<PathBuf> = if path.loaded {
        let paths = unit::in_force(&unit_files(host, &path)?, "Path", "PathExists").into_iter();
        paths.map(|assignment| assignment.value.into()).collect()
    } else {
        vec![Path::new(LISTEN).with_file_name(requested::NAME)]
    };
    if (path.loaded || !new.is_empty()) && watched.as_slice() != [request.clone()] {
        let text = format!(
            "# Written by `crivet node install`: the folder of the socket that {CONFIG} names.\n[Path]\nPathExists=\nPathExists={}\n",
            request.display()
        );
        let drop_in = format!("{CHECK_REQUESTED}.d/90-crivet-listen.conf");
        files.push(NewFile { path: folder.join(drop_in), text });
    }
    Ok(new)
}
