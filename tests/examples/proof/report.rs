//! Figures against their bars.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<(String, String, String, bool)>,
    took: Duration,
}

impl Report {
    /// A line of the table, printed at once.
    pub(crate) fn row(&mut self, what: impl Into<String>, bar: &str, result: impl Into<String>, good: bool) {
        let (what, result) = (what.into(), result.into());
        println!("{} {what}: {result} (bar {bar})", if good { "GOOD  " } else { "MISSED" });
        self.rows.push((what, bar.to_owned(), result, good));
    }

    /// Prints the table, writes the JSON where it is wanted; the exit code says whether every bar was met.
    pub(crate) fn close(mut self, took: Duration, json: Option<&Path>) -> Result<ExitCode> {
        self.finish(took);
        if let Some(path) = json {
            std::fs::write(path, serde_json::to_vec_pretty(&self.json())?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(if self.good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn finish(&mut self, took: Duration) {
        self.took = took;
        println!("\n| what | bar | result | |\n|---|---|---|---|");
        for (what, bar, result, good) in &self.rows {
            println!("| {what} | {bar} | {result} | {} |", if *good { "good" } else { "MISSED" });
        }
        println!("\n{} in {:.0} s", if self.good() { "GOOD" } else { "MISSED" }, took.as_secs_f64());
    }

    fn good(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.3)
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(what, bar, result, good)| json!({ "what": what, "bar": bar, "result": result, "good": good }))
            .collect();
        json!({ "good": self.good(), "seconds": self.took.as_secs(), "rows": rows })
    }
}

/// Nearest-rank percentile of seconds; 0 without any.
pub(crate) fn percentile(values: &[f64], of_100: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (of_100 / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// "p50 1.20, p95 1.70, max 1.80 s of 100".
pub(crate) fn spread(values: &[f64]) -> String {
    format!(
        "p50 {:.2}, p95 {:.2}, p99 {:.2}, max {:.2} s of {}",
        percentile(values, 50.0),
        percentile(values, 95.0),
        percentile(values, 99.0),
        percentile(values, 100.0),
        values.len()
    )
}
