//! A line chart as SVG, by hand: two axes, ticks, one line for each series. No library draws less.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;

/// Told apart by people who do not see red and green as well (Okabe and Ito).
const COLOURS: &[&str] =
    &["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];

/// How numbers lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero on.
    Linear,
    /// By powers; all numbers are above zero.
    Logarithmic,
}

/// A chart.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x_title: String,
    pub(crate) y_title: String,
    /// Positions and texts of the ticks below.
    pub(crate) x_ticks: Vec<(f64, String)>,
    pub(crate) y_scale: Scale,
    pub(crate) series: Vec<Series>,
}

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// By rising x, which is logarithmic.
    pub(crate) points: Vec<Point>,
}

/// A median and its range.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Where a range of numbers lies on the paper.
struct Axis {
    scale: Scale,
    min: f64,
    max: f64,
    begin: f64,
    end: f64,
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, begin: f64, end: f64) -> Option<Self> {
        let is_drawn = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let values: Vec<f64> = values.filter(is_drawn).collect();
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        let (min, max) = match scale {
            Scale::Linear => (0.0, max * 1.05),
            Scale::Logarithmic => (min / 1.15, max * 1.15),
        };
        Some(Self { scale, min, max: if max > min { max } else { min + 1.0 }, begin, end })
    }

    fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.min) / (self.max - self.min),
            Scale::Logarithmic => (value / self.min).ln() / (self.max / self.min).ln(),
        };
        self.begin + share.clamp(0.0, 1.0) * (self.end - self.begin)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let rough = (self.max - self.min) / 6.0;
                let power = 10_f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
                let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
                (0..).map(|n| f64::from(n) * step).take_while(|tick| *tick <= self.max).collect()
            }
            Scale::Logarithmic => {
                let first = self.min.log10().floor() as i32;
                let last = self.max.log10().ceil() as i32;
                let all = (first..=last).map(|power| 10_f64.powi(power));
                all.filter(|tick| (self.min..=self.max).contains(tick)).collect()
            }
        }
    }
}

impl Chart {
    /// The SVG text; `None` when there is nothing to draw.
    pub(crate) fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Axis::new(Scale::Logarithmic, points().map(|point| point.x), LEFT, WIDTH - RIGHT)?;
        let high = points().flat_map(|point| [point.low, point.y, point.high]);
        let y = Axis::new(self.y_scale, high, HEIGHT - BOTTOM, TOP)?;
        let mut out = String::new();
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"
        );
        self.frame(&mut out, &x, &y);
        for (number, series) in self.series.iter().enumerate() {
            line(&mut out, series, number, &x, &y);
        }
        out.push_str("</svg>\n");
        Some(out)
    }

    fn frame(&self, out: &mut String, x: &Axis, y: &Axis) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let middle = f64::midpoint(LEFT, right);
        text(out, LEFT, 24.0, "start", &self.title);
        text(out, middle, HEIGHT - 12.0, "middle", &self.x_title);
        text(out, 8.0, TOP - 8.0, "start", &self.y_title);
        for tick in y.ticks() {
            let at = y.place(tick);
            rule(out, (LEFT, at), (right, at), "#ddd");
            text(out, LEFT - 6.0, at + 4.0, "end", &short(tick));
        }
        for (tick, label) in &self.x_ticks {
            let at = x.place(*tick);
            rule(out, (at, TOP), (at, bottom), "#eee");
            text(out, at, bottom + 18.0, "middle", label);
        }
        rule(out, (LEFT, TOP), (LEFT, bottom), "#444");
        rule(out, (LEFT, bottom), (right, bottom), "#444");
    }
}

fn line(out: &mut String, series: &Series, number: usize, x: &Axis, y: &Axis) {
    let colour = COLOURS[number % COLOURS.len()];
    let mut path = String::new();
    for point in series.points.iter().filter(|point| point.y.is_finite()) {
        let (px, py) = (x.place(point.x), y.place(point.y));
        let _ = write!(path, "{px:.1},{py:.1} ");
        let _ = writeln!(out, "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"{colour}\"/>");
        rule(out, (px, y.place(point.low)), (px, y.place(point.high)), colour);
    }
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        path.trim_end()
    );
    let (at, place) = (TOP + 12.0 + 18.0 * number as f64, WIDTH - RIGHT + 14.0);
    rule(out, (place, at - 4.0), (place + 18.0, at - 4.0), colour);
    text(out, place + 24.0, at, "start", &series.name);
}

fn rule(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

/// A number of at most a few signs.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", value / 1e6),
        size if size >= 1e3 => format!("{}k", value / 1e3),
        _ => format!("{}", (value * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_line_for_each_series_and_nothing_outside() {
        let point = |x, y| Point { x, y, low: y, high: y };
        let series = |name: &str, points| Series { name: name.to_owned(), points };
        let mut chart = Chart {
            title: "a < b".to_owned(),
            x_title: String::new(),
            y_title: String::new(),
            x_ticks: vec![(4096.0, "4 KiB".to_owned())],
            y_scale: Scale::Logarithmic,
            series: vec![
                series("one", vec![point(4096.0, 1.0), point(65536.0, 1000.0)]),
                series("two", vec![point(4096.0, 5.0)]),
            ],
        };
        let svg = chart.svg().unwrap();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN") && !svg.contains("inf"));
        chart.series.clear();
        assert!(chart.svg().is_none(), "no points, no chart");
    }

    #[test]
    fn ticks_are_round() {
        let axis = Axis::new(Scale::Linear, [0.0, 118_000.0].into_iter(), 0.0, 1.0).unwrap();
        assert_eq!(axis.ticks(), [0.0, 50_000.0, 100_000.0]);
        assert_eq!(short(50_000.0), "50k");
    }
}
