//! What came out: collected while it is measured, printed as a table, written as JSON.

use std::collections::BTreeSet;
use std::path::Path;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::BenchError;
use crate::stats::{Samples, Summary};

/// Of the JSON file.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Ours as a multiple of the other's.
    Ratio,
    Count,
    Milliseconds,
    Mebibytes,
    Bytes,
    PerSecond,
    /// How many times as fast as the other.
    Speed,
}

impl Unit {
    /// Of the others, less is better.
    fn is_more_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::Speed)
    }
}

/// One thing to measure. A goal is the largest value that is good; the smallest, where more is better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub goal: Option<f64>,
    pub unit: Unit,
}

impl Figure {
    /// Without a goal: to be looked at.
    pub const fn shown(name: &'static str, unit: Unit) -> Self {
        Self { name, goal: None, unit }
    }

    pub const fn goal(name: &'static str, unit: Unit, goal: f64) -> Self {
        Self { name, goal: Some(goal), unit }
    }

    fn is_met(&self, median: f64) -> Option<bool> {
        self.goal.map(|goal| if self.unit.is_more_better() { median >= goal } else { median <= goal })
    }
}

/// One side of a comparison, in a unit of its own.
#[derive(Debug, Serialize)]
pub struct Side {
    pub who: String,
    pub unit: Unit,
    summary: Summary,
    samples: Samples,
}

impl Side {
    /// None without a sample.
    pub fn new(who: impl ToString, unit: Unit, samples: &Samples) -> Option<Self> {
        Some(Self { who: who.to_string(), unit, summary: samples.summary()?, samples: samples.clone() })
    }
}

#[derive(Debug, Serialize)]
struct Measured {
    #[serde(flatten)]
    figure: Figure,
    #[serde(flatten)]
    summary: Summary,
    met: Option<bool>,
    sides: Vec<Side>,
}

#[derive(Debug, Serialize)]
struct Failed {
    name: &'static str,
    error: String,
}

/// Takes figures as they are measured. What fails is noted, and the others go on.
pub struct Recorder {
    figures: &'static [Figure],
    only: Option<BTreeSet<String>>,
    measured: Vec<Measured>,
    failed: Vec<Failed>,
}

impl Recorder {
    /// # Errors
    /// If `only` names what is no figure.
    pub fn new(figures: &'static [Figure], only: &[String]) -> Result<Self, BenchError> {
        let unknown: Vec<&str> =
            only.iter().map(String::as_str).filter(|name| figures.iter().all(|f| f.name != *name)).collect();
        if !unknown.is_empty() {
            let known: Vec<&str> = figures.iter().map(|figure| figure.name).collect();
            let text = format!("no such figure: {}; there are: {}", unknown.join(", "), known.join(", "));
            return Err(BenchError::Unexpected(text));
        }
        let only = (!only.is_empty()).then(|| only.iter().cloned().collect());
        Ok(Self { figures, only, measured: Vec::new(), failed: Vec::new() })
    }

    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(name))
    }

    pub fn wants_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wants(name))
    }

    /// Runs what measures `names`, if one of them is wanted. If it fails, those not recorded by then have failed.
    pub async fn step<F>(&mut self, names: &[&'static str], measure: F)
    where
        F: AsyncFnOnce(&mut Self) -> Result<(), BenchError>,
    {
        if !self.wants_any(names) {
            return;
        }
        let error = match measure(self).await {
            Ok(()) => "it was not measured".to_owned(),
            Err(error) => error.to_string(),
        };
        self.fail_missing(names, &error);
    }

    /// Those of `names` that are wanted and not recorded have failed.
    pub fn fail_missing(&mut self, names: &[&'static str], error: &str) {
        let wanted: Vec<&'static str> = names.iter().copied().filter(|name| self.wants(name)).collect();
        let mut newly = Vec::new();
        for name in wanted {
            let known = self.measured.iter().any(|measured| measured.figure.name == name)
                || self.failed.iter().any(|failed| failed.name == name);
            if !known {
                newly.push(name);
                self.failed.push(Failed { name, error: error.to_owned() });
            }
        }
        if !newly.is_empty() {
            eprintln!("not measured: {}: {error}", newly.join(", "));
        }
    }

    /// Ours over theirs, round by round.
    pub fn ratio(
        &mut self,
        name: &str,
        unit: Unit,
        ours: (impl ToString, &Samples),
        theirs: (impl ToString, &Samples),
    ) {
        let samples = ours.1.over(theirs.1);
        let sides = [Side::new(ours.0, unit, ours.1), Side::new(theirs.0, unit, theirs.1)];
        self.record(name, &samples, sides.into_iter().flatten().collect());
    }

    pub fn value(&mut self, name: &str, samples: &Samples) {
        self.record(name, samples, Vec::new());
    }

    fn record(&mut self, name: &str, samples: &Samples, sides: Vec<Side>) {
        if !self.wants(name) {
            return;
        }
        // A figure that is not in the list, or without a sample, is then missing, and so has failed.
        let Some(figure) = self.figures.iter().find(|figure| figure.name == name).copied() else { return };
        let Some(summary) = samples.summary() else { return };
        let met = figure.is_met(summary.median);
        eprintln!("{name}: {}", number(summary.median));
        self.measured.push(Measured { figure, summary, met, sides });
    }

    /// True if everything that was asked for was measured.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }

    /// For people: figure, goal, median, spread, pass or miss.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["figure", "goal", "median", "min … max", "rounds", "", "sides (medians)"]);
        for figure in self.figures {
            let sign = if figure.unit.is_more_better() { '≥' } else { '≤' };
            let goal = figure.goal.map_or(String::new(), |goal| format!("{sign} {}", number(goal)));
            if let Some(m) = self.measured.iter().find(|measured| measured.figure.name == figure.name) {
                let verdict = match m.met {
                    Some(true) => "pass",
                    Some(false) => "MISS",
                    None => "",
                };
                let sides =
                    m.sides.iter().map(|side| format!("{} {}", side.who, with_unit(side.summary.median, side.unit)));
                table.add_row([
                    figure.name.to_owned(),
                    goal,
                    with_unit(m.summary.median, figure.unit),
                    format!("{} … {}", number(m.summary.min), number(m.summary.max)),
                    m.summary.rounds.to_string(),
                    verdict.to_owned(),
                    sides.collect::<Vec<_>>().join(", "),
                ]);
            } else if let Some(failed) = self.failed.iter().find(|failed| failed.name == figure.name) {
                let error: String = failed.error.chars().take(80).collect();
                table.add_row([figure.name, &goal, "", "", "", "FAILED", &error]);
            }
        }
        for column in 1..5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }

    /// `about`: the machine, the engine, the settings.
    pub fn write(&self, file: &Path, about: &Value) -> Result<(), BenchError> {
        let report = json!({ "format": FORMAT, "about": about, "figures": self.measured, "failed": self.failed });
        let cannot = || BenchError::io(format!("cannot write {}", file.display()));
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).map_err(cannot())?;
        }
        std::fs::write(file, format!("{report:#}\n")).map_err(cannot())
    }
}

fn with_unit(value: f64, unit: Unit) -> String {
    let number = number(value);
    match unit {
        Unit::Ratio | Unit::Speed => format!("×{number}"),
        Unit::Count => number,
        Unit::Milliseconds => format!("{number} ms"),
        Unit::Mebibytes => format!("{number} MiB"),
        Unit::Bytes => format!("{number} B"),
        Unit::PerSecond => format!("{number}/s"),
    }
}

/// Three digits, or all of a whole number.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else if magnitude >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

/// What is true of every list of figures.
#[cfg(test)]
pub mod lists {
    use std::collections::BTreeMap;

    use super::Figure;

    /// The figures with their goals are those of a section of docs/BENCH.md.
    pub fn assert_documented(figures: &[Figure], section: &str) {
        let text = include_str!("../../docs/BENCH.md");
        let section = text.split(section).nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
        let rows = section.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            Some((cells.next()?.trim_end_matches('`'), cells.next()?.parse::<f64>().ok()))
        });
        let documented: BTreeMap<&str, Option<f64>> = rows.collect();
        let measured: BTreeMap<&str, Option<f64>> = figures.iter().map(|figure| (figure.name, figure.goal)).collect();
        assert_eq!(documented, measured);
    }

    /// Each figure belongs to one stage.
    pub fn assert_staged(figures: &[Figure], stages: &[&[&'static str]]) {
        let mut staged = stages.concat();
        staged.sort_unstable();
        let mut all: Vec<&str> = figures.iter().map(|figure| figure.name).collect();
        all.sort_unstable();
        assert_eq!(staged, all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: &[Figure] = &[
        Figure { name: "small", goal: Some(2.0), unit: Unit::Ratio },
        Figure { name: "large", goal: None, unit: Unit::Count },
        Figure { name: "fast", goal: Some(12.0), unit: Unit::Milliseconds },
    ];

    fn samples(numbers: &[f64]) -> Samples {
        numbers.iter().copied().collect()
    }

    #[tokio::test]
    async fn a_failed_step_fails_its_own_figures_and_no_others() {
        let mut recorder = Recorder::new(FIGURES, &[]).expect("all of them");
        recorder
            .step(&["small", "large"], async |recorder| {
                recorder.ratio("small", Unit::Milliseconds, ("a", &samples(&[3.0])), ("b", &samples(&[1.0])));
                Err(BenchError::Unexpected("the disk is full".to_owned()))
            })
            .await;
        recorder
            .step(&["fast"], async |recorder| {
                recorder.value("fast", &samples(&[9.0, 11.0, 12.0]));
                Ok(())
            })
            .await;
        assert!(!recorder.is_complete());
        let table = recorder.table();
        let line = |name: &str| table.lines().find(|line| line.contains(name)).expect("a line").to_owned();
        assert!(line("small").contains("MISS") && line("small").contains("×3"), "{table}");
        assert!(line("large").contains("FAILED") && line("large").contains("the disk is full"), "{table}");
        assert!(line("fast").contains("pass"), "{table}");
    }

    #[tokio::test]
    async fn only_what_is_asked_for_is_measured() {
        assert!(Recorder::new(FIGURES, &["big".to_owned()]).is_err_and(|error| error.to_string().contains("small")));
        let mut recorder = Recorder::new(FIGURES, &["large".to_owned()]).expect("it exists");
        recorder.step(&["small"], async |_| Err(BenchError::Stopped)).await;
        recorder
            .step(&["large", "fast"], async |recorder| {
                recorder.value("large", &samples(&[1.0]));
                Ok(())
            })
            .await;
        assert!(recorder.is_complete() && recorder.measured.len() == 1);
    }

    #[tokio::test]
    async fn a_figure_without_a_sample_has_failed() {
        let mut recorder = Recorder::new(FIGURES, &["large".to_owned()]).expect("it exists");
        recorder
            .step(&["large"], async |recorder| {
                recorder.value("large", &Samples::new());
                Ok(())
            })
            .await;
        assert!(!recorder.is_complete());
    }
}
