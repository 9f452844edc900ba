//! The relay beside the runtime itself, `socat` (a plain byte copy), HAProxy and nginx, in one run on one machine.
//!
//! `make bench` builds it as the daemon ships and runs it. Ratios are what counts; no figure here is a test.
//! The contenders take turns in short rounds, so that what else the machine does hits all of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench reports what went wrong by panicking, and its table on standard output"
)]

mod contenders;
mod load;
mod memory;
mod runtime;

use std::path::Path;
use std::time::Duration;

use contenders::Contender;
use load::Client;

const VERSION: &str = "/runtime.v1.RuntimeService/Version";
const LIST: &str = "/runtime.v1.RuntimeService/ListContainers";

/// Rounds in which every contender has one turn.
const LATENCY_ROUNDS: usize = 40;
const CALLS_PER_ROUND: usize = 250;
const THROUGHPUT_ROUNDS: usize = 9;
const TURN: Duration = Duration::from_millis(400);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, socket] = &arguments[..]
        && command == "runtime"
    {
        return runtime::serve(Path::new(socket));
    }
    let folder = tempfile::Builder::new().prefix("crivet.").tempdir().unwrap();
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    threads.block_on(async {
        let fake = runtime::Runtime::fake(folder.path()).await;
        let mut contenders = contenders::all(folder.path(), &fake.socket).await;
        println!("# A runtime that answers at once\n");
        let idle = memory::of(&contenders);
        latency(&mut contenders).await;
        throughput(&mut contenders, "2 connections with 16 calls each", "calls/s", VERSION, 16, 1.0).await;
        throughput(&mut contenders, "1 MiB lists, 2 connections with 2 calls each", "MiB/s", LIST, 2, 1.0)
            .await;
        memory::table(&idle, &memory::of(&contenders));
        drop(contenders);
        drop(fake);
        let real = folder.path().join("containerd");
        std::fs::create_dir(&real).unwrap();
        match runtime::Runtime::containerd(&real).await {
            Ok(containerd) => {
                println!("# containerd {}\n", containerd.version);
                let mut contenders = contenders::all(&real, &containerd.socket).await;
                latency(&mut contenders).await;
                throughput(&mut contenders, "2 connections with 16 calls each", "calls/s", VERSION, 16, 1.0)
                    .await;
            }
            Err(why) => println!("# containerd: left out, {why}\n"),
        }
    });
}

/// One call at a time: median and 99th percentile, and what the contender adds to the runtime's own.
async fn latency(contenders: &mut [Contender]) {
    let mut times = vec![Vec::new(); contenders.len()];
    let mut added = vec![Vec::new(); contenders.len()];
    let mut clients = Vec::new();
    for contender in contenders.iter() {
        let client = Client::connect(&contender.socket).await;
        client.one_by_one(VERSION, 200).await;
        clients.push(client);
    }
    for round in 0..LATENCY_ROUNDS {
        let mut medians = vec![Duration::ZERO; clients.len()];
        for turn in 0..clients.len() {
            // Nobody always comes after the same one.
            let who = (turn + round) % clients.len();
            let mut taken = clients[who].one_by_one(VERSION, CALLS_PER_ROUND).await;
            taken.sort();
            medians[who] = taken[taken.len() / 2];
            times[who].extend(taken);
        }
        for (who, median) in medians.iter().enumerate() {
            added[who].push(median.saturating_sub(medians[0]));
        }
    }
    println!("Small unary call, one at a time ({} calls each)\n", LATENCY_ROUNDS * CALLS_PER_ROUND);
    println!("| | median | p99 | added, median | added : socat's | added : HAProxy's |");
    println!("|---|---|---|---|---|---|");
    let added: Vec<f64> = added.into_iter().map(|mut all| micros(middle(&mut all))).collect();
    let of = |name: &str| contenders.iter().position(|c| c.name == name).map(|who| added[who]);
    for (who, contender) in contenders.iter().enumerate() {
        times[who].sort();
        let p99 = times[who][times[who].len() * 99 / 100];
        let ratio = |other: Option<f64>| match other {
            Some(other) if who > 0 && other > 0.0 => format!("{:.2}", added[who] / other),
            _ => "–".to_owned(),
        };
        println!(
            "| {} | {:.0} µs | {:.0} µs | {:.0} µs | {} | {} |",
            contender.name,
            micros(middle(&mut times[who])),
            micros(p99),
            added[who],
            ratio(of("socat")),
            ratio(of("HAProxy")),
        );
    }
    println!();
}

/// Calls at a time on two connections, for a turn per round.
async fn throughput(
    contenders: &mut [Contender],
    title: &str,
    unit: &str,
    path: &'static str,
    at_a_time: usize,
    per_call: f64,
) {
    let mut rates = vec![Vec::new(); contenders.len()];
    let mut clients = Vec::new();
    for contender in contenders.iter() {
        let pair = [Client::connect(&contender.socket).await, Client::connect(&contender.socket).await];
        load::at_a_time(&pair, path, at_a_time, TURN / 4).await;
        clients.push(pair);
    }
    for round in 0..THROUGHPUT_ROUNDS {
        for turn in 0..clients.len() {
            let who = (turn + round) % clients.len();
            let calls = load::at_a_time(&clients[who], path, at_a_time, TURN).await;
            rates[who].push(calls * per_call);
        }
    }
    println!("{title}\n");
    println!("| | {unit} | : the runtime's own | : HAProxy's | : nginx's |");
    println!("|---|---|---|---|---|");
    let rates: Vec<f64> = rates
        .into_iter()
        .map(|mut all| {
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        })
        .collect();
    let of = |name: &str| contenders.iter().position(|c| c.name == name).map(|who| rates[who]);
    for (who, contender) in contenders.iter().enumerate() {
        let ratio =
            |other: Option<f64>| other.map_or("–".to_owned(), |other| format!("{:.2}", rates[who] / other));
        println!(
            "| {} | {:.0} | {} | {} | {} |",
            contender.name,
            rates[who],
            ratio(Some(rates[0])),
            ratio(of("HAProxy")),
            ratio(of("nginx")),
        );
    }
    println!();
}

fn middle(all: &mut [Duration]) -> Duration {
    all.sort();
    all[all.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
