//! Judges the demonstration. Pure: takes the collected data, returns findings.

use anyhow::{Result, bail};

use super::{
    live::split,
    participants::{ROLES, Role},
    report::{DemoOutcome, human},
};

/// Share of headers and protocol messages that IP bytes may hold beyond the payload that a client reports.
const OVERHEAD: f64 = 0.15;

/// One expectation of the demonstration, and whether it holds.
pub(super) struct Finding {
    holds: bool,
    text: String,
}

/// Every expectation of the demonstration.
pub(super) fn findings(outcome: &DemoOutcome) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |holds: bool, text: String| findings.push(Finding { holds, text });
    for (index, Role { name, torrent, web }) in ROLES.iter().enumerate() {
        let number = index + 1;
        let (p2p, other) = split(index, &outcome.rows);
        if torrent.is_some() {
            let payload = outcome.account.torrent[index].map_or(0, |reported| reported.received + reported.sent);
            let most = (payload as f64 * (1.0 + OVERHEAD)) as u64;
            add(
                payload >= outcome.account.file_bytes && (payload..=most).contains(&p2p),
                format!(
                    "subscriber {number} ({name}): {} of BitTorrent counted; its client reports {} of payload",
                    human(p2p),
                    human(payload)
                ),
            );
        } else {
            add(p2p == 0, format!("subscriber {number} ({name}): {} counted as P2P protocol traffic", human(p2p)));
        }
        if *web {
            let payload = outcome.account.web[index];
            let most = (payload as f64 * (1.0 + OVERHEAD)) as u64;
            add(
                payload > 0 && (payload..=most).contains(&other),
                format!(
                    "subscriber {number} ({name}): {} unclassified; its web client reports {} of pages",
                    human(other),
                    human(payload)
                ),
            );
        }
    }
    let labelled: Vec<_> = outcome.rows.iter().filter(|row| row.is_p2p() && row.protocol != "bittorrent").collect();
    add(labelled.is_empty(), format!("protocols that nobody spoke: {}", labelled.len()));
    add(
        outcome.counted.packets + outcome.counted.skipped == outcome.frames,
        format!(
            "{} frames received by the interfaces, {} counted",
            outcome.frames,
            outcome.counted.packets + outcome.counted.skipped
        ),
    );
    let subscriber = outcome.event["subscriber"]["block"].as_str().unwrap_or("nobody");
    add(
        outcome.event["policy"] == "demo" && outcome.webhooks > 0,
        format!("policy `demo` fired for {subscriber}, and both hooks got the event"),
    );
    findings
}

/// Prints the findings and a sentence that sums them up.
///
/// # Errors
/// One of them does not hold.
pub(super) fn give(findings: &[Finding]) -> Result<()> {
    println!("\nVerdict");
    for finding in findings {
        println!("  {} {}", if finding.holds { "ok    " } else { "WRONG " }, finding.text);
    }
    let wrong = findings.iter().filter(|finding| !finding.holds).count();
    if wrong > 0 {
        bail!("{wrong} of {} expectations did not hold: see the lines marked WRONG", findings.len());
    }
    println!(
        "  PASS: Peertally saw the BitTorrent transfers and who made them, left ordinary web traffic unclassified, called\n  \
         the hooks at the threshold, and counted every packet that crossed the router without touching one."
    );
    Ok(())
}
