//! The inventory as it is told: as a table, or as JSON (docs/inventory.md). Pure.

use std::fmt::Write;

use serde_json::{Value, json};

use super::uses::Use;
use crate::audit::Decision;
use crate::cri::facts::{ROLE_IMAGE, ROLE_PAUSE};
use crate::image::ImageId;
use crate::vetter::wire::{Judged, Outcome};

/// A use, and what the policies say of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The use.
    pub used: Use,
    /// What is said.
    pub judged: Judged,
}

/// The whole inventory.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Sorted: what is denied, what is undecided, what is allowed; within these by namespace, pod and container.
    pub rows: Vec<Row>,
    /// `daemon` or `command`.
    pub judged_by: &'static str,
}

impl Row {
    /// What was decided.
    pub fn decision(&self) -> Decision {
        match self.judged.outcome() {
            Outcome::Permitted => Decision::Allowed,
            Outcome::Denied => Decision::Denied,
            Outcome::Undecided | Outcome::UnknownOutcome => Decision::Undecided,
        }
    }

    fn rank(&self) -> u8 {
        match self.decision() {
            Decision::Denied => 0,
            Decision::Undecided => 1,
            Decision::Allowed => 2,
        }
    }

    /// What makes a use matter more, or less certain.
    fn marks(&self) -> Vec<&'static str> {
        let marks = [
            (self.used.role == ROLE_PAUSE, "pause image"),
            (self.used.static_pod, "static pod"),
            (self.used.guessed, "name guessed"),
            (self.decision() != Decision::Allowed && !self.judged.refuses, "only audited"),
        ];
        marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect()
    }

    fn shown(&self) -> &str {
        if self.used.reference.is_empty() { &self.used.image } else { &self.used.reference }
    }

    fn json(&self) -> Value {
        let used = &self.used;
        let mut row = json!({
            "decision": self.decision().as_str(),
            "refused": self.judged.refuses,
            "reference": used.reference,
            // In the spelling of the audit records; CRI-O writes the bare hex.
            "imageId": ImageId::parse(&used.image).map_or_else(|_| used.image.clone(), |id| id.to_string()),
            "digest": self.judged.digest,
            "policies": self.judged.policies,
            "message": self.judged.message,
            "registry": self.judged.registry,
        });
        if let (true, Some(row)) = (used.is_running(), row.as_object_mut()) {
            row.insert("namespace".to_owned(), json!(used.namespace));
            row.insert("pod".to_owned(), json!(used.pod));
            row.insert("container".to_owned(), json!(used.container));
            row.insert("use".to_owned(), json!(used.role));
            row.insert("staticPod".to_owned(), json!(used.static_pod));
            row.insert("referenceGuessed".to_owned(), json!(used.guessed));
        }
        row
    }
}

impl Inventory {
    /// Of these rows.
    pub fn new(mut rows: Vec<Row>, judged_by: &'static str) -> Inventory {
        rows.sort_by(|a, b| (a.rank(), &a.used).cmp(&(b.rank(), &b.used)));
        Inventory { rows, judged_by }
    }

    /// How many rows were decided so, of those that run or those that do not.
    fn count(&self, decision: Decision, running: impl Fn(&Row) -> bool) -> usize {
        self.rows.iter().filter(|row| row.decision() == decision && running(row)).count()
    }

    /// What is worst: denied, else undecided, else allowed.
    pub fn worst(&self) -> Decision {
        let some = |decision| self.count(decision, |_| true) > 0;
        match (some(Decision::Denied), some(Decision::Undecided)) {
            (true, _) => Decision::Denied,
            (false, true) => Decision::Undecided,
            (false, false) => Decision::Allowed,
        }
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let rows = |running: bool| -> Vec<Value> {
            self.rows.iter().filter(|row| row.used.is_running() == running).map(Row::json).collect()
        };
        let counts = |running: bool| {
            let count = |decision| self.count(decision, |row| row.used.is_running() == running);
            json!({
                "allowed": count(Decision::Allowed),
                "denied": count(Decision::Denied),
                "undecided": count(Decision::Undecided),
            })
        };
        json!({
            "judgedBy": self.judged_by,
            "summary": {"running": counts(true), "notInUse": counts(false)},
            "running": rows(true),
            "notInUse": rows(false),
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (running, title) in [(true, "Running"), (false, "Not in use")] {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.used.is_running() == running).collect();
            let count = |decision| self.count(decision, |row| row.used.is_running() == running);
            let _ = writeln!(
                text,
                "{title}: {} denied, {} undecided, {} allowed",
                count(Decision::Denied),
                count(Decision::Undecided),
                count(Decision::Allowed)
            );
            table(&mut text, &rows);
        }
        let refused: Vec<&Row> =
            self.rows.iter().filter(|row| row.used.is_running() && row.judged.refuses).collect();
        let of = |is: fn(&Use) -> bool| refused.iter().filter(|row| is(&row.used)).count();
        let _ = match refused.len() {
            0 => writeln!(text, "Nothing that runs now would be refused."),
            all => writeln!(
                text,
                "Would be refused of what runs now: {all}, of them in static pods {}, pause image {}.",
                of(|used| used.static_pod && used.role != ROLE_PAUSE),
                of(|used| used.role == ROLE_PAUSE)
            ),
        };
        text
    }
}

fn table(text: &mut String, rows: &[&Row]) {
    let cells: Vec<[String; 4]> = rows
        .iter()
        .map(|row| {
            let used = &row.used;
            let who = match (used.pod.as_str(), used.role.as_str()) {
                ("", "") => String::new(),
                ("", _) => format!("{}/*", used.namespace),
                (pod, role) if role == ROLE_IMAGE => format!("{}/{pod} {}", used.namespace, used.container),
                (pod, role) => format!("{}/{pod} {} ({role})", used.namespace, used.container),
            };
            let marks = row.marks().join(", ");
            let marks = if marks.is_empty() { marks } else { format!("[{marks}]") };
            [row.decision().as_str().to_owned(), plain(&who), plain(row.shown()), marks]
        })
        .collect();
    let width = |at: usize| cells.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..4).map(|at| width(at).unwrap_or_default()).collect();
    for (row, cells) in rows.iter().zip(&cells) {
        let mut line = String::from(" ");
        for (cell, width) in cells.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            let _ = write!(line, " {cell:<width$} ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
        if !row.judged.message.is_empty() {
            let _ = writeln!(text, "      {}", plain(&row.judged.message));
        }
    }
}

/// Names come from the runtime, and go to a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(outcome: Outcome, namespace: &str, pod: &str) -> Row {
        let used = Use {
            namespace: namespace.into(),
            pod: pod.into(),
            container: "main".into(),
            role: ROLE_IMAGE.into(),
            reference: "r.test/app:1".into(),
            ..Use::default()
        };
        let message = if outcome == Outcome::Permitted { "" } else { "SignatureValidationFailed: why" };
        let refuses = outcome != Outcome::Permitted;
        let judged =
            Judged { outcome: outcome.into(), message: message.into(), refuses, ..Default::default() };
        Row { used, judged }
    }

    fn idle(outcome: Outcome) -> Row {
        let mut row = row(outcome, "", "");
        (row.used.container, row.used.role) = (String::new(), String::new());
        row
    }

    #[test]
    fn the_worst_comes_first_and_is_the_answer() {
        let rows = [Outcome::Permitted, Outcome::Undecided, Outcome::Denied].map(|o| row(o, "prod", "a"));
        let inventory = Inventory::new(rows.to_vec(), "daemon");
        let order: Vec<_> = inventory.rows.iter().map(Row::decision).collect();
        assert_eq!(order, [Decision::Denied, Decision::Undecided, Decision::Allowed]);
        assert_eq!(inventory.worst(), Decision::Denied);
        let [allowed, undecided, _] = rows;
        assert_eq!(Inventory::new(vec![allowed.clone(), undecided], "").worst(), Decision::Undecided);
        assert_eq!(Inventory::new(vec![allowed], "").worst(), Decision::Allowed);
        assert_eq!(Inventory::new(Vec::new(), "").worst(), Decision::Allowed);
    }

    #[test]
    fn the_table_says_who_what_and_why() {
        let mut pause = row(Outcome::Undecided, "prod", "");
        (pause.used.role, pause.used.container) = (ROLE_PAUSE.into(), String::new());
        let mut audited = row(Outcome::Denied, "prod", "web");
        (audited.judged.refuses, audited.used.static_pod) = (false, true);
        let text = Inventory::new(vec![audited, pause, idle(Outcome::Permitted)], "daemon").text();
        let expected = "\
Running: 1 denied, 1 undecided, 0 allowed
  denied     prod/web main  r.test/app:1  [static pod, only audited]
      SignatureValidationFailed: why
  undecided  prod/*         r.test/app:1  [pause image]
      SignatureValidationFailed: why
Not in use: 0 denied, 0 undecided, 1 allowed
  allowed  r.test/app:1
Would be refused of what runs now: 1, of them in static pods 0, pause image 1.
";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_tells_what_runs_from_what_does_not() {
        let json =
            Inventory::new(vec![row(Outcome::Denied, "prod", "web"), idle(Outcome::Permitted)], "daemon")
                .json();
        assert_eq!(json["summary"]["running"], json!({"allowed": 0, "denied": 1, "undecided": 0}));
        assert_eq!(json["running"][0]["pod"], "web");
        assert_eq!(json["notInUse"][0]["decision"], "allowed");
        assert_eq!(json["notInUse"][0].get("pod"), None);
    }

    #[test]
    fn a_name_with_a_terminal_s_control_character_does_not_reach_it() {
        let text = Inventory::new(vec![row(Outcome::Permitted, "prod", "a\u{1b}[2J")], "daemon").text();
        assert!(!text.contains('\u{1b}'));
    }
}
