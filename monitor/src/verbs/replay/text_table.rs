//! The result of a replay as columns for people: P2P protocol traffic first, then by bytes.

use std::{
    cmp::Reverse,
    io::{self, Write},
};

use monitor_common::abi::protocol::Protocol;

use super::report::ReplayReport;

/// Rows of one table that are shown; JSON has them all.
const MAX_ROWS: usize = 50;

/// Writes the tables.
///
/// # Errors
/// The output cannot be written.
pub(super) fn write(report: &ReplayReport, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{} IP packets, {} IP bytes in {} capture{} ({} engine)",
        thousands(report.packets),
        thousands(report.bytes),
        report.captures,
        if report.captures == 1 { "" } else { "s" },
        report.engine
    )?;
    if report.one_way {
        writeln!(out, "one direction only: every flow counts as answered")?;
    }
    for row in &report.skipped {
        writeln!(out, "not counted as IP: {} packets, {}", thousands(row.packets), row.reason)?;
    }
    protocols(report, out)?;
    subscribers(report, out)?;
    unanswered(report, out)?;
    flows(report, out)
}

fn protocols(report: &ReplayReport, out: &mut impl Write) -> io::Result<()> {
    let mut rows: Vec<_> = report.protocols.iter().collect();
    rows.sort_by_key(|row| (is_other(row.protocol), Reverse(row.bytes)));
    let cells = rows.iter().map(|row| {
        let share = format!("{:.1} %", row.bytes as f64 * 100.0 / report.bytes.max(1) as f64);
        let numbers = [row.flows, row.packets, row.bytes].map(thousands);
        [row.protocol.to_owned(), row.confidence.to_owned()].into_iter().chain(numbers).chain([share]).collect()
    });
    let header = ["PROTOCOL", "CONFIDENCE", "FLOWS", "PACKETS", "BYTES", "SHARE"];
    columns(out, &header, 2, cells.collect(), 0)
}

fn subscribers(report: &ReplayReport, out: &mut impl Write) -> io::Result<()> {
    let mut rows: Vec<_> = report.subscribers.iter().collect();
    rows.sort_by_key(|row| (is_other(row.protocol), Reverse(row.bytes_up + row.bytes_down)));
    let cells = rows.iter().take(MAX_ROWS).map(|row| {
        let subscriber =
            if row.realm.is_empty() { row.subscriber.clone() } else { format!("{}@{}", row.subscriber, row.realm) };
        let numbers = [row.flows, row.packets_up, row.bytes_up, row.packets_down, row.bytes_down].map(thousands);
        [subscriber, row.protocol.to_owned(), row.confidence.to_owned()].into_iter().chain(numbers).collect()
    });
    let header = ["SUBSCRIBER", "PROTOCOL", "CONFIDENCE", "FLOWS", "PKTS UP", "BYTES UP", "PKTS DOWN", "BYTES DOWN"];
    columns(out, &header, 3, cells.collect(), rows.len().saturating_sub(MAX_ROWS))
}

fn unanswered(report: &ReplayReport, out: &mut impl Write) -> io::Result<()> {
    if report.unanswered.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nCounted for no subscriber: nobody answered, or not by a subscriber's doing")?;
    let mut rows: Vec<_> = report.unanswered.iter().collect();
    rows.sort_by_key(|row| (is_other(row.protocol), Reverse(row.bytes)));
    let cells = rows.iter().map(|row| {
        let numbers = [row.flows, row.packets, row.bytes].map(thousands);
        [row.protocol.to_owned(), row.confidence.to_owned()].into_iter().chain(numbers).collect()
    });
    columns(out, &["UNANSWERED", "CONFIDENCE", "FLOWS", "PACKETS", "BYTES"], 2, cells.collect(), 0)
}

fn flows(report: &ReplayReport, out: &mut impl Write) -> io::Result<()> {
    let mut rows: Vec<_> = report.flows.iter().flatten().collect();
    rows.sort_by_key(|row| (is_other(row.protocol), Reverse(row.bytes)));
    let cells = rows.iter().take(MAX_ROWS).map(|row| {
        let end = |address, port| if port == 0 { format!("{address}") } else { endpoint(address, port) };
        let names = [
            row.l4.clone(),
            end(row.a, row.a_port),
            end(row.b, row.b_port),
            row.protocol.to_owned(),
            row.confidence.to_owned(),
            if row.rule.is_empty() { "-" } else { row.rule }.to_owned(),
            if row.answered { "yes" } else { "no" }.to_owned(),
        ];
        names.into_iter().chain([row.packets, row.bytes].map(thousands)).collect()
    });
    let header = ["L4", "A (FIRST SENDER)", "B", "PROTOCOL", "CONFIDENCE", "RULE", "ANSWERED", "PACKETS", "BYTES"];
    columns(out, &header, 7, cells.collect(), rows.len().saturating_sub(MAX_ROWS))
}

fn endpoint(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// Whether a protocol label is one of those that name no protocol.
fn is_other(label: &str) -> bool {
    label == Protocol::Unclassified.label() || label == Protocol::Fragment.label()
}

/// Writes one table: `left` columns aligned left, the others right. Nothing at all when it has no rows.
fn columns(out: &mut impl Write, header: &[&str], left: usize, rows: Vec<Vec<String>>, more: usize) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    let width = |column: usize| {
        std::iter::once(&header).chain(&rows).filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    writeln!(out)?;
    for row in std::iter::once(&header).chain(&rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = if column < left { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
            line.push_str(&cell);
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    if more > 0 {
        writeln!(out, "... and {} more; --format json lists all", thousands(more as u64))?;
    }
    Ok(())
}

/// A number with its digits in groups of three.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::replay::report::{FlowRow, ProtocolRow, SkippedRow, SubscriberRow};

    #[test]
    fn digits_are_grouped() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567, u64::MAX].map(thousands).join(" "),
            "0 999 1,000 1,234,567 18,446,744,073,709,551,615"
        );
    }

    #[test]
    fn tables_line_up_with_named_protocols_first() {
        let protocol =
            |protocol, confidence, flows, packets, bytes| ProtocolRow { protocol, confidence, flows, packets, bytes };
        let report = ReplayReport {
            engine: "host",
            captures: 1,
            packets: 3,
            bytes: 4_000,
            skipped: vec![SkippedRow { reason: "not_ip", packets: 3 }],
            one_way: true,
            implausible: 0,
            protocols: vec![
                protocol("bittorrent", "signature", 1, 1, 1_000),
                protocol("unclassified", "none", 2, 2, 3_000),
            ],
            subscribers: vec![SubscriberRow {
                realm: String::new(),
                subscriber: "10.0.0.1/32".to_owned(),
                protocol: "bittorrent",
                confidence: "signature",
                flows: 1,
                packets_up: 1,
                bytes_up: 1_000,
                packets_down: 0,
                bytes_down: 0,
            }],
            unanswered: vec![protocol("unclassified", "none", 2, 2, 3_000)],
            flows: Some(vec![FlowRow {
                l4: "tcp".to_owned(),
                a: [10, 0, 0, 1].into(),
                a_port: 51_413,
                b: std::net::Ipv6Addr::LOCALHOST.into(),
                b_port: 6_881,
                protocol: "bittorrent",
                confidence: "signature",
                rule: "bt-handshake",
                answered: true,
                packets: 1,
                bytes: 1_000,
            }]),
        };
        let mut out = Vec::new();
        write(&report, &mut out).expect("writing to memory");
        let expected = "\
3 IP packets, 4,000 IP bytes in 1 capture (host engine)
one direction only: every flow counts as answered
not counted as IP: 3 packets, not_ip

PROTOCOL      CONFIDENCE  FLOWS  PACKETS  BYTES   SHARE
bittorrent    signature       1        1  1,000  25.0 %
unclassified  none            2        2  3,000  75.0 %

SUBSCRIBER   PROTOCOL    CONFIDENCE  FLOWS  PKTS UP  BYTES UP  PKTS DOWN  BYTES DOWN
10.0.0.1/32  bittorrent  signature       1        1     1,000          0           0

Counted for no subscriber: nobody answered, or not by a subscriber's doing

UNANSWERED    CONFIDENCE  FLOWS  PACKETS  BYTES
unclassified  none            2        2  3,000

L4   A (FIRST SENDER)  B           PROTOCOL    CONFIDENCE  RULE          ANSWERED  PACKETS  BYTES
tcp  10.0.0.1:51413    [::1]:6881  bittorrent  signature   bt-handshake  yes             1  1,000
";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
