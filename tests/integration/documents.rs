//! The pages against each other and against the tree: merges of two versions leave rows twice, and links and names go stale.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// All files below a folder with this ending.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|found| found == ending) {
            found.push(path);
        }
    }
}

fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    files(&root().join("docs"), "md", &mut pages);
    files(&root().join("tests"), "md", &mut pages);
    for path in std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|ending| ending == "md") {
            pages.push(path);
        }
    }
    assert!(pages.len() > 20, "{pages:?}");
    pages
}

/// The first cell of each row of a section's tables.
fn rows<'a>(page: &'a str, section: &str) -> Vec<&'a str> {
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| row.split('|').nth(1).unwrap().trim()).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn no_table_has_two_rows_of_one_name() {
    let mut twice = Vec::new();
    for page in pages() {
        let mut seen = BTreeSet::new();
        for line in std::fs::read_to_string(&page).unwrap().lines() {
            let Some(row) = line.strip_prefix('|') else {
                seen.clear();
                continue;
            };
            let name = row.split('|').next().unwrap().trim().to_owned();
            if !name.is_empty() && !seen.insert(name.clone()) {
                twice.push(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(twice.is_empty(), "{twice:#?}");
}

#[test]
fn each_direct_dependency_has_its_row_and_no_other() {
    let manifest = text("Cargo.toml");
    let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
    let dependencies = rest.split("\n\n").next().unwrap().lines();
    let dependencies: Vec<&str> = dependencies.filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
    let page = text("ARCHITECTURE.md");
    let mut told: Vec<&str> = rows(&page, "Direct dependencies").into_iter().flat_map(quoted).collect();
    let mut expected = dependencies.clone();
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected);
}

#[test]
fn each_room_has_its_row() {
    let page = text("ARCHITECTURE.md");
    let told: Vec<&str> = rows(&page, "Rooms").into_iter().flat_map(quoted).collect();
    for entry in std::fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        let room = format!("src/{name}{}", if entry.path().is_dir() { "/" } else { "" });
        assert!(name == "lib.rs" || told.contains(&room.as_str()), "no row for {room}");
    }
    for room in told.iter().filter(|room| room.starts_with("src/")) {
        assert!(root().join(room).exists(), "{room} is not there");
    }
}

/// A heading as GitHub makes an anchor of it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let (mut seen, mut lost) = (0, Vec::new());
    for page in pages() {
        let content = std::fs::read_to_string(&page).unwrap();
        for link in content.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to) {
            if link.starts_with("http") || link.contains(' ') {
                continue;
            }
            seen += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let to = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let there = to.exists()
                && (heading.is_empty() || {
                    let content = std::fs::read_to_string(&to).unwrap();
                    let mut headings = content.lines().filter(|line| line.starts_with('#'));
                    headings.any(|line| anchor(line.trim_start_matches('#')) == heading)
                });
            if !there {
                lost.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(lost.is_empty() && seen > 100, "{seen}: {lost:#?}");
}

/// `module::name` on these pages is a test, or a module of tests.
#[test]
fn tests_that_pages_name_exist() {
    let mut sources = Vec::new();
    files(&root().join("src"), "rs", &mut sources);
    files(&root().join("tests"), "rs", &mut sources);
    let code: String = sources.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    for (name, least) in [("SECURITY.md", 60), ("docs/guarantees.md", 40)] {
        let page = text(name);
        let named = quoted(&page).filter(|name| name.contains("::") && !name.contains(' '));
        let (mut seen, mut missing) = (0, Vec::new());
        for name in named {
            seen += 1;
            let last = name.rsplit("::").next().unwrap();
            if !code.contains(&format!("fn {last}(")) && !code.contains(&format!("mod {last};")) {
                missing.push(name);
            }
        }
        assert!(missing.is_empty() && seen > least, "{name}: {seen}: {missing:?}");
    }
}
