//! Every input that fuzzing starts from, and those that once found something, run as a test.

use super::*;

fn run(target: &Target) -> (usize, usize) {
    let seeds = target.seeds();
    (seeds.iter().filter(|seed| (target.run)(seed)).count(), seeds.len())
}

#[test]
fn inputs_that_fuzzing_starts_from_are_accepted() {
    for target in TARGETS {
        let (accepted, all) = run(target);
        println!("{}: {accepted} of {all}", target.name);
        assert!(accepted > 0 && accepted * 2 >= all, "{}: {accepted} of {all}", target.name);
    }
}
