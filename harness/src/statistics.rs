//! What several measurements of one quantity amount to. PURE.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// The names of statistics in expectations, and what they are.
pub const STATISTICS: [(&str, &str); 8] = [
    ("n", "rounds that measured it"),
    ("mean", "their mean"),
    ("ci95", "half the width of the mean's 95 % confidence interval, by Student's t; of two rounds or more"),
    ("deviation", "their standard deviation; of two rounds or more"),
    ("min", "the least"),
    ("p50", "the median"),
    ("p95", "the 95th percentile, between the two nearest values in proportion"),
    ("max", "the greatest"),
];

/// Mean and scatter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Runs.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation; 0 for one run.
    pub deviation: f64,
}

impl Summary {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        Self { n: values.len(), mean, deviation: if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 } }
    }

    /// Half the width of the mean's confidence interval at 95 %; `None` of fewer than two values.
    pub fn ci95(&self) -> Option<f64> {
        let freedom = self.n.checked_sub(1).filter(|freedom| *freedom > 0)?;
        let t = StudentsT::new(0.0, 1.0, freedom as f64).ok()?.inverse_cdf(0.975);
        Some(t * self.deviation / (self.n as f64).sqrt())
    }
}

/// The statistic `name` of `values`; the error says why there is none.
pub fn statistic(values: &[f64], name: &str) -> Result<f64, String> {
    if values.is_empty() {
        return if name == "n" { Ok(0.0) } else { Err("no round measured it".to_owned()) };
    }
    let summary = Summary::of(values);
    let several = |value: Option<f64>| value.ok_or_else(|| "one round alone says nothing of it".to_owned());
    match name {
        "n" => Ok(summary.n as f64),
        "mean" => Ok(summary.mean),
        "ci95" => several(summary.ci95()),
        "deviation" => several((summary.n > 1).then_some(summary.deviation)),
        "min" => Ok(percentile(values, 0.0)),
        "p50" => Ok(percentile(values, 0.5)),
        "p95" => Ok(percentile(values, 0.95)),
        "max" => Ok(percentile(values, 1.0)),
        _ => Err(format!("there is no statistic `{name}`")),
    }
}

/// The value below which the share `part` lies, in proportion between the two nearest of at least one value.
pub fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// t with 4 degrees of freedom at 97.5 %: 2.776445.
    #[test]
    fn the_interval_is_that_of_the_tables() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0];
        let expected = 2.776_445 * (2.5_f64 / 5.0).sqrt();
        assert!((statistic(&values, "ci95").unwrap() - expected).abs() < 1e-5);
        assert_eq!(statistic(&values, "mean"), Ok(3.0));
        assert_eq!(statistic(&values, "n"), Ok(5.0));
    }

    #[test]
    fn percentiles_lie_between_the_nearest_values() {
        let values = [40.0, 10.0, 20.0, 30.0];
        let of = |name: &str| statistic(&values, name).unwrap();
        assert_eq!((of("min"), of("p50"), of("max")), (10.0, 25.0, 40.0));
        assert!((of("p95") - 38.5).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_made_up() {
        assert!(statistic(&[], "mean").is_err() && statistic(&[1.0], "ci95").is_err());
        assert_eq!((statistic(&[], "n"), statistic(&[7.0], "p95")), (Ok(0.0), Ok(7.0)));
    }

    #[test]
    fn every_statistic_that_has_a_name_is_there() {
        for (name, _) in STATISTICS {
            assert!(statistic(&[1.0, 2.0], name).is_ok(), "{name}");
        }
    }
}
