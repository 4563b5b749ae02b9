//! What a run has measured, for people and as JSON.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::identity::TraceIds;
use super::process::Usage;
use super::{Outcome, Transport};

/// Counts of the measured time: requests that were *answered* in it.
pub struct Tally {
    begun: Option<quanta::Instant>,
    measured: Option<Duration>,
    acked_requests: u64,
    acked_spans: u64,
    acked_bytes: u64,
    rejected_spans: u64,
    refused_requests: u64,
    failed_requests: u64,
    /// Of acknowledged requests, in nanoseconds.
    ack: Histogram<u64>,
}

/// Longer than any run waits for an answer.
const ACK_NS_MAX: u64 = 3600 * 1_000_000_000;

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            begun: None,
            measured: None,
            acked_requests: 0,
            acked_spans: 0,
            acked_bytes: 0,
            rejected_spans: 0,
            refused_requests: 0,
            failed_requests: 0,
            // Bounded by hand: a histogram that resizes itself does so in `record` only, and
            // `saturating_record` would clamp everything to its first bound of 2 ns.
            ack: Histogram::new_with_bounds(1, ACK_NS_MAX, 3).expect("three digits are allowed"),
        }
    }
}

impl Tally {
    pub fn begin(&mut self, now: quanta::Instant) {
        self.begun = Some(now);
    }

    pub fn finish(&mut self, now: quanta::Instant) {
        self.measured = self.begun.map(|begun| now.saturating_duration_since(begun));
    }

    /// Ignored outside the measured time.
    pub fn settle(&mut self, outcome: Outcome, spans: usize, bytes: usize, latency: Duration) {
        if self.begun.is_none() || self.measured.is_some() {
            return;
        }
        let rejected = match outcome {
            Outcome::Acked => 0,
            Outcome::AckedInPart(rejected) => rejected,
            Outcome::Refused => return self.refused_requests += 1,
            Outcome::Failed => return self.failed_requests += 1,
        };
        self.acked_requests += 1;
        self.acked_spans += (spans as u64).saturating_sub(rejected);
        self.acked_bytes += bytes as u64;
        self.rejected_spans += rejected;
        self.ack.saturating_record(latency.as_nanos() as u64);
    }
}

impl Tally {
    /// Adds what another thread measured in the same time.
    fn merge(&mut self, other: Tally) {
        self.measured = self.measured.max(other.measured);
        self.acked_requests += other.acked_requests;
        self.acked_spans += other.acked_spans;
        self.acked_bytes += other.acked_bytes;
        self.rejected_spans += other.rejected_spans;
        self.refused_requests += other.refused_requests;
        self.failed_requests += other.failed_requests;
        self.ack.add(&other.ack).expect("both have the same bounds");
    }
}

/// What was asked for; a figure without it means nothing.
pub struct Setting {
    pub transport: Transport,
    /// Of the generator.
    pub threads: usize,
    pub connections: usize,
    pub in_flight: usize,
    pub rate: Option<f64>,
    pub span_bytes: usize,
    pub spans_per_trace: usize,
    pub spans_per_request: usize,
    pub requests_per_trace: usize,
    pub services: usize,
    pub interleave: usize,
    pub trace_ids: TraceIds,
    pub error_ratio: f64,
    pub slow_ratio: f64,
    pub seed: u64,
    pub request_bytes_mean: f64,
}

pub struct Report {
    pub setting: Setting,
    pub tally: Tally,
    /// Open loop: requests whose moment passed without a free lane.
    pub behind_requests: u64,
    /// Unanswered when the run was given up.
    pub given_up_requests: usize,
    /// The generator at begin and end of the measured time.
    pub own: (Usage, Usage),
    pub server: Option<(Usage, Usage)>,
}

impl Report {
    /// Adds another thread's. CPU times are of whole processes and stay the first one's.
    pub fn merge(&mut self, other: Report) {
        self.setting.threads += other.setting.threads;
        self.tally.merge(other.tally);
        self.behind_requests += other.behind_requests;
        self.given_up_requests += other.given_up_requests;
    }

    pub fn to_json(&self) -> Value {
        let Report { setting, tally, .. } = self;
        let seconds = self.seconds();
        let server = self.server.map(|(before, after)| {
            let mut cost = self.cost(before, after);
            cost["rss_bytes"] = json!(after.rss_bytes);
            cost["rss_begin_bytes"] = json!(before.rss_bytes);
            cost["rss_peak_bytes"] = json!(after.rss_peak_bytes);
            cost
        });
        json!({
            "setting": {
                "transport": self.transport(),
                "threads": setting.threads,
                "connections": setting.connections,
                "in_flight": setting.in_flight,
                "rate": setting.rate,
                "span_bytes": setting.span_bytes,
                "spans_per_trace": setting.spans_per_trace,
                "spans_per_request": setting.spans_per_request,
                "requests_per_trace": setting.requests_per_trace,
                "services": setting.services,
                "interleave": setting.interleave,
                "trace_ids": setting.trace_ids.to_string(),
                "error_ratio": setting.error_ratio,
                "slow_ratio": setting.slow_ratio,
                "seed": setting.seed,
                "request_bytes_mean": setting.request_bytes_mean.round(),
            },
            "seconds": seconds,
            "requests": tally.acked_requests,
            "spans": tally.acked_spans,
            "bytes": tally.acked_bytes,
            "spans_per_second": ratio(tally.acked_spans as f64, seconds),
            "gb_per_second": ratio(tally.acked_bytes as f64 / 1e9, seconds),
            "ack_ms": {
                "p50": self.ack_ms(0.5), "p90": self.ack_ms(0.9), "p99": self.ack_ms(0.99), "max": self.ack_ms(1.0),
            },
            "rejected_spans": tally.rejected_spans,
            "refused_requests": tally.refused_requests,
            "failed_requests": tally.failed_requests,
            "behind_requests": self.behind_requests,
            "given_up_requests": self.given_up_requests,
            "client": self.cost(self.own.0, self.own.1),
            "server": server,
        })
    }

    pub fn to_text(&self) -> String {
        let Report { setting, tally, .. } = self;
        let seconds = self.seconds();
        let pace = match setting.rate {
            Some(rate) => format!("open loop at {rate} spans/s"),
            None => "closed loop".to_owned(),
        };
        let mut text = format!(
            "{}, {} spans/request ({:.0} B), {} B/span, {} spans/trace, {} connections × {} in flight, {pace}\n",
            self.transport(),
            setting.spans_per_request,
            setting.request_bytes_mean,
            setting.span_bytes,
            setting.spans_per_trace,
            setting.connections,
            setting.in_flight,
        );
        let mut line = |name: &str, value: String| {
            writeln!(text, "  {name:<8} {value}").expect("a string takes everything");
        };
        line(
            "rate",
            format!(
                "{:.0} spans/s   {:.3} GB/s   {:.0} requests/s   over {seconds:.2} s",
                ratio(tally.acked_spans as f64, seconds),
                ratio(tally.acked_bytes as f64 / 1e9, seconds),
                ratio(tally.acked_requests as f64, seconds),
            ),
        );
        line(
            "ack ms",
            format!(
                "p50 {:.2}   p90 {:.2}   p99 {:.2}   max {:.2}",
                self.ack_ms(0.5),
                self.ack_ms(0.9),
                self.ack_ms(0.99),
                self.ack_ms(1.0)
            ),
        );
        line(
            "not ok",
            format!(
                "{} requests refused, {} failed, {} behind the rate, {} given up; {} spans rejected",
                tally.refused_requests,
                tally.failed_requests,
                self.behind_requests,
                self.given_up_requests,
                tally.rejected_spans
            ),
        );
        line("client", self.cost_text(self.own.0, self.own.1));
        if let Some((before, after)) = self.server {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            line("server", self.cost_text(before, after));
            line(
                "memory",
                format!(
                    "RSS {:.1} MiB, peak {:.1} MiB",
                    mib(after.rss_bytes),
                    mib(after.rss_peak_bytes)
                ),
            );
        }
        text
    }

    fn seconds(&self) -> f64 {
        self.tally.measured.unwrap_or_default().as_secs_f64()
    }

    fn transport(&self) -> &'static str {
        match self.setting.transport {
            Transport::Grpc => "grpc",
            Transport::Http => "http",
        }
    }

    fn ack_ms(&self, quantile: f64) -> f64 {
        self.tally.ack.value_at_quantile(quantile) as f64 / 1e6
    }

    fn cost(&self, before: Usage, after: Usage) -> Value {
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        json!({
            "cpu_seconds": cpu,
            "cpu_seconds_per_gb": ratio(cpu, self.tally.acked_bytes as f64 / 1e9),
            "cpu_seconds_per_million_spans": ratio(cpu, self.tally.acked_spans as f64 / 1e6),
        })
    }

    fn cost_text(&self, before: Usage, after: Usage) -> String {
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        format!(
            "{cpu:.2} core-s: {:.3} a GB, {:.3} a million spans",
            ratio(cpu, self.tally.acked_bytes as f64 / 1e9),
            ratio(cpu, self.tally.acked_spans as f64 / 1e6),
        )
    }
}

/// Zero of nothing: a run without an acknowledgement has no rates.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(settle: impl Fn(&mut Tally)) -> Report {
        let begin = quanta::Clock::new().now();
        let mut tally = Tally::default();
        settle(&mut tally);
        tally.begin(begin);
        settle(&mut tally);
        tally.finish(begin + Duration::from_secs(2));
        settle(&mut tally);
        let cpu = |millis| Usage {
            cpu: Duration::from_millis(millis),
            rss_bytes: 7,
            rss_peak_bytes: 9,
        };
        let setting = Setting {
            transport: Transport::Grpc,
            threads: 1,
            connections: 1,
            in_flight: 1,
            rate: None,
            span_bytes: 380,
            spans_per_trace: 8,
            spans_per_request: 100,
            requests_per_trace: 1,
            services: 1,
            interleave: 1,
            error_ratio: 0.0,
            slow_ratio: 0.0,
            trace_ids: TraceIds::Random,
            seed: 1,
            request_bytes_mean: 1.0,
        };
        Report {
            setting,
            tally,
            behind_requests: 0,
            given_up_requests: 0,
            own: (cpu(0), cpu(100)),
            server: Some((cpu(1000), cpu(2500))),
        }
    }

    #[test]
    fn latencies_come_out_as_they_went_in() {
        let report = measured(|tally| {
            for millis in 1..=100 {
                tally.settle(Outcome::Acked, 100, 50_000_000, Duration::from_millis(millis));
            }
        })
        .to_json();
        for (quantile, expect) in [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("max", 100.0)] {
            let millis = report["ack_ms"][quantile].as_f64().expect("a number");
            assert!(
                (millis / expect - 1.0).abs() < 0.002,
                "{quantile}: {millis}, not {expect}"
            );
        }
    }

    #[test]
    fn threads_add_up() {
        let one = |millis| {
            measured(|tally| tally.settle(Outcome::Acked, 100, 1_000, Duration::from_millis(millis)))
        };
        let mut both = one(1);
        both.merge(one(3));
        let report = both.to_json();
        assert_eq!((&report["spans"], &report["seconds"]), (&json!(200), &json!(2.0)));
        assert_eq!(report["setting"]["threads"], 2);
        let slowest = report["ack_ms"]["max"].as_f64().expect("a number");
        assert!((slowest / 3.0 - 1.0).abs() < 0.002, "{slowest}");
    }

    #[test]
    fn only_what_is_answered_in_the_measured_time_counts() {
        let report = measured(|tally| {
            tally.settle(Outcome::Acked, 100, 500_000_000, Duration::from_millis(1));
            tally.settle(
                Outcome::AckedInPart(40),
                100,
                500_000_000,
                Duration::from_millis(1),
            );
            tally.settle(Outcome::Refused, 100, 500_000_000, Duration::from_millis(1));
            tally.settle(Outcome::Failed, 100, 500_000_000, Duration::from_millis(1));
        })
        .to_json();
        assert_eq!((&report["requests"], &report["spans"]), (&json!(2), &json!(160)));
        assert_eq!(report["spans_per_second"], 80.0);
        assert_eq!(report["gb_per_second"], 0.5);
        assert_eq!(
            (&report["refused_requests"], &report["failed_requests"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(report["rejected_spans"], 40);
        assert_eq!(report["server"]["cpu_seconds_per_gb"], 1.5);
        assert_eq!(report["client"]["cpu_seconds_per_gb"], 0.1);
        assert_eq!(report["server"]["rss_peak_bytes"], 9);
    }
}
