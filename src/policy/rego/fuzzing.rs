//! What the fuzz target `rego` holds modules to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use regorus::Value;
use serde_json::json;

use super::{Module, RULE, engine, functions, scan};
use crate::fuzzing::one_line;
use crate::limits;
use crate::policy::cel::Answer;

/// A function that no module may call: by none of its names is it in the list of those that may be.
const TRAP: [&str; 3] = ["trap", "trap.call", "http.send"];

/// Runs one input: a module, and behind a line `---` what it is given.
pub(crate) fn rego(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (text, input) = text.split_once("\n---\n").unwrap_or((text, "{}"));
    let module = match Module::read(text) {
        Ok(module) => module,
        Err(why) => {
            one_line(&why);
            return false;
        }
    };
    assert!(text.len() <= limits::REGO_BYTES);
    let rules = scan::check(text).expect("it was accepted");
    assert!(rules.contains("isCompliant"));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_785_585_600);
    for input in [input, "{}", "[1, \"a\", null]", r#"{"a": ["b", 2, {"c": 1.5}], "b": {"c": "d"}}"#] {
        let once = module.answer(input.as_bytes(), now);
        let again = module.answer(input.as_bytes(), now);
        match (&once, &again) {
            // How long it takes is no matter of what it says.
            (Answer::Unknown(why), _) | (_, Answer::Unknown(why)) => {
                assert!(why.contains("(limit REGO_"), "{why}: {text}");
            }
            _ => assert_eq!(once, again, "two answers to {text}"),
        }
        if let Answer::Fails(text) | Answer::Unknown(text) = &once {
            assert!(!text.contains(char::is_control), "{text:?}");
        }
        calls_nothing_else(text, &rules, input, now);
    }
    true
}

/// Whatever regorus makes of the text, it comes to call no function that the scanner would not have let through.
fn calls_nothing_else(text: &str, rules: &BTreeSet<&str>, input: &str, now: SystemTime) {
    if TRAP.iter().any(|name| rules.contains(name.split('.').next().unwrap_or(name))) {
        return;
    }
    let (Ok((mut engine, _)), called) = (engine(text), Arc::new(AtomicBool::new(false))) else { return };
    functions::add(&mut engine, now).expect("they were added before");
    for name in TRAP {
        let called = Arc::clone(&called);
        let trap = move |_: Vec<Value>| {
            called.store(true, Ordering::Relaxed);
            Ok(Value::from(true))
        };
        engine.add_extension(name.to_owned(), 1, Box::new(trap)).expect("nothing has its name");
    }
    if engine.set_input_json(input).is_ok() {
        engine.set_execution_timer_config(super::timer());
        drop(engine.eval_rule(RULE.to_owned()));
    }
    assert!(!called.load(Ordering::Relaxed), "calls what it must not: {text}");
}

/// Modules as people write them, and ones that would call the trap if they could.
pub(crate) fn rego_seeds() -> Vec<Vec<u8>> {
    let input = json!({
        "predicateType": "https://example.com/p",
        "predicate": {"list": [{"id": "a", "severity": "HIGH"}, {"id": "b"}], "when": "2026-07-30T12:00:00Z"},
        "authorityMatches": {"a": {"signatures": [{"id": "x", "subject": "dev@acme.example"}]}},
    });
    let bodies = [
        "input.predicate.list[_].severity == \"HIGH\"",
        "count([v | v := input.predicate.list[_]; v.severity == \"HIGH\"]) < 2",
        "re_match(`^https://[a-z.]+/p$`, input.predicateType); startswith(input.predicateType, \"https\")",
        "time.now_ns() - time.parse_rfc3339_ns(input.predicate.when) < time.parse_duration_ns(\"100h\")",
        "sprintf(\"%s-%d\", [\"a\", 1]) == concat(\"-\", [\"a\", \"1\"]); object.get(input, \"x\", 1) == 1",
        "count({1, 2} | {3}) == 3; not input.missing; {\"a\": x} = {\"a\": 1} # why",
        "input.predicate.list[0].id == \"a\"; input.predicate.list[1][\"id\"] == \"b\"",
        "x := {v.id | v := input.predicate.list[_]}; x == {\"a\", \"b\"}; max([1, 2.5e1]) == 25",
        "lower(input.predicateType) != upper(input.predicateType); split(\"a,b\", \",\")[_] == \"b\"",
        "input.authorityMatches.a.signatures[_].subject == \"dev@acme.example\"",
        "trim_prefix(input.predicateType, `https://`) == replace(\"example-com/p\", \"-\", \".\")",
        "trap(1)",
        "trap [\"call\"] (1)",
        "trap[\"call\"](1)",
        "trap.\ncall(1)",
        "x := trap[\"call\"]\n  (1)",
        "http[(\"send\")]({})",
        "\"\\\"\" == `\"`; http.send({}) # \" `",
        "input.a[\"b\"].send({})",
        "y := `\n#`; trap(y)",
        "some x in [trap(1)]",
    ];
    let whole = [
        "package sigstore\nimport rego.v1\nisCompliant contains r if {\n  every v in input.predicate.list { v.id != \"\" }\n  r := {\"result\": true, \"error\": \"\"}\n}",
        "package sigstore\ndefault isCompliant = false\nhigh[id] { v := input.predicate.list[_]; v.severity == \"HIGH\"; id := v.id }\nf(x) = y { y := x + 1 } else = 0\nisCompliant[r] {\n  r := {\"result\": count(high) < f(1), \"error\": \"too many\", \"warning\": \"\"}\n}",
        "package sigstore\nisCompliant = x { x := input.a } else = trap(2) { true }",
        "package sigstore\nf(x) = trap\nisCompliant { f(1) }",
    ];
    let made = bodies.iter().map(|body| format!("package sigstore\nisCompliant {{\n  {body}\n}}"));
    made.chain(whole.map(str::to_owned)).map(|text| format!("{text}\n---\n{input}").into_bytes()).collect()
}
