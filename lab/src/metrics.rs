//! Reading the text exposition format (Prometheus, version 0.0.4).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// One line of an exposition.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name of the metric.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// A scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Vec<Sample>);

impl Metrics {
    /// Reads an exposition.
    ///
    /// # Errors
    /// A line that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| sample(line).with_context(|| format!("the line `{line}`"))).collect::<Result<_>>().map(Self)
    }

    /// Every sample.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.0
    }

    /// Samples of `name` that have all of `labels`.
    pub fn select<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|own| own == value))
        })
    }

    /// Sum of the samples of `name` that have all of `labels`; 0 if there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        // Counters up to 2^53 are exact in the exposition.
        self.select(name, labels).map(|sample| sample.value as u64).sum()
    }
}

fn sample(line: &str) -> Result<Sample> {
    let (series, value) = match line.find('}') {
        Some(end) => line.split_at(end + 1),
        None => line.split_once(' ').context("a value")?,
    };
    let value = value.split_whitespace().next().context("a value")?.parse().context("a number")?;
    let (name, list) = series.split_once('{').unwrap_or((series, "}"));
    let mut rest = list.strip_suffix('}').context("a closing brace")?;
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, tail) = rest.split_once("=\"").context("a label")?;
        // Label values of ours are words, addresses and names: nothing that the format escapes.
        let Some((value, tail)) = tail.split_once('"') else { bail!("a label value without an end") };
        labels.insert(label.trim_start_matches(',').to_owned(), value.to_owned());
        rest = tail;
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_exposition() {
        let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\",y=\"z\"} 3\na_total{x=\"2\",y=\"z\"} 4e0\nb 1.5\n";
        let metrics = Metrics::parse(text).expect("an exposition");
        assert_eq!(metrics.sum("a_total", &[]), 7);
        assert_eq!(metrics.sum("a_total", &[("x", "1")]), 3);
        assert_eq!(metrics.samples().len(), 3);
        assert!(Metrics::parse("a{x=\"1} 2").is_err());
    }
}
