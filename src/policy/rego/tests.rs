//! What modules come to, and which are refused. The modules are after those that policy-controller's users publish.

use std::time::Duration;

use super::*;

fn now() -> SystemTime {
    // 2026-08-01T12:00:00Z
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_785_585_600)
}

fn answer(module: &str, input: &Json) -> Answer {
    let module = Module::read(module).unwrap_or_else(|why| panic!("{why}: {module}"));
    module.answer(input.to_string().as_bytes(), now())
}

fn refused(module: &str) -> String {
    match Module::read(module) {
        Ok(_) => panic!("not refused: {module}"),
        Err(why) => {
            assert!(!why.contains(char::is_control), "{why}");
            why
        }
    }
}

fn fails(text: &str) -> Answer {
    Answer::Fails(text.to_owned())
}

/// As `spec.policy` sees it.
fn matches() -> Json {
    serde_json::json!({"authorityMatches": {
        "keyatt": {"attestations": {"vuln-key": [{"id": "a", "predicateType": "vuln"}]}},
        "keysignature": {"signatures": [{"id": "b"}]},
        "keylessatt": {"attestations": {"custom-keyless": [{"id": "c", "subject": "dev@acme.example", "issuer": "https://i.example"}]}},
        "keylesssignature": {"signatures": [{"id": "d", "subject": "dev@acme.example", "issuer": "https://i.example"}]},
    }})
}

fn statement() -> Json {
    serde_json::json!({
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": "https://cosign.sigstore.dev/attestation/vuln/v1",
        "subject": [{"name": "r.io/app", "digest": {"sha256": "00"}}],
        "predicate": {
            "scanner": {"uri": "pkg:github/acme/scanner@v1", "result": {"Results": [
                {"Vulnerabilities": [{"ID": "CVE-1", "Severity": "LOW"}, {"ID": "CVE-2", "Severity": "HIGH"}]},
            ]}},
            "metadata": {"scanFinishedOn": "2026-07-30T12:00:00Z"},
            "big": 18_446_744_073_709_551_615_u64,
            "part": 0.25,
        },
    })
}

#[test]
fn modules_come_to_what_they_come_to_in_policy_controller() {
    let counted = |of: &str, count: u8| {
        format!(
            "package sigstore\n\ndefault isCompliant = false\n\nisCompliant {{\n  keyless := input.authorityMatches.keylessatt.attestations\n  \
             count(keyless) == 1\n  found := input.authorityMatches.{of}\n  count(found) == {count}\n}}\n"
        )
    };
    for (module, expected) in [
        (counted("keysignature.signatures", 1), Answer::Holds),
        (counted("keysignature.signatures", 2), fails("")),
        (counted("keyatt.attestations", 1), Answer::Holds),
        // An authority that found nothing is not there.
        (counted("other.signatures", 0), fails("")),
    ] {
        assert_eq!(answer(&module, &matches()), expected, "{module}");
    }
    let body = |body: &str| format!("package sigstore\nisCompliant {{ {body} }}");
    for (module, expected) in [
        (body("input.predicateType == \"https://cosign.sigstore.dev/attestation/vuln/v1\""), Answer::Holds),
        (body("input.predicate.Data == \"foobar e2e test\""), fails("")),
        (body("not input.predicate.Data"), Answer::Holds),
        (body("startswith(input.predicate.scanner.uri, \"pkg:github/acme/\")"), Answer::Holds),
        (body("regex.match(`^pkg:github/(acme|other)/`, input.predicate.scanner.uri)"), Answer::Holds),
        (body("re_match(\"scanner@v[0-9]+$\", input.predicate.scanner.uri)"), Answer::Holds),
        (body("re_match(\"^scanner\", input.predicate.scanner.uri)"), fails("")),
        (body("input.predicate.scanner.result.Results[_].Vulnerabilities[_].Severity == \"HIGH\""), Answer::Holds),
        (body("input.predicate.scanner.result.Results[_].Vulnerabilities[_].Severity == \"CRITICAL\""), fails("")),
        (
            body("bad := [v.ID | v := input.predicate.scanner.result.Results[_].Vulnerabilities[_]; v.Severity == \"HIGH\"]; count(bad) == 1; concat(\", \", bad) == \"CVE-2\""),
            Answer::Holds,
        ),
        // The clock is an argument.
        (
            body("age := time.now_ns() - time.parse_rfc3339_ns(input.predicate.metadata.scanFinishedOn); age == 172800000000000"),
            Answer::Holds,
        ),
        (body("time.now_ns() - time.parse_rfc3339_ns(input.predicate.metadata.scanFinishedOn) < time.parse_duration_ns(\"24h\")"), fails("")),
        // What a function cannot do has no value.
        (body("time.parse_rfc3339_ns(\"yesterday\") > 0"), fails("")),
        (body("not time.parse_rfc3339_ns(\"yesterday\")"), Answer::Holds),
        (body("to_number(\"12\") == 12; to_number(\"2.5\") == 2.5; not to_number(\"1e1000000000\")"), Answer::Holds),
        (body("input.predicate.big == 18446744073709551615; input.predicate.part == 0.25"), Answer::Holds),
        (body("sprintf(\"%s has %d\", [\"a\", 2]) == \"a has 2\""), Answer::Holds),
        (body("object.get(input, \"missing\", \"none\") == \"none\""), Answer::Holds),
        (body("json.unmarshal(\"{\\\"a\\\": 1}\").a == 1"), Answer::Holds),
        (body("split(\"a,b\", \",\") == [\"a\", \"b\"]; replace(\"a-b\", \"-\", \"\") == \"ab\""), Answer::Holds),
        (body("{1, 2} & {2, 3} == {2}; {1} | {2} == {1, 2}; {1, 2} - {1} == {2}; set() == {1} - {1}"), Answer::Holds),
        ("package sigstore\nisCompliant = true".to_owned(), Answer::Holds),
        ("package sigstore\ndefault isCompliant = false\nisCompliant = false".to_owned(), fails("")),
        ("package sigstore\nisCompliant = \"true\"".to_owned(), fails("")),
        (
            "package sigstore\nimport rego.v1\ndefault isCompliant := false\nisCompliant if {\n  some r in input.predicate.scanner.result.Results\n  every v in r.Vulnerabilities { v.Severity != \"CRITICAL\" }\n}".to_owned(),
            Answer::Holds,
        ),
        (
            "package sigstore\nimport future.keywords.if\nimport future.keywords.in\n\nallowed := {\"LOW\", \"HIGH\"}\n\nisCompliant if count(strange) == 0\n\nstrange[s] {\n  s := input.predicate.scanner.result.Results[_].Vulnerabilities[_].Severity\n  not s in allowed\n}".to_owned(),
            Answer::Holds,
        ),
        (
            "package sigstore\nhigh(v) { v.Severity == \"HIGH\" }\nhigh(v) { v.Severity == \"CRITICAL\" }\nisCompliant { count([v | v := input.predicate.scanner.result.Results[_].Vulnerabilities[_]; high(v)]) < 2 }".to_owned(),
            Answer::Holds,
        ),
        (
            "package sigstore\nisCompliant = x { x := input.missing } else = y { y := 1 == 1 }".to_owned(),
            Answer::Holds,
        ),
    ] {
        assert_eq!(answer(&module, &statement()), expected, "{module}");
    }
}

#[test]
fn results_with_errors_and_warnings_are_read_as_policy_controller_reads_them() {
    let with = |result: &str, error: &str, warning: &str| {
        format!(
            "package sigstore\nisCompliant[response] {{\n  response := {{\"result\": {result}, \"error\": \"{error}\", \"warning\": \"{warning}\"}}\n}}"
        )
    };
    for (module, expected) in [
        (with("true", "", ""), Answer::Holds),
        (
            with("count(input.authorityMatches) == 1000", "there are not 1000\\nof them", ""),
            fails("there are not 1000 of them"),
        ),
        // A policy that warns does not hold there.
        (with("true", "", "old"), fails("it warns: old")),
        (
            with("1", "", ""),
            fails(
                "expected of isCompliant true, or objects with result (true or false), error and warning (texts), found \"{\\\"error\\\":\\\"\\\",\\\"result\\\":1,\\\"warning\\\":\\\"\\\"}\"",
            ),
        ),
        // No response at all.
        (
            "package sigstore\nisCompliant[response] { response := {\"result\": input.missing} }".to_owned(),
            fails(""),
        ),
    ] {
        assert_eq!(answer(&module, &matches()), expected, "{module}");
    }
    let strange = answer("package sigstore\nisCompliant[r] { r := \"yes\" }", &matches());
    assert!(
        matches!(strange, Answer::Fails(text) if text.starts_with("expected of isCompliant true, or objects"))
    );
}

#[test]
fn module_that_cannot_hold_or_be_bounded_is_refused_with_its_line() {
    let body = |body: &str| format!("package sigstore\n\nisCompliant {{\n  {body}\n}}\n");
    for (module, said) in [
        (
            "package other\nisCompliant { true }".to_owned(),
            "expected package sigstore, found \"other\" (line 1 of the policy)",
        ),
        ("package sigstore\ncompliant { true }".to_owned(), "expected a rule isCompliant, found none"),
        ("".to_owned(), "expected a rule isCompliant"),
        (body("input.a ==="), "(line 4 of the policy)"),
        (
            body("http.send({\"method\": \"get\", \"url\": \"https://x.example\"})"),
            "expected a function that crivet has, found \"http.send\"; docs/dialects.md lists them (line 4 of the policy)",
        ),
        (body("numbers.range(1, 1000000000)"), "found \"numbers.range"),
        (body("rand.intn(\"x\", 2) == 1"), "found \"rand.intn\""),
        (body("opa.runtime().env.HOME == \"x\""), "found \"opa.runtime"),
        (body("bits.lsh(1, 1000000000000) > 0"), "found \"bits.lsh\""),
        (body("walk(input, [p, v])"), "found \"walk\""),
        (body("print(input)"), "found \"print\""),
        (body("trace(\"x\")"), "found \"trace\""),
        (body("nothing(1)"), "found \"nothing\""),
        // The same functions, called by parts of their names.
        (body("numbers[\"range\"](1, 1000000000)"), "expected the function's name before the bracket"),
        (body("numbers[(\"range\")]\n  (1, 1000000000)"), "(line 4 of the policy)"),
        (body("x := regex[\"match\"](input.a, input.b)"), "expected the function's name before the bracket"),
        (body("io[\"jwt\"].decode(input.a)"), "expected the function's name before the bracket"),
        (body("true # \0\n  opa.runtime()"), "found the character NUL"),
        (body("count (1, 2) == 2"), "count: expected 1 arguments, found 2"),
        (body("data.other.x == 1"), "expected input and rules by their own names, found \"data.other.x\""),
        (body("x := data[\"sigstore\"]; x"), "found \"data\""),
        (body("count(input) == 1 with input as {}"), "expected a policy without with"),
        ("package sigstore\nimport data.lib\nisCompliant { lib.x }".to_owned(), "found \"data.lib\""),
        (
            "package sigstore\nimport input.predicate as p\nisCompliant { p.x }".to_owned(),
            "expected import rego.v1 or future.keywords",
        ),
        (
            body("concat(input.by, input.list) == \"x\""),
            "concat: expected a text of at most 16 bytes to put between",
        ),
        (body("replace(input.a, \"\", input.b) == \"x\""), "replace: expected a text that is not empty"),
        (body("replace(input.a, \"a\", input.b) == \"x\""), "replace: expected a text that is not empty"),
        (body("split(input.a, \"\") == []"), "split: expected a text that is not empty"),
        (body("sprintf(input.a, [1]) == \"x\""), "sprintf: expected a format"),
        (body("sprintf(\"%1000000000d\", [1]) == \"x\""), "sprintf: expected a format"),
        (
            body("regex.match(input.a, \"x\")"),
            "regex.match: expected a regular expression, found something else; write it out",
        ),
        (body("regex.match(\"(\", \"x\")"), "expected a regular expression (RE2 syntax)"),
        (body("regex.match(\"(a{100}){100}\", \"x\")"), "limit CONDITION_REGEX_BYTES"),
        (
            body("input.a > 1e1000000000"),
            "expected a number of at most 32 characters and two digits of exponent, found \"1e1000000000\"",
        ),
        (body(&format!("input.a > {}", "9".repeat(40))), "expected a number of at most 32 characters"),
        (
            "package sigstore\nisCompliant { f(1) }\nf(x) = y { y := f(x) }".to_owned(),
            "expected rules that do not need themselves, found \"f\"",
        ),
        (
            "package sigstore\nisCompliant { a }\na { b }\nb { a }".to_owned(),
            "expected rules that do not need themselves",
        ),
        (
            "package sigstore\nisCompliant { f(1) }\nf(x) = g(x)\ng(x) =\n  f(x)".to_owned(),
            "expected rules that do not need themselves",
        ),
        (body(&format!("{}1{} == 1", "(".repeat(60), ")".repeat(60))), "limit REGO_DEPTH"),
        (chain(limits::REGO_DEPTH), "limit REGO_DEPTH"),
        // Not in years: each is read as a comprehension first, and then as a list.
        (body(&"[".repeat(33)), "limit REGO_READINGS"),
        (body(&format!("input.a == {}1{}", "[".repeat(33), "]".repeat(33))), "limit REGO_READINGS"),
        (body(&format!("input.a == {}1{}", "{\"a\": ".repeat(33), "}".repeat(33))), "limit REGO_READINGS"),
        (body(&format!("{}1{}", "[x | ".repeat(20), ", 1]".repeat(20))), "limit REGO_READINGS"),
        (body(&format!("\"{}\" == input.a", "x".repeat(limits::REGO_BYTES))), "limit REGO_BYTES"),
        (body("\"no end"), "expected the end of a text, found none (line 4 of the policy)"),
        (body("x == 1"), "(line 4 of the policy)"),
    ] {
        let why = refused(&module);
        assert!(why.contains(said), "{module}: {why}");
    }
}

#[test]
fn lists_within_each_other_as_far_as_anybody_writes_them_are_read() {
    let list = format!("{}1{}", "[".repeat(8), "]".repeat(8));
    let module = format!("package sigstore\nisCompliant {{ input.a == {list} }}");
    let input = serde_json::from_str(&format!("{{\"a\": {list}}}")).unwrap();
    assert_eq!(answer(&module, &input), Answer::Holds);
}

/// Rules of which each needs the next.
fn chain(length: usize) -> String {
    let mut text = "package sigstore\nisCompliant { r0(input) }\n".to_owned();
    for n in 0..length {
        text.push_str(&format!("r{n}(x) {{ [r{}(x)][_] }}\n", n + 1));
    }
    text + &format!("r{length}(x) {{ x }}\n")
}

#[test]
fn rules_as_deep_as_can_be_fit_the_stack_of_any_thread() {
    let (mut length, mut deepest) = (1, None);
    while let Ok(module) = Module::read(&chain(length)) {
        deepest = Some(module);
        length += 1;
    }
    let module = deepest.unwrap();
    assert!(length > 10);
    // As those that conditions are evaluated on.
    let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
    let answered = thread.spawn(move || module.answer(b"{\"a\": 1}", now())).unwrap();
    assert_eq!(answered.join().unwrap(), Answer::Holds);
}

/// Tries each three of these.
const SLOW: &str = "x := a[_]; y := a[_]; z := a[_]; x + y + z == -1";

#[test]
fn evaluation_that_takes_too_long_is_undecided_even_where_a_limit_would_count_as_no() {
    let input = serde_json::json!({"a": (0..2_000).collect::<Vec<u32>>()});
    for module in [
        format!("package sigstore\nisCompliant {{ a := input.a; {SLOW} }}"),
        format!("package sigstore\nslow(a) {{ {SLOW} }}\nisCompliant {{ not slow(input.a) }}"),
        format!("package sigstore\nslow(a) {{ {SLOW} }}\nisCompliant {{ slow(input.a) }} else = true"),
    ] {
        let Answer::Unknown(said) = answer(&module, &input) else { panic!("{module}") };
        assert!(said.contains("limit REGO_MILLISECONDS"), "{said}");
    }
    let text = "x".repeat(limits::REGO_MATCHED_BYTES + 1);
    let long = answer(
        "package sigstore\nisCompliant { not regex.match(\"^a\", input.a) }",
        &serde_json::json!({"a": text}),
    );
    assert!(matches!(long, Answer::Unknown(said) if said.contains("limit REGO_MATCHED_BYTES")));
}

#[test]
fn input_cannot_make_numbers_that_take_all_memory() {
    let module = Module::read("package sigstore\nisCompliant { input.a > 1 }").unwrap();
    for input in [
        "{\"a\": 1e1000000000}",
        "{\"a\": 123456789012345678901234567890}",
        "{\"a\": 1e300}",
        "[",
        "{\"a\": NaN}",
    ] {
        assert!(!matches!(module.answer(input.as_bytes(), now()), Answer::Unknown(_)), "{input}");
    }
    let module = Module::read("package sigstore\nisCompliant { json.unmarshal(input.a) > 1 }").unwrap();
    assert_eq!(module.answer(b"{\"a\": \"1e1000000000\"}", now()), fails(""));
}
