//! Conditions by themselves: what is refused, what they come to, and what is told of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::eval::Run;
use super::fuzzing::facts;
use super::*;
use crate::limits;

fn compiled(text: &str) -> Condition {
    Condition::compile(text, None, About::Attestation).unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn refused(text: &str) -> String {
    match Condition::compile(text, None, About::Attestation) {
        Ok(_) => panic!("not refused: {}", text.chars().take(200).collect::<String>()),
        Err(why) => {
            assert!(why.len() < 1200 && !why.contains(char::is_control), "{why}");
            why
        }
    }
}

fn on(text: &str, predicate: &Json) -> Answer {
    let facts = facts(About::Attestation, predicate.to_string().as_bytes());
    let [answer] = &answer(&[compiled(text)], &facts)[..] else { panic!() };
    answer.clone()
}

fn fails(text: &str, predicate: &Json) -> String {
    match on(text, predicate) {
        Answer::Fails(found) => found,
        other => panic!("{text}: {other:?}"),
    }
}

/// Holds, with something of the evidence in it so that it is a condition at all.
fn holds(text: &str) {
    let text = format!("({text}) && image.tag == 'v1'");
    assert_eq!(on(&text, &predicate()), Answer::Holds, "{text}");
}

fn predicate() -> Json {
    json!({
        "id": "https://builder.example/1",
        "n": 7, "d": 1.5, "big": 9_007_199_254_740_993_i64, "yes": true, "none": null, "t": "2026-07-25T12:00:00Z",
        "list": [1, 2, 3], "names": ["a", "b"], "map": {"k": "v", "empty": {}},
        "packages": [
            {"name": "zlib", "license": "Zlib"},
            {"name": "bash", "license": "GPL-3.0-only"},
            {"name": "odd"},
        ],
    })
}

#[test]
fn operators_and_functions_come_to_what_the_cel_specification_says() {
    for text in [
        "attestation.predicate.n == 7 && attestation.predicate.n != 8",
        "attestation.predicate.n == 7.0 && attestation.predicate.d > 1 && attestation.predicate.d <= 1.5",
        "attestation.predicate.big > 9007199254740992.0",
        "1 + 2 * 3 - 4 / 2 == 5 && -7 / 2 == -3 && -7 % 2 == -1 && 7.0 / 2.0 == 3.5",
        "'a' + 'b' == \"ab\" && [1] + [2] == [1, 2]",
        "!(!attestation.predicate.yes) && !!attestation.predicate.yes && !false",
        "--7 == 7 && -(-7) == 7 && - - 7 == 7",
        "true || attestation.predicate.gone && attestation.predicate.gone",
        "attestation.predicate.gone || true",
        "!(attestation.predicate.gone && false)",
        "attestation.predicate.yes ? true : attestation.predicate.gone",
        "false ? attestation.predicate.gone : true ? true : false",
        "has(attestation.predicate.n) && !has(attestation.predicate.gone) && has(attestation.predicate.none)",
        "attestation.predicate.none == null && attestation.predicate.n != null",
        "attestation.predicate.map.k == 'v' && attestation.predicate['map']['k'] == 'v'",
        "'k' in attestation.predicate.map && !('x' in attestation.predicate.map)",
        "2 in attestation.predicate.list && !(4 in attestation.predicate.list) && 2.0 in [1, 2]",
        "attestation.predicate.list[2] == 3 && attestation.predicate.list == [1, 2, 3]",
        "attestation.predicate.list != [1, 2] && attestation.predicate.map != attestation.predicate",
        "attestation.predicate.n != 'seven' && attestation.predicate.id != 7",
        "size(attestation.predicate.list) == 3 && attestation.predicate.names.size() == 2 && size('äb') == 2",
        "size(attestation.predicate.map) == 2",
        "attestation.predicate.id.startsWith('https://') && attestation.predicate.id.endsWith('/1')",
        "attestation.predicate.id.contains('builder') && !attestation.predicate.id.contains('Builder')",
        r"attestation.predicate.id.matches(r'^https://[a-z]+\.example/[0-9]+$')",
        r"matches(attestation.predicate.id, '^https://.*$') && !attestation.predicate.id.matches('^https$')",
        "attestation.predicate.list.all(e, e > 0) && !attestation.predicate.list.all(e, e > 1)",
        "attestation.predicate.list.exists(e, e == 3) && !attestation.predicate.list.exists(e, e == 4)",
        "attestation.predicate.list.exists_one(e, e == 3) && !attestation.predicate.list.exists_one(e, e > 1)",
        "attestation.predicate.list.map(e, e * 2) == [2, 4, 6]",
        "attestation.predicate.list.map(e, e != 2, e * 2) == [2, 6]",
        "attestation.predicate.list.filter(e, e != 2) == [1, 3]",
        "attestation.predicate.map.all(key, key in ['k', 'empty'])",
        "[].all(e, e == 1) && ![].exists(e, e == 1)",
        "[1, 2].all(a, attestation.predicate.names.all(b, string(a) != b))",
        "attestation.predicate.packages.exists(p, p.license == 'Zlib')",
        "timestamp('2026-08-01T14:00:00+02:00') == timestamp('2026-08-01T12:00:00Z')",
        "now == timestamp('2026-08-01T12:00:00Z') && now - timestamp(attestation.predicate.t) == duration('168h')",
        "timestamp(attestation.predicate.t) + duration('168h') == now && duration('1h') < duration('61m')",
        "attestation.time < now && has(attestation.time)",
        "duration('90m') == duration('1h30m') && duration('1h') - duration('30m') == duration('1800s')",
        "int('7') == attestation.predicate.n && int(1.9) == 1 && int(-1.9) == -1 && double(7) == 7.0",
        "double('1.5') == attestation.predicate.d && string(7) == '7' && string(1.5) == '1.5'",
        r#"'\u00e4\n\x41\101\\' == "ä\nAA\\" && r'\n' == '\\n' && 'it\'s' == "it's""#,
        "0x10 == 16 && 1e3 == 1000.0 && .5 == 0.5",
        "image.registry == 'ghcr.io' && image.repository == 'acme/app' && image.digest.startsWith('sha256:')",
        "pod.namespace == 'shop' && attestation.predicateType == 'https://example.com/p'",
        "attestation.signer.key.startsWith('sha256:') && attestation.signer.issuer == ''",
        "size(attestation.signer.subjects) == 0 && !('buildTrigger' in attestation.signer.claims)",
        "attestation.subject.annotations.env == 'prod' && attestation.subject.digest == image.digest",
        "'a' < 'b' && 'B' < 'a' && false < true",
        "true // a comment\n && true",
        "[1, 2,].size() == 2",
    ] {
        holds(text);
    }
}

#[test]
fn what_cannot_be_evaluated_does_not_hold_and_says_why() {
    for (text, found) in [
        ("attestation.predicate.gone == 1", "there is no attestation.predicate.gone"),
        ("attestation.predicate.gone != 1", "there is no attestation.predicate.gone"),
        ("!(attestation.predicate.gone == 1)", "there is no attestation.predicate.gone"),
        ("attestation.predicate.n.x == 1", "expected attestation.predicate.n to be a map, found 7"),
        (
            "attestation.predicate.list[3] == 1",
            "there is no attestation.predicate.list[3], it has 3 elements",
        ),
        (
            "attestation.predicate.list[-1] == 1",
            "there is no attestation.predicate.list[-1], it has 3 elements",
        ),
        ("attestation.predicate.map['x'] == 1", "there is no attestation.predicate.map[\"x\"]"),
        ("attestation.predicate.n", "expected attestation.predicate.n to be true or false, found 7"),
        ("attestation.predicate.none", "expected attestation.predicate.none to be true or false, found null"),
        (
            "attestation.predicate.id",
            "expected attestation.predicate.id to be true or false, found \"https://builder.example/1\"",
        ),
        (
            "attestation.predicate.id < 7",
            "expected two values with an order, found \"https://builder.example/1\" and 7",
        ),
        ("attestation.predicate.n.startsWith('7')", "expected a text for startsWith, found 7"),
        ("attestation.predicate.n.matches('^7$')", "expected a text for matches, found 7"),
        ("attestation.predicate.n in 7 == true", ""),
        (
            "attestation.predicate.n.all(e, true)",
            "expected attestation.predicate.n to be a list or a map, found 7",
        ),
        ("attestation.predicate.n / 0 == 1", "expected a number other than 0 to divide by"),
        (
            "attestation.predicate.n * 9223372036854775807 == 1",
            "expected a number of at most 64 bits, found a greater one",
        ),
        ("attestation.predicate.n + 'x' == 'x'", "expected operands that + can take, found 7 and \"x\""),
        (
            "timestamp(attestation.predicate.id) < now",
            "expected a time (RFC 3339, from 1970) for timestamp, found \"https://builder.example/1\"",
        ),
        (
            "int(attestation.predicate.id) == 1",
            "expected a whole number for int, found \"https://builder.example/1\"",
        ),
        ("attestation.predicate.packages.all(p, p.license != 'X')", "there is no p.license"),
        ("!attestation.predicate.packages.exists(p, p.license == 'X')", "there is no p.license"),
        ("attestation.predicate.packages.filter(p, p.license != 'X').size() == 3", "there is no p.license"),
        (
            "attestation.signer.claims.buildTrigger == 'push'",
            "there is no attestation.signer.claims.buildTrigger",
        ),
    ] {
        if found.is_empty() {
            refused(text);
            continue;
        }
        assert_eq!(fails(text, &predicate()), found, "{text}");
    }
    let late = facts(About::Attestation, b"{}").undated();
    let [Answer::Fails(found)] = &answer(&[compiled("now - attestation.time < duration('1h')")], &late)[..]
    else {
        panic!()
    };
    assert_eq!(found, "there is no attestation.time: no log and no timestamp authority vouches for one");
    let [Answer::Fails(_)] = &answer(&[compiled("has(attestation.time)")], &late)[..] else { panic!() };
}

#[test]
fn failure_tells_what_decided_it() {
    for (text, found) in [
        ("attestation.predicate.id == 'x'", "attestation.predicate.id is \"https://builder.example/1\""),
        ("attestation.predicate.n > 7 && attestation.predicate.id == 'x'", "attestation.predicate.n is 7"),
        (
            "attestation.predicate.n > 7 || image.tag == 'v2'",
            "attestation.predicate.n is 7, image.tag is \"v1\"",
        ),
        ("!(attestation.predicate.n == 7)", "attestation.predicate.n is 7"),
        ("!(image.tag == 'v2' || attestation.predicate.n == 7)", "attestation.predicate.n is 7"),
        ("attestation.predicate.n in [1, 2]", "attestation.predicate.n is 7"),
        ("has(attestation.predicate.gone)", "there is no attestation.predicate.gone"),
        ("size(attestation.predicate.list) > 3", "size(attestation.predicate.list) is 3"),
        ("attestation.predicate.list.all(e, e < 3)", "attestation.predicate.list[2] is 3"),
        (
            "attestation.predicate.packages.all(p, !p.license.contains('GPL'))",
            "attestation.predicate.packages[1] (p.license is \"GPL-3.0-only\")",
        ),
        (
            "!attestation.predicate.packages.exists(p, p.license.matches('^GPL.*$'))",
            "attestation.predicate.packages[1] (p.license is \"GPL-3.0-only\")",
        ),
        ("attestation.predicate.list.exists(e, e > 3)", "attestation.predicate.list has 3 elements"),
        (
            "now - timestamp(attestation.predicate.t) < duration('1h')",
            "now is 2026-08-01T12:00:00.000Z, attestation.predicate.t is \"2026-07-25T12:00:00Z\"",
        ),
        ("attestation.predicate.map.all(k, k == 'k')", "attestation.predicate.map has 2 elements"),
    ] {
        assert_eq!(fails(text, &predicate()), found, "{text}");
    }
    let hostile = json!({"id": "a\n\u{1b}[2J\u{202e}".repeat(1000)});
    let found = fails("attestation.predicate.id == 'x'", &hostile);
    assert!(found.len() < 2000 && !found.contains(char::is_control) && found.is_ascii(), "{found}");
}

#[test]
fn condition_with_a_mistake_is_refused_with_what_to_write() {
    for (text, said) in [
        ("", "expected a value, found the end"),
        ("   // nothing\n", "expected a value, found the end"),
        (
            "atestation.predicate.n == 1",
            "expected one of the variables image, pod, attestation, now, found \"atestation\"",
        ),
        ("predicate.n == 1", "write attestation. before it"),
        ("signature.time < now", "conditions on a signature stand beside the signers"),
        ("attestation.predicat.n == 1", "expected one of attestation.predicateType, attestation.predicate, "),
        ("attestation == null", "expected one of attestation.predicateType, "),
        (
            "image.name == 'x'",
            "expected one of image.registry, image.repository, image.tag, image.digest, found \"image.name\"",
        ),
        ("pod.labels['a'] == 'b'", "expected one of pod.namespace, found \"pod.labels\""),
        ("now.year == 2026", "expected a map to have the field year, found a time"),
        ("image.tag.x == 'a'", "expected a map to have the field x, found a text"),
        ("attestation.predicate.n = 1", "found the character \"=\"; write =="),
        ("attestation.predicate.n & true", "write &&"),
        ("attestation.predicate.n == 1 == true", "write && between them, or brackets"),
        ("1 < attestation.predicate.n < 3", "write && between them, or brackets"),
        (
            "attestation.predicate.n == 1 attestation",
            "expected an operator or the end, found \"attestation\"",
        ),
        ("(attestation.predicate.n == 1", "expected ) at the end of the bracket, found the end"),
        ("attestation.predicate.n == [1", "expected ] or a comma, found the end"),
        ("attestation.predicate. == 1", "expected a field or a function after the point"),
        ("attestation.predicate.n == 'a", "expected ' at the end of the text, in the same line"),
        ("attestation.predicate.n == 'a\nb'", "expected ' at the end of the text, in the same line"),
        ("attestation.predicate.n == '''a'''", "found three of them; write one"),
        ("attestation.predicate.n == '\\d'", "write \\\\ for a backslash, or r'…'"),
        ("attestation.predicate.n == '\\ud800'", "write \\\\ for a backslash"),
        ("attestation.predicate.n == b'a'", "found the prefix \"b\"; leave it out"),
        ("attestation.predicate.n == 1u", "expected a number of at most 64 bits, without letters"),
        ("attestation.predicate.n == 99999999999999999999", "expected a number of at most 64 bits"),
        ("attestation.predicate == {'a': 1}", "found a map; maps and messages are not made"),
        ("attestation.predicate.`a-b` == 1", "write such a field as ['name']"),
        ("attestation.predicate?.a == 1", "expected a value, found \".\""),
        ("attestation.predicate.n == 1 ? true", "expected : and what holds otherwise after ?, found the end"),
        ("attestation.predicate.foo(1)", "expected one of the functions size, startsWith"),
        ("foo(attestation.predicate)", "expected one of the functions size, startsWith"),
        ("size(attestation.predicate, 2) == 1", "expected size(value), with one value"),
        ("size() == 1", "expected size(value), with one value"),
        (
            "size(1) == 1 && image.tag == ''",
            "expected a text, a list or a map for size, found a whole number",
        ),
        ("image.tag.startsWith('a', 'b')", "expected text.startsWith(part)"),
        ("startsWith(image.tag, 'a')", "expected text.startsWith(part)"),
        ("image.tag.startsWith(1)", "expected a text for startsWith, found a whole number"),
        ("image.tag.matches('v1')", "expected an expression from ^ to $"),
        ("image.tag.matches(image.repository)", "with the expression as text"),
        ("image.tag.matches('^[$')", "expected a regular expression (RE2 syntax)"),
        ("has(attestation)", "expected has(map.field)"),
        ("has(attestation.predicate['a'])", "expected has(map.field)"),
        ("attestation.predicate.all(1, true)", "expected list.all(name, expression)"),
        ("attestation.predicate.all(e)", "expected list.all(name, expression)"),
        ("all(attestation.predicate, e, true)", "expected list.all(name, expression)"),
        ("attestation.predicate.all(image, true)", "expected a name of its own for what all looks at"),
        ("attestation.predicate.all(e, attestation.predicate.all(e, true))", "expected a name of its own"),
        ("image.tag.all(e, true)", "expected a list or a map before all, found a text"),
        ("attestation.predicate.all(e, 1)", "expected true or false for all, found a whole number"),
        ("attestation.predicate.all(e, true) && e == 1", "expected one of the variables"),
        ("image.tag == 1", "expected values that can be equal, found a text and a whole number"),
        (
            "image.tag < 1",
            "expected two numbers, texts, times or durations for <, found a text and a whole number",
        ),
        (
            "now < '2026-08-01T12:00:00Z'",
            "expected two numbers, texts, times or durations for <, found a time and a text",
        ),
        ("image.tag in 'v1'", "write text.contains(part)"),
        ("image.tag in [1, 2]", "expected a list that a text can be in, found a list"),
        ("1 + 'a' == image.tag", "expected operands that + can take, found a whole number and a text"),
        ("1 + 1.0 == double(image.tag)", "write double(…) around the whole number"),
        ("now + now == now", "expected operands that + can take, found a time and a time"),
        ("-image.tag == 'a'", "expected a number after -, found a text"),
        ("!image.tag", "expected true or false for !, found a text"),
        ("image.tag && true", "expected true or false for &&, found a text"),
        ("image.tag ? true : false", "expected true or false for ?, found a text"),
        ("image.tag", "expected a condition that is true or false, found a text"),
        ("size(image.tag)", "expected a condition that is true or false, found a whole number"),
        ("true", "found one that names no variable"),
        ("1 == 1 || 2 in [2]", "found one that names no variable"),
        (
            "timestamp('yesterday') < now",
            "expected a time like '2026-08-01T12:00:00Z' (RFC 3339), found \"yesterday\"",
        ),
        ("now - timestamp(attestation.predicate.t) < duration('7d')", "like '168h' for a week, found \"7d\""),
        ("type(attestation.predicate) == 'x'", "expected one of the functions"),
        (
            "attestation.predicate[1.5] == 1 && attestation.signer.subjects['a'] == ''",
            "expected a whole number for [], found a text",
        ),
    ] {
        let why = refused(text);
        assert!(why.contains(said), "{text}\n  {why}\n  {said}");
    }
    assert!(
        refused("image.tag == 'a' &&\n  image.tagg == 'b'")
            .ends_with("(line 2, character 9 of the condition)")
    );
    assert!(refused("image.tag == 'ä' && x").ends_with("(character 21)"));
}

#[test]
fn hostile_condition_is_refused_and_overflows_nothing() {
    let many = |part: &str, times: usize| part.repeat(times);
    let list = format!("[{}0]", many("0,", 39));
    let nested = |levels: usize| {
        let mut text = "attestation.predicate.n == 1".to_owned();
        for level in 0..levels {
            text = format!("{list}.all(v{level}, {text})");
        }
        text
    };
    for (text, said) in [
        (format!("attestation.predicate.n == 1{}", many(" + 1", 20_000)), "limit CONDITION_BYTES"),
        (format!("attestation.predicate.n == 1{}", many("+1", 1000)), "limit CONDITION_DEPTH"),
        (format!("attestation.predicate.n == 1{}", many("*1", 100)), "limit CONDITION_DEPTH"),
        (
            format!("attestation.predicate.n == {}1{}", many("(", 1000), many(")", 1000)),
            "limit CONDITION_DEPTH",
        ),
        (format!("attestation.predicate.n == {}", many("[", 2000)), "limit CONDITION_DEPTH"),
        (format!("{}attestation.predicate.n == 1", many("!(", 1000)), "limit CONDITION_DEPTH"),
        (format!("{}attestation.predicate.n", many("!", 4000)), "limit CONDITION_DEPTH"),
        (format!("{}attestation.predicate.n == 1", many("- ", 1000)), "limit CONDITION_DEPTH"),
        (format!("attestation.predicate{} == 1", many(".a", 1000)), "limit CONDITION_DEPTH"),
        (format!("attestation.predicate{} == 1", many("[0]", 1000)), "limit CONDITION_DEPTH"),
        (format!("attestation.predicate{}", many(".size()", 500)), "limit CONDITION_DEPTH"),
        (many("true ? true : ", 280) + "true", "limit CONDITION_DEPTH"),
        (many("size(", 800), "limit CONDITION_DEPTH"),
        (format!("attestation.predicate.n in [{}1]", many("1,", 1000)), "limit CONDITION_NODES"),
        (format!("image.tag == ''{}", many("||true", 600)), "limit CONDITION_NODES"),
        (nested(4), "limit CONDITION_LOOPS"),
        (
            "attestation.predicate.a.all(x, attestation.predicate.b.all(y, x != y))".to_owned(),
            "put no loop over one list into a loop over another",
        ),
        (format!("image.tag.matches('^{}$')", many("(a{9}){9}", 30)), "regular expression"),
        (format!("image.tag.matches('^{}$')", many(r"\\w", 300)), "limit CONDITION_REGEX_BYTES"),
        ("image.tag == '\u{202e}\u{0}' \u{202e}".to_owned(), "found the character \"\\u{202e}\""),
        ("\u{feff}true".to_owned(), "found the character"),
    ] {
        let why = refused(&text);
        assert!(why.contains(said), "{}\n  {why}", text.chars().take(80).collect::<String>());
    }
    // At the limits they are not.
    compiled(&nested(2));
    compiled(&format!("attestation.predicate.n == 1{}", many(" + 1", 40)));
    compiled(&format!("attestation.predicate.n in [{}1]", many("1,", 490)));
    compiled(&format!("image.tag == ''{}", many(" || true", 250)));
    compiled(&format!("{}attestation.predicate.n == 1{}", many("(", 40), many(")", 40)));
}

#[test]
fn evaluation_that_takes_too_many_steps_is_undecided_whatever_is_around_it() {
    let unknown = |text: &str, predicate: &Json| match on(text, predicate) {
        Answer::Unknown(why) => why,
        other => panic!("{text}: {other:?}"),
    };
    let many = json!({"list": vec![1; 400_000], "text": "a".repeat(100_000), "one": ["x".repeat(3000)]});
    let looped = "attestation.predicate.list.all(e, e + e + e + e + e + e + e + e == 8 && e == 1)";
    assert!(unknown(looped, &many).contains("limit CONDITION_STEPS"));
    assert!(unknown(&format!("{looped} || image.tag == 'v1'"), &many).contains("limit CONDITION_STEPS"));
    assert!(
        unknown(&format!("!({looped} && false) && image.tag == 'v1'"), &many).contains("CONDITION_STEPS")
    );
    // Long texts are steps, too.
    let long = json!({"list": vec![1; 6_000], "text": "a".repeat(100_000)});
    let looked = "attestation.predicate.list.all(e, !attestation.predicate.text.contains('b'))";
    assert!(unknown(looked, &long).contains("limit CONDITION_STEPS"));
    let compared =
        "attestation.predicate.list.all(e, attestation.predicate.text == attestation.predicate.text)";
    assert!(unknown(compared, &long).contains("limit CONDITION_STEPS"));
    assert!(
        unknown("attestation.predicate.text.matches('^a*$')", &many)
            .contains("limit CONDITION_MATCHED_BYTES")
    );
    let grown = "attestation.predicate.text + attestation.predicate.text != ''";
    assert!(unknown(grown, &many).contains("limit CONDITION_MADE_BYTES"));
}

#[test]
fn big_sbom_fits_into_the_steps() {
    let package =
        json!({"name": "package", "licenseConcluded": "Apache-2.0 AND MIT", "versionInfo": "1.2.3"});
    let sbom = json!({"packages": vec![package; 10_000]});
    let text = "attestation.predicate.packages.all(p, !p.licenseConcluded.matches(r'^(.*[^L])?GPL.*$'))";
    assert_eq!(on(text, &sbom), Answer::Holds);
    let facts = facts(About::Attestation, sbom.to_string().as_bytes());
    let condition = compiled(text);
    let mut run = Run::new(&facts, &sbom);
    assert_eq!(run.bool(condition.code().unwrap()), Ok(true));
    assert!(run.spent() > 10_000 && run.spent() < limits::CONDITION_STEPS, "{}", run.spent());
}

/// What the worst takes that is let through: printed, for docs and limits.
#[test]
#[ignore = "prints figures"]
fn figures() {
    let timed = |what: &str, text: &str, predicate: &Json| {
        let bytes = predicate.to_string();
        let facts = facts(About::Attestation, bytes.as_bytes());
        let condition = compiled(text);
        let at = std::time::Instant::now();
        let answers = answer(&[condition], &facts);
        println!("{what}: {} bytes, {:?}: {:?}", bytes.len(), at.elapsed(), answers[0]);
    };
    let package =
        json!({"name": "package", "licenseConcluded": "Apache-2.0 AND MIT", "versionInfo": "1.2.3"});
    let gpl = "attestation.predicate.packages.all(p, !p.licenseConcluded.matches(r'^(.*[^L])?GPL.*$'))";
    timed("300 packages", gpl, &json!({"packages": vec![&package; 300]}));
    timed("10,000 packages", gpl, &json!({"packages": vec![&package; 10_000]}));
    timed("40,000 packages", gpl, &json!({"packages": vec![&package; 40_000]}));
    let many = json!({"list": vec![1; 190_000]});
    timed("parse alone", "image.tag == 'v1'", &many);
    timed("sums", "attestation.predicate.list.all(e, e + e + e + e + e == 5)", &many);
    let texts = json!({"list": vec!["a".repeat(4000); 900]});
    timed(
        "regex",
        "attestation.predicate.list.all(e, e.matches(r'^(a|b|aa|ab|[ab]+|[a-c]{1,20})*$'))",
        &texts,
    );
    timed("wide regex", "attestation.predicate.list.all(e, e.matches(r'^(a?){60}a{60}.*$'))", &texts);
    timed("contains", "attestation.predicate.list.all(e, !e.contains('aaaaaaaaaab'))", &texts);
    per_step();
}

/// What a step costs, of expressions of each size that come to no end before the text does.
fn per_step() {
    let text = "a".repeat(limits::CONDITION_MATCHED_BYTES);
    let mut worst: BTreeMap<u64, (f64, String)> = BTreeMap::new();
    let mut pieces = vec!["a".to_owned()];
    for n in [1, 3, 10, 30, 100, 200, 300, 500] {
        pieces.push(format!("(a?){{{n}}}a{{{n}}}.*"));
        pieces.push(format!("(.*a){{{n}}}b"));
        pieces.push(format!("(a|aa|aaa){{{n}}}.*b"));
        pieces.push(format!("([a-c]*){{{n}}}b"));
        pieces.push(format!("((a*)*){{{n}}}b"));
        pieces.push(format!("((a|b)?){{{n}}}.*b"));
        pieces.push(format!("(\\w*){{{n}}}b"));
        pieces.push(format!("({}).*b", vec!["a.*"; n].join("|")));
    }
    for piece in pieces {
        let Ok(pattern) = pattern::Pattern::read(&format!("^{piece}$")) else { continue };
        let at = std::time::Instant::now();
        let mut times = 0_u32;
        while times < 3 || at.elapsed() < Duration::from_millis(20) {
            std::hint::black_box(pattern.regex.is_match(&text));
            times += 1;
        }
        let bytes = f64::from(times) * text.len() as f64;
        let nanos = at.elapsed().as_nanos() as f64 / bytes;
        let known = worst.entry(pattern.weight).or_default();
        if nanos > known.0 {
            *known = (nanos, piece);
        }
    }
    for (weight, (nanos, piece)) in worst {
        println!(
            "weight {weight}: {nanos:.0} ns a byte, {:.0} ns a step: {piece:.60}",
            nanos / weight as f64
        );
    }
}
