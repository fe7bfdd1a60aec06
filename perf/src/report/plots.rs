//! Which charts a report has: throughput and CPU time against size or connections, and the latencies of each case.

use std::{fs, path::Path};

use anyhow::Result;

use super::{
    CaseResult, Report, SideResult,
    chart::{Chart, Point, Scale, Series},
};
use crate::round::Spread;

/// Writes the charts into `folder`.
pub(crate) fn write(report: &Report, folder: &Path) -> Result<()> {
    let mut scenarios: Vec<&str> = report.cases.iter().map(|case| case.scenario.as_str()).collect();
    scenarios.dedup();
    for scenario in scenarios {
        let cases: Vec<&CaseResult> =
            report.cases.iter().filter(|case| case.scenario == scenario).collect();
        if let Some(abscissa) = Abscissa::of(&cases) {
            let rate = chart(&cases, abscissa, scenario, "requests/s", |side| side.per_second);
            save(folder, &format!("{scenario}-rate"), &rate)?;
            let bytes = chart(&cases, abscissa, scenario, "MB/s", |side| side.megabytes_per_second);
            save(folder, &format!("{scenario}-bytes"), &bytes)?;
            let cpu = chart(&cases, abscissa, scenario, "CPU µs a request", |side| side.cpu_us);
            save(folder, &format!("{scenario}-cpu"), &cpu)?;
        }
        for case in cases {
            save(folder, &format!("{}-latency", case.case.name), &latency(case))?;
        }
    }
    Ok(())
}

fn save(folder: &Path, name: &str, chart: &Chart) -> Result<()> {
    if let Some(svg) = chart.svg() {
        fs::write(folder.join(format!("{name}.svg")), svg)?;
    }
    Ok(())
}

/// What changes from case to case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abscissa {
    Files,
    Size,
    Connections,
}

impl Abscissa {
    fn of(cases: &[&CaseResult]) -> Option<Self> {
        let is_rising = |of: fn(&CaseResult) -> u64| {
            cases.len() > 1 && cases.windows(2).all(|pair| of(pair[0]) < of(pair[1]))
        };
        if is_rising(|case| case.case.files) {
            Some(Self::Files)
        } else if is_rising(|case| case.case.size.0) {
            Some(Self::Size)
        } else if is_rising(|case| case.case.connections as u64) {
            Some(Self::Connections)
        } else {
            None
        }
    }

    fn value(self, case: &CaseResult) -> f64 {
        match self {
            Self::Files => case.case.files as f64,
            Self::Size => case.case.size.0 as f64,
            Self::Connections => case.case.connections as f64,
        }
    }

    fn label(self, case: &CaseResult) -> String {
        match self {
            Self::Files => case.case.files.to_string(),
            Self::Size => case.case.size.to_string(),
            Self::Connections => case.case.connections.to_string(),
        }
    }
}

fn chart(
    cases: &[&CaseResult],
    abscissa: Abscissa,
    scenario: &str,
    measure: &str,
    figure: impl Fn(&SideResult) -> Option<Spread>,
) -> Chart {
    let mut series: Vec<Series> = Vec::new();
    for case in cases {
        for side in &case.sides {
            let Some(spread) = figure(side) else { continue };
            let index = series.iter().position(|series| series.name == side.name);
            let index = index.unwrap_or_else(|| {
                series.push(Series { name: side.name.clone(), points: Vec::new() });
                series.len() - 1
            });
            series[index].points.push(Point {
                x: abscissa.value(case),
                y: spread.median,
                low: spread.min,
                high: spread.max,
            });
        }
    }
    Chart {
        title: format!("{scenario}: {measure}"),
        x_title: match abscissa {
            Abscissa::Files => "files in the store".to_owned(),
            Abscissa::Size => "bytes of a request".to_owned(),
            Abscissa::Connections => "connections".to_owned(),
        },
        y_title: measure.to_owned(),
        x_ticks: cases.iter().map(|case| (abscissa.value(case), abscissa.label(case))).collect(),
        y_scale: Scale::Logarithmic,
        series,
    }
}

/// Percentiles against latency, the rare ones spread out: x is one in so many.
fn latency(case: &CaseResult) -> Chart {
    let ticks = [(2.0, "50 %"), (10.0, "90 %"), (100.0, "99 %"), (1e3, "99.9 %"), (1e4, "99.99 %")];
    let series = case.sides.iter().map(|side| {
        let rounds = || case.rounds.iter().filter(|round| round.side == side.name);
        let percents = [1.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99];
        let point = |percent: f64| {
            let spread = Spread::of(rounds().filter_map(|round| round.latency_us(percent)))?;
            let x = 100.0 / (100.0 - percent);
            Some(Point { x, y: spread.median, low: spread.min, high: spread.max })
        };
        Series { name: side.name.clone(), points: percents.into_iter().filter_map(point).collect() }
    });
    Chart {
        title: format!("{}: latency", case.case.name),
        x_title: "percentile".to_owned(),
        y_title: "µs".to_owned(),
        x_ticks: ticks.map(|(at, label)| (at, label.to_owned())).to_vec(),
        y_scale: Scale::Logarithmic,
        series: series.filter(|series| !series.points.is_empty()).collect(),
    }
}
