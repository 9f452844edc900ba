//! systemd's unit files, as far as it takes to know what a unit runs and to write a drop-in for it. Pure: texts
//! come in as arguments.

use std::path::PathBuf;

use super::NodeError;

/// A unit file or a drop-in of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// One assignment that is in force, and the file it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The value as written, lines that were continued joined.
    pub value: String,
    /// The file.
    pub path: PathBuf,
}

/// The assignments of a list-valued key that are in force: systemd.syntax(7), an empty value resets the list. `files` are
/// in systemd's order: the unit itself, then its drop-ins.
pub fn in_force(files: &[UnitFile], section: &str, key: &str) -> Vec<Assignment> {
    let mut found = Vec::new();
    for file in files {
        let mut within = String::new();
        for line in logical_lines(&file.text) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                within = name.to_owned();
            } else if let Some((name, value)) = line.split_once('=')
                && within == section
                && name.trim_end() == key
            {
                match value.trim() {
                    "" => found.clear(),
                    value => found.push(Assignment { value: value.to_owned(), path: file.path.clone() }),
                }
            }
        }
    }
    found
}

/// The lines of a unit file: a backslash at the end of a line continues it (and becomes a space); comments, also
/// those between continued lines, are left out.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let (part, continues) = match line.strip_suffix('\\') {
            Some(part) => (part.trim_end(), true),
            None => (line, false),
        };
        let mut whole = open.take().unwrap_or_default();
        if !whole.is_empty() && !part.is_empty() {
            whole.push(' ');
        }
        whole.push_str(part);
        if continues {
            open = Some(whole);
        } else if !whole.is_empty() {
            lines.push(whole);
        }
    }
    lines.extend(open.filter(|whole| !whole.is_empty()));
    lines
}

/// The one command a service runs.
pub fn exec_start(unit: &str, files: &[UnitFile]) -> Result<Assignment, NodeError> {
    let commands = in_force(files, "Service", "ExecStart");
    let [command] = commands.as_slice() else {
        return Err(NodeError::Unsupported(format!(
            "expected one ExecStart= in {unit}, found {}; `systemctl cat {unit}` shows them",
            commands.len()
        )));
    };
    // systemd.service(5): a lone semicolon begins a second command.
    if words(&command.value).iter().any(|word| word == ";") {
        return Err(NodeError::Unsupported(format!(
            "expected one command in ExecStart= of {unit}, found several joined by \";\""
        )));
    }
    Ok(command.clone())
}

/// The program of an `ExecStart=`, without systemd's prefixes.
pub fn program(exec_start: &str) -> Option<String> {
    let words = words(exec_start);
    let first = words.first()?.trim_start_matches(['@', '-', ':', '+', '!', '|']);
    (!first.is_empty()).then(|| first.to_owned())
}

/// The words of a command line as systemd splits it, quotes taken off. Variables and specifiers stay as written.
pub fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut inside, mut quote) = (String::new(), false, None);
    let mut characters = command.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.extend(characters.next()),
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.push(c),
            ('"' | '\'', None) => (quote, inside) = (Some(c), true),
            (c, None) if c.is_whitespace() => {
                if inside || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                inside = false;
            }
            (c, None) => word.push(c),
        }
    }
    if inside || !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> UnitFile {
        UnitFile { path: path.into(), text: text.to_owned() }
    }

    const UNIT: &str = "[Unit]\nAfter=x\n[Service]\nExecStart=/usr/bin/kubelet\nRestart=always\n";
    const KUBEADM: &str = "# a note\n[Service]\nEnvironment=\"A=--x\"\nExecStart=\nExecStart=/usr/bin/kubelet $A $KUBELET_EXTRA_ARGS\n";

    fn command(files: &[UnitFile]) -> Result<Assignment, NodeError> {
        exec_start("kubelet.service", files)
    }

    #[test]
    fn a_drop_in_that_resets_wins() {
        let files = [file("/a/kubelet.service", UNIT), file("/b/10-kubeadm.conf", KUBEADM)];
        let found = command(&files).unwrap();
        assert_eq!(found.value, "/usr/bin/kubelet $A $KUBELET_EXTRA_ARGS");
        assert_eq!(found.path, PathBuf::from("/b/10-kubeadm.conf"));
        assert_eq!(command(&files[..1]).unwrap().value, "/usr/bin/kubelet");
    }

    #[test]
    fn a_drop_in_that_does_not_reset_makes_two_commands() {
        let second = KUBEADM.replace("ExecStart=\n", "");
        let error = command(&[file("/a", UNIT), file("/b", &second)]).unwrap_err().to_string();
        assert!(error.contains("expected one ExecStart=") && error.contains("found 2"), "{error}");
        assert!(command(&[file("/a", "[Service]\n")]).is_err());
    }

    #[test]
    fn two_commands_in_one_line_are_refused() {
        let error = command(&[file("/a", "[Service]\nExecStart=/bin/a x ; /bin/b\n")]).unwrap_err();
        assert!(error.to_string().contains("joined by"), "{error}");
        assert!(command(&[file("/a", "[Service]\nExecStart=/bin/a x; \";\"y\n")]).is_ok());
    }

    #[test]
    fn continued_lines_are_joined_and_comments_between_them_skipped() {
        let text = "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n# no\n\t'--disable' \\\n\t'traefik' \\\n\n";
        assert_eq!(
            command(&[file("/a", text)]).unwrap().value,
            "/usr/local/bin/k3s server '--disable' 'traefik'"
        );
    }

    #[test]
    fn keys_of_other_sections_and_longer_keys_are_not_taken() {
        let text = "[Socket]\nExecStart=/no\n[Service]\nExecStartPre=/no\nExecStart = /yes\n";
        assert_eq!(command(&[file("/a", text)]).unwrap().value, "/yes");
    }

    #[test]
    fn words_are_systemds() {
        assert_eq!(
            words(r#"-/bin/a  'b c' "d \"e" f\ g "" $H"#),
            ["-/bin/a", "b c", "d \"e", "f g", "", "$H"]
        );
        assert_eq!(program("@-/usr/bin/kubelet kubelet").unwrap(), "/usr/bin/kubelet");
        assert_eq!(program(""), None);
    }
}
