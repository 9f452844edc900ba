//! Resident memory, out of `/proc/PID/smaps_rollup`.

use crate::contenders::Contender;

/// Name, RSS and PSS in KiB.
pub type Resident = (String, u64, u64);

/// Of crivet's two processes, and of the peers' (HAProxy and nginx have more than one: the first).
pub fn of(contenders: &[Contender]) -> Vec<Resident> {
    let mut all = Vec::new();
    for contender in contenders {
        let Some(pid) = contender.pid() else { continue };
        let relay = contender.name == "crivet";
        let name = if relay { "crivet, relay" } else { contender.name };
        all.extend(resident(pid).map(|(rss, pss)| (name.to_owned(), rss, pss)));
        if relay {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            for vetter in children.unwrap_or_default().split_whitespace() {
                let found = vetter.parse().ok().and_then(resident);
                all.extend(found.map(|(rss, pss)| ("crivet, vetter".to_owned(), rss, pss)));
            }
        }
    }
    all
}

fn resident(pid: u32) -> Option<(u64, u64)> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let of = |key: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((of("Rss:")?, of("Pss:")?))
}

pub fn table(idle: &[Resident], loaded: &[Resident]) {
    println!("Resident memory, KiB\n");
    println!("| | RSS idle | PSS idle | RSS after load | PSS after load |");
    println!("|---|---|---|---|---|");
    for (name, rss, pss) in idle {
        let after = loaded.iter().find(|(other, ..)| other == name);
        let after = after.map_or("– | –".to_owned(), |(_, rss, pss)| format!("{rss} | {pss}"));
        println!("| {name} | {rss} | {pss} | {after} |");
    }
    println!();
}
