//! The Reach table: our figure, the peer's, their ratio, the ratio of CPU time, what was to be reached, and whether it is.

use std::fmt::Write as _;

use super::{CaseResult, Demand, Measure, Report, SideResult};
use crate::{
    round::Spread,
    scenario::{OURS, Reach, SHARED, WITHOUT_RING},
};

/// The whole report in Markdown.
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::from("# Reach\n\n");
    let length = if report.quick { "short rounds" } else { "rounds" };
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        text,
        "{}\n\nMedians of {} {length} (lowest–highest); ratios are medians of pairs, ours and the peer's in turn. CPU is \
         that of the whole server, for one request.\n",
        report.machine.to_string().replace('\n', "  \n"),
        report.rounds
    );
    text.push_str(
        "| case | ours | CPU µs | peer | its figure | its CPU µs | ratio | CPU ratio | reach | |\n",
    );
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for result in &report.cases {
        if result.case.reach.is_empty() {
            row(&mut text, result, None);
        }
        for reach in &result.case.reach {
            row(&mut text, result, Some(reach));
        }
    }
    text.push_str("\n## All sides\n\n");
    text.push_str("| case | side | requests/s | MB/s | CPU µs | CPU s/GB | p50 µs | p99 µs | others' CPU | notes |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for result in &report.cases {
        for side in &result.sides {
            line(&mut text, result, side);
        }
    }
    text
}

fn row(text: &mut String, result: &CaseResult, reach: Option<&Reach>) {
    let side = reach.map_or(OURS, |reach| &reach.side);
    let Some(own) = result.side(side) else { return };
    let name = &result.case.name;
    let case = match side {
        OURS => name.clone(),
        WITHOUT_RING => format!("{name}, on epoll"),
        SHARED => format!("{name}, on MariaDB"),
        other => format!("{name}, {other}"),
    };
    let _ = write!(text, "| {case} | {} | {} |", rate(own), spread(own.cpu_us, 1));
    let Some(reach) = reach else {
        text.push_str(" | | | | | | |\n");
        return;
    };
    let peer = result.side(&reach.against);
    let demands = Demand::all(result, reach);
    let ratio = |measure| {
        let demand = demands.iter().find(|demand| demand.measure == measure);
        demand
            .and_then(|demand| demand.ratio)
            .map_or("–".to_owned(), |ratio| format!("{ratio:.2}"))
    };
    let wanted: Vec<String> = demands.iter().filter_map(wanted).collect();
    let is_bound = own.client_bound || peer.is_some_and(|peer| peer.client_bound);
    let outcomes: Vec<bool> = demands.iter().filter_map(Demand::passes).collect();
    let verdict = match (outcomes.is_empty(), outcomes.iter().all(|&passes| passes)) {
        (true, _) => "",
        (false, true) => "pass",
        (false, false) => "**short**",
    };
    let _ = writeln!(
        text,
        " {} | {} | {} | {} | {} | {} | {verdict}{} |",
        reach.against,
        peer.map(rate).unwrap_or_default(),
        peer.map(|peer| spread(peer.cpu_us, 1)).unwrap_or_default(),
        ratio(Measure::Rate),
        ratio(Measure::Cpu),
        wanted.join(", "),
        if is_bound { " (client-bound)" } else { "" },
    );
}

/// A demand as text; that of a latency with what it came out as, which has no column of its own.
fn wanted(demand: &Demand) -> Option<String> {
    let limit = demand.limit?;
    let ratio = demand.ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
    Some(match demand.measure {
        Measure::Rate => format!("≥ {limit}"),
        Measure::Cpu => format!("CPU ≤ {limit}"),
        Measure::P50 => format!("p50 ≤ {limit} × (is {ratio})"),
        Measure::Memory => {
            let mib = |bytes: f64| bytes / f64::from(1 << 20);
            let is = demand.ratio.map_or(f64::NAN, mib);
            format!("memory ≤ {:.0} MiB (is {is:.0})", mib(limit))
        }
        Measure::P99 => format!("p99 ≤ {limit} × (is {ratio})"),
    })
}

fn line(text: &mut String, result: &CaseResult, side: &SideResult) {
    let mut notes: Vec<String> = Vec::new();
    if side.client_bound {
        notes.push("client-bound".to_owned());
    }
    for round in result.rounds.iter().filter(|round| round.side == side.name) {
        for note in &round.notes {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
    }
    let _ = writeln!(
        text,
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        result.case.name,
        side.name,
        rate(side),
        spread(side.megabytes_per_second, 0),
        spread(side.cpu_us, 1),
        spread(side.cpu_s_per_gb, 3),
        spread(side.p50_us, 0),
        spread(side.p99_us, 0),
        spread(side.others, 2),
        notes.join("; ")
    );
}

fn rate(side: &SideResult) -> String {
    if let Some(memory) = side.memory_bytes {
        return format!("{:.0} MiB", memory.median / f64::from(1 << 20));
    }
    side.per_second.map_or("–".to_owned(), |rate| {
        let decimals = if rate.median < 100.0 { 1 } else { 0 };
        format!("{}/s", spread(Some(rate), decimals))
    })
}

fn spread(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or("–".to_owned(), |spread| {
        format!(
            "{:.decimals$} ({:.decimals$}–{:.decimals$})",
            spread.median, spread.min, spread.max
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        machine::Machine,
        round::Round,
        scenario::{Case, Scenario},
    };

    fn report(own: f64, own_cpu: f64) -> Report {
        let scenario = Scenario::select(&["hot".to_owned()]).unwrap().remove(0);
        let case: Case = scenario.cases[0].clone();
        let round = |side: &str, per_second, cpu| Round {
            side: side.to_owned(),
            per_second,
            cpu_us: Some(cpu),
            ..Round::default()
        };
        // The machine slows down from pair to pair: the ratio of each pair stays.
        let rounds = [1.0, 0.5, 0.25]
            .iter()
            .flat_map(|speed| {
                let peer = round("nginx", 1000.0 * speed, 10.0 / speed);
                [round("reel", own * speed, own_cpu / speed), peer]
            })
            .collect();
        let machine = Machine::default();
        let cases = vec![CaseResult::new(&scenario, &case, rounds)];
        Report { machine, rounds: 3, quick: false, cases }
    }

    #[test]
    fn a_line_says_ratio_and_verdict() {
        let text = table(&report(1900.0, 5.0));
        let line = text.lines().find(|line| line.starts_with("| hot-4k | ")).unwrap();
        assert!(line.contains("950 (475–1900)/s"), "{line}");
        assert!(line.ends_with("| 1.90 | 0.50 | ≥ 1.8, CPU ≤ 0.6 | pass |"), "{line}");
    }

    #[test]
    fn a_demand_that_is_missed_makes_the_line_short() {
        for (own, cpu) in [(1700.0, 5.0), (1900.0, 7.0)] {
            let text = table(&report(own, cpu));
            let line = text.lines().find(|line| line.starts_with("| hot-4k | ")).unwrap();
            assert!(line.ends_with("**short** |"), "{line}");
        }
    }
}
