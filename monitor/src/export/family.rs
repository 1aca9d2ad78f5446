//! Builds one metric family from its definition.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::definitions::{Definition, MetricKind};

/// A family under construction.
#[derive(Debug)]
pub(super) struct Family {
    definition: &'static Definition,
    metrics: Vec<Metric>,
}

impl Family {
    pub(super) const fn new(definition: &'static Definition) -> Self {
        Self { definition, metrics: Vec::new() }
    }

    /// A family with one series without labels.
    pub(super) fn single(definition: &'static Definition, value: f64) -> Self {
        let mut family = Self::new(definition);
        family.add(&[], value);
        family
    }

    /// Adds a series; `labels` are the values of the definition's labels, in order.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), self.definition.labels.len(), "{}", self.definition.name);
        let pairs = self.definition.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        match self.definition.kind {
            MetricKind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            MetricKind::Gauge | MetricKind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }

    pub(super) fn finish(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.definition.name.to_owned());
        family.set_help(self.definition.help.to_owned());
        family.set_field_type(match self.definition.kind {
            MetricKind::Counter => MetricType::COUNTER,
            MetricKind::Gauge => MetricType::GAUGE,
            MetricKind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(self.metrics);
        family
    }
}
