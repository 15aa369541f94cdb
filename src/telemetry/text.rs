//! What a scrape is written in: OpenMetrics, or the older text format of Prometheus for a client that asks for nothing newer.

/// OpenMetrics 1.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What came before it.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Content type and body for a client with that `Accept`. Whoever does not name the older format alone gets OpenMetrics.
pub fn negotiated(accept: Option<&str>, open_metrics: String) -> (&'static str, String) {
    match accept {
        Some(accept) if accept.contains("text/plain") && !accept.contains("application/openmetrics-text") => {
            (TEXT, to_text(&open_metrics))
        }
        _ => (OPEN_METRICS, open_metrics),
    }
}

/// The older format has neither units nor an end, knows no `info`, and names a counter with its suffix everywhere.
fn to_text(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ').map_or("", |(_, words)| words);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            out.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}
