//! How inputs are made: where they start, and how they are changed. libFuzzer flips bytes; most of what is read here is
//! JSON that holds base64 that holds DER or JSON again, in which nearly every flipped byte ends at the first parser. So
//! documents are taken apart, changed inside, and put together again.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crivet::fuzzing::Target;
use serde_json::{Map, Value};

#[doc(hidden)]
pub use libfuzzer_sys;

/// A fuzz target of `crivet::fuzzing`, with libFuzzer's own changes (`bytes`) or those of JSON documents (`json`).
#[macro_export]
macro_rules! target {
    ($target:ident, bytes) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: $crate::start(&crivet::fuzzing::$target),
            |data: &[u8]| { (crivet::fuzzing::$target.run)(data); }
        );
    };
    ($target:ident, json) => {
        $crate::target!($target, bytes);
        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $crate::mutate(data, size, max_size, seed)
        });
    };
}

/// The documents that a target starts from, from which parts are taken.
static DONORS: OnceLock<Vec<Input>> = OnceLock::new();

/// Keeps a target's inputs to start from, and writes them into the folder that `CRIVET_FUZZ_SEEDS` names.
pub fn start(target: &Target) {
    let seeds = target.seeds();
    if let Some(dir) = std::env::var_os("CRIVET_FUZZ_SEEDS") {
        for seed in &seeds {
            let mut hash = DefaultHasher::new();
            seed.hash(&mut hash);
            let path = Path::new(&dir).join(format!("seed-{:016x}", hash.finish()));
            fs::write(path, seed).expect("writing a seed");
        }
    }
    let _ = DONORS.set(seeds.iter().filter_map(|seed| Input::read(seed)).collect());
}

/// An input: the name of a fixture in its first line, where it has one, and a document.
struct Input {
    name: Option<Vec<u8>>,
    document: Value,
}

impl Input {
    fn read(data: &[u8]) -> Option<Self> {
        let (name, rest) = split(data);
        Some(Self { name: name.map(<[u8]>::to_vec), document: serde_json::from_slice(rest).ok()? })
    }

    fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(name) = &self.name {
            out.extend_from_slice(name);
            out.push(b'\n');
        }
        out.extend_from_slice(self.document.to_string().as_bytes());
        out
    }
}

fn split(data: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(at) if !data.starts_with(b"{") => (Some(&data[..at]), &data[at + 1..]),
        _ => (None, data),
    }
}

/// SplitMix64: libFuzzer gives a seed, and the same one has to make the same change.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap_or(0)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}

/// libFuzzer's mutator of a JSON document.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = Random(u64::from(seed));
    let donors = DONORS.get().map_or(&[][..], Vec::as_slice);
    let changed = Input::read(&data[..size]).filter(|_| random.below(8) > 0).map(|mut input| {
        for _ in 0..=random.below(3) {
            change(&mut input.document, donors, &mut random, 0);
        }
        // A part of one image's signature under another one's name.
        if random.below(16) == 0 && let Some(donor) = random.of(donors) {
            input.name.clone_from(&donor.name);
        }
        input.write()
    });
    match changed {
        Some(changed) if changed.len() <= max_size => {
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        // Bytes as they are, behind the name: duplicate keys, other white space, cut off.
        _ => {
            let at = split(&data[..size]).0.map_or(0, |name| name.len() + 1);
            at + libfuzzer_sys::fuzzer_mutate(&mut data[at..], size - at, max_size - at)
        }
    }
}

/// Most values of a document among which one is chosen.
const VALUES: usize = 4096;
/// How deep documents within documents are looked into.
const DEPTH: usize = 4;

/// Changes one thing somewhere in a document.
fn change(document: &mut Value, donors: &[Input], random: &mut Random, depth: usize) {
    let mut pointers = Vec::new();
    pointers_of(document, String::new(), &mut pointers);
    let Some(pointer) = random.of(&pointers).cloned() else { return };
    match random.below(16) {
        // Taken from another document, or another place.
        0 | 1 if depth == 0 => {
            let found = random.of(donors).and_then(|donor| donor.document.pointer(&pointer)).cloned();
            put(document, &pointer, found);
        }
        2 => {
            let found = random.of(&pointers).and_then(|other| document.pointer(other)).cloned();
            put(document, &pointer, found);
        }
        3 => remove(document, &pointer),
        4 => double(document, &pointer, random),
        5 => rename(document, &pointer, random),
        6 => {
            let others = [Value::Null, "".into(), 0.into(), (-1).into(), Value::Array(Vec::new()), true.into()];
            put(document, &pointer, random.of(&others).cloned());
        }
        _ => {
            if let Some(value) = document.pointer_mut(&pointer) {
                change_value(value, random, depth);
            }
        }
    }
}

fn pointers_of(value: &Value, at: String, found: &mut Vec<String>) {
    if found.len() >= VALUES {
        return;
    }
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| pointers_of(item, format!("{at}/{n}"), found));
        }
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            pointers_of(item, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
        }),
        _ => {}
    }
    found.push(at);
}

fn put(document: &mut Value, pointer: &str, value: Option<Value>) {
    if let (Some(slot), Some(value)) = (document.pointer_mut(pointer), value) {
        *slot = value;
    }
}

/// The parent of a value, and what the parent calls it.
fn parent<'a>(document: &'a mut Value, pointer: &str) -> Option<(&'a mut Value, String)> {
    let (parent, key) = pointer.rsplit_once('/')?;
    Some((document.pointer_mut(parent)?, key.replace("~1", "/").replace("~0", "~")))
}

fn remove(document: &mut Value, pointer: &str) {
    match parent(document, pointer) {
        Some((Value::Object(map), key)) => drop(map.remove(&key)),
        Some((Value::Array(items), n)) => {
            if let Some(n) = n.parse().ok().filter(|n| *n < items.len()) {
                items.remove(n);
            }
        }
        _ => {}
    }
}

/// An item twice, or in another place.
fn double(document: &mut Value, pointer: &str, random: &mut Random) {
    if let Some((Value::Array(items), n)) = parent(document, pointer)
        && let Some(item) = n.parse::<usize>().ok().and_then(|n| items.get(n).cloned())
    {
        let at = random.below(items.len() + 1);
        items.insert(at, item);
    }
}

/// A key in another spelling, instead of its own or beside it.
fn rename(document: &mut Value, pointer: &str, random: &mut Random) {
    let Some((Value::Object(map), key)) = parent(document, pointer) else { return };
    let Some(value) = map.get(&key).cloned() else { return };
    let other = match random.below(4) {
        0 => key.to_uppercase(),
        1 => key.replace('s', "\u{17f}").replace('k', "\u{212a}"),
        2 => key.chars().flat_map(|c| if c.is_uppercase() { vec!['_', c] } else { vec![c] }).collect(),
        _ => format!("{key}x"),
    };
    if random.below(2) == 0 {
        map.remove(&key);
    }
    map.insert(other, value);
}

fn change_value(value: &mut Value, random: &mut Random, depth: usize) {
    match value {
        Value::String(text) => *text = change_text(text, random, depth),
        Value::Number(_) => {
            let numbers: [Value; 6] =
                [0.into(), 1.into(), u64::MAX.into(), i64::MIN.into(), (1_u64 << 53).into(), 1e300.into()];
            if let Some(number) = random.of(&numbers) {
                *value = number.clone();
            }
        }
        Value::Bool(yes) => *yes = !*yes,
        Value::Null => *value = Value::Object(Map::new()),
        // Its values are chosen by themselves.
        Value::Array(_) | Value::Object(_) => {}
    }
}

/// A text, changed inside what it encodes.
fn change_text(text: &str, random: &mut Random, depth: usize) -> String {
    if depth < DEPTH && random.below(8) > 0 {
        if text.starts_with(['{', '[']) && let Ok(mut inner) = serde_json::from_str::<Value>(text) {
            change(&mut inner, &[], random, depth + 1);
            return inner.to_string();
        }
        if let Some(changed) = change_pem(text, random, depth) {
            return changed;
        }
        if text.len() >= 8 && let Ok(inner) = STANDARD.decode(text) {
            return STANDARD.encode(change_bytes(&inner, random, depth));
        }
        if let Ok(number) = text.parse::<u64>() {
            let numbers = [0, number.wrapping_add(1), number.wrapping_sub(1), u64::MAX, 1 << 31, 1 << 63];
            return random.of(&numbers).map(u64::to_string).unwrap_or_default();
        }
    }
    String::from_utf8_lossy(&flipped(text.as_bytes())).into_owned()
}

fn change_pem(text: &str, random: &mut Random, depth: usize) -> Option<String> {
    let (head, rest) = text.split_once("-----\n").filter(|(head, _)| head.starts_with("-----BEGIN "))?;
    let (body, tail) = rest.split_once("-----END ")?;
    let body: String = body.split_ascii_whitespace().collect();
    let changed = STANDARD.encode(change_bytes(&STANDARD.decode(body).ok()?, random, depth));
    let lines: Vec<&str> =
        changed.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    Some(format!("{head}-----\n{}\n-----END {tail}", lines.join("\n")))
}

fn change_bytes(bytes: &[u8], random: &mut Random, depth: usize) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with(['{', '-']) => change_text(text, random, depth + 1).into_bytes(),
        _ => flipped(bytes),
    }
}

/// Changed as libFuzzer changes bytes.
fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut buffer = bytes.to_vec();
    buffer.resize(bytes.len() + 32, 0);
    let most = buffer.len();
    let size = libfuzzer_sys::fuzzer_mutate(&mut buffer, bytes.len(), most);
    buffer.truncate(size);
    buffer
}
