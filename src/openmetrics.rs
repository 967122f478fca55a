//! The OpenMetrics text format (version 1.0.0), for scrapers that ask for it.
//!
//! It differs from the Prometheus text format in three ways that matter to us: a counter's family
//! has no `_total`, there are no untyped metrics, and the exposition ends with `# EOF`.

use std::fmt::Write as _;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// The media type of what [`encode`] gives.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) fn encode(families: &[MetricFamily]) -> String {
    let mut out = String::new();
    for family in families {
        encode_family(&mut out, family);
    }
    out.push_str("# EOF\n");
    out
}

/// Writing to a string does not fail, so results of `write!` are dropped here and below.
fn encode_family(out: &mut String, family: &MetricFamily) {
    let full = family.name();
    let (name, kind) = match family.get_field_type() {
        MetricType::COUNTER => (full.strip_suffix("_total").unwrap_or(full), "counter"),
        MetricType::GAUGE => (full, "gauge"),
        MetricType::HISTOGRAM => (full, "histogram"),
        MetricType::SUMMARY => (full, "summary"),
        MetricType::UNTYPED => (full, "unknown"),
    };
    let _ = writeln!(out, "# TYPE {name} {kind}");
    let _ = writeln!(out, "# HELP {name} {}", escaped(family.help()));
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => {
                sample(
                    out,
                    &format!("{name}_total"),
                    metric,
                    None,
                    metric.get_counter().get_value(),
                );
            }
            MetricType::HISTOGRAM => encode_histogram(out, name, metric),
            _ => sample(out, name, metric, None, metric.get_gauge().get_value()),
        }
    }
}

fn encode_histogram(out: &mut String, name: &str, metric: &Metric) {
    let histogram = metric.get_histogram();
    let bucket = format!("{name}_bucket");
    for step in histogram.get_bucket() {
        let bound = number(step.upper_bound());
        sample(
            out,
            &bucket,
            metric,
            Some(&bound),
            step.cumulative_count() as f64,
        );
    }
    let count = histogram.get_sample_count() as f64;
    sample(out, &bucket, metric, Some("+Inf"), count);
    sample(out, &format!("{name}_count"), metric, None, count);
    sample(
        out,
        &format!("{name}_sum"),
        metric,
        None,
        histogram.get_sample_sum(),
    );
}

fn sample(out: &mut String, name: &str, metric: &Metric, bound: Option<&str>, value: f64) {
    out.push_str(name);
    let labels: &[LabelPair] = metric.get_label();
    if !labels.is_empty() || bound.is_some() {
        out.push('{');
        for (index, label) in labels.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = write!(
                out,
                "{comma}{}=\"{}\"",
                label.name(),
                escaped(label.value())
            );
        }
        if let Some(bound) = bound {
            let comma = if labels.is_empty() { "" } else { "," };
            let _ = write!(out, "{comma}le=\"{bound}\"");
        }
        out.push('}');
    }
    let _ = writeln!(out, " {}", number(value));
}

fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else {
        value.to_string()
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

    use super::*;

    #[test]
    fn counters_lose_the_suffix_in_the_family_and_the_text_ends_with_eof() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("a_total", "Help \"x\"."), &["l"]).expect("ok");
        registry.register(Box::new(counter.clone())).expect("ok");
        counter.with_label_values(&["v\\w"]).inc_by(3);
        let text = encode(&registry.gather());
        assert_eq!(
            text,
            "# TYPE a counter\n# HELP a Help \\\"x\\\".\na_total{l=\"v\\\\w\"} 3\n# EOF\n"
        );
    }

    #[test]
    fn histograms_have_an_infinite_bucket_equal_to_their_count() {
        let registry = Registry::new();
        let options = HistogramOpts::new("h_seconds", "H.").buckets(vec![0.5, 1.0]);
        let histogram = Histogram::with_opts(options).expect("ok");
        registry.register(Box::new(histogram.clone())).expect("ok");
        histogram.observe(0.7);
        histogram.observe(7.0);
        let text = encode(&registry.gather());
        assert!(text.contains("h_seconds_bucket{le=\"0.5\"} 0\n"), "{text}");
        assert!(text.contains("h_seconds_bucket{le=\"1\"} 1\n"), "{text}");
        assert!(text.contains("h_seconds_bucket{le=\"+Inf\"} 2\n"), "{text}");
        assert!(text.contains("h_seconds_count 2\n"), "{text}");
    }
}
