//! The table during the demonstration: redrawn on a terminal, otherwise printed as occasional lines.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    time::Duration,
};

use peertally_lab::{self as lab, SubscriberRow};

use super::{
    participants::{Participants, ROLES, Role},
    report::human,
};

/// Time between two lines where the output is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Content of the screen.
pub(super) struct Screen {
    terminal: bool,
    lines: usize,
    last_line: Option<Duration>,
    last_bytes: [u64; ROLES.len()],
    last_time: Duration,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            lines: 0,
            last_line: None,
            last_bytes: [0; ROLES.len()],
            last_time: Duration::ZERO,
        }
    }

    /// Shows the present state.
    pub(super) fn show(
        &mut self,
        elapsed: Duration,
        rows: &[SubscriberRow],
        participants: &Participants<'_>,
        events: usize,
    ) {
        let sums = ROLES.iter().enumerate().map(|(index, _)| split(index, rows));
        let sums: Vec<(u64, u64)> = sums.collect();
        if self.terminal {
            self.redraw(elapsed, &sums, participants, events);
        } else if self.last_line.is_none_or(|last| elapsed - last >= LINE_EVERY) {
            self.last_line = Some(elapsed);
            let parts: Vec<_> = sums
                .iter()
                .enumerate()
                .map(|(index, (p2p, rest))| format!("s{}: P2P {}, other {}", index + 1, human(*p2p), human(*rest)))
                .collect();
            println!("  {:>3} s  {}; events: {events}", elapsed.as_secs(), parts.join(" | "));
        }
    }

    fn redraw(&mut self, elapsed: Duration, sums: &[(u64, u64)], participants: &Participants<'_>, events: usize) {
        let mut text = format!(
            "  {:<14}{:<22}{:>14}{:>14}{:>16}{:>14}\n",
            "subscriber", "what it does", "P2P", "P2P rate", "other traffic", "(web client)"
        );
        let seconds = (elapsed - self.last_time).as_secs_f64().max(0.001);
        for (index, Role { name, .. }) in ROLES.iter().enumerate() {
            let (p2p, rest) = sums[index];
            let rate = (p2p.saturating_sub(self.last_bytes[index])) as f64 / seconds;
            self.last_bytes[index] = p2p;
            // Writing to a string cannot fail.
            writeln!(
                text,
                "  {:<14}{name:<22}{:>14}{:>14}{:>16}{:>14}",
                lab::subscriber_v4(index as u8 + 1).to_string(),
                human(p2p),
                format!("{}/s", human(rate as u64)),
                human(rest),
                human(participants.web_bytes(index))
            )
            .ok();
        }
        self.last_time = elapsed;
        writeln!(text, "  {} s, events fired: {events}. Counted by the XDP program, IP bytes.", elapsed.as_secs()).ok();
        if self.lines > 0 {
            // Cursor up, erase to the end of the screen (ECMA-48).
            print!("\x1b[{}A\x1b[J", self.lines);
        }
        print!("{text}");
        self.lines = text.lines().count();
    }
}

/// P2P bytes and other bytes of one subscriber, both its addresses.
pub(super) fn split(index: usize, rows: &[SubscriberRow]) -> (u64, u64) {
    let own = rows.iter().filter(|row| row.is_of(index as u8 + 1));
    own.fold((0, 0), |(p2p, rest), row| {
        let bytes = row.bytes_up + row.bytes_down;
        if row.is_p2p() { (p2p + bytes, rest) } else { (p2p, rest + bytes) }
    })
}
