//! What was found, as a table.

use std::time::Duration;

use crate::meter::Spent;

/// One thing that happened.
pub(crate) struct Phase {
    records: usize,
    spent: Spent,
    delays: Vec<Duration>,
}

impl Phase {
    /// So many records were written meanwhile.
    pub(crate) fn new(records: usize, spent: Spent) -> Self {
        Self { records, spent, delays: Vec::new() }
    }

    /// How long each took from its node to the edge.
    pub(crate) fn with_delays(mut self, mut delays: Vec<Duration>) -> Self {
        delays.sort();
        self.delays = delays;
        self
    }

    fn delay(&self, share: f64) -> String {
        // Truncation is meant: an index.
        let at = (self.delays.len() as f64 * share) as usize;
        let found = self.delays.get(at).or(self.delays.last());
        found.map_or_else(|| "-".into(), |delay| format!("{:.1}", delay.as_secs_f64() * 1000.0))
    }
}

/// All of it.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<String>,
    notes: Vec<String>,
}

impl Table {
    /// One row. It is shown at once on standard error, since the whole takes minutes.
    pub(crate) fn add(&mut self, place: &str, what: &str, phase: Phase) {
        let Spent { elapsed, etcd_cpu, own_cpu, syncs, sync_time, commit_time, resident, database } = phase.spent;
        let seconds = elapsed.as_secs_f64();
        let share = |time: Duration| 100.0 * time.as_secs_f64() / seconds;
        let rate = if phase.records == 0 { "-".into() } else { format!("{:.0}", phase.records as f64 / seconds) };
        let each = |time: Duration| match phase.records {
            0 => "-".into(),
            records => format!("{:.0}", 1e6 * time.as_secs_f64() / records as f64),
        };
        let row = format!(
            "| {place} | {what} | {seconds:.2} | {rate} | {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            phase.delay(0.5),
            phase.delay(0.99),
            phase.delay(1.0),
            each(etcd_cpu),
            each(own_cpu),
            share(etcd_cpu),
            share(own_cpu),
            syncs / seconds,
            share(sync_time),
            share(commit_time),
            resident / 1e6,
            database / 1e6,
        );
        say(&row);
        self.rows.push(row);
    }

    /// A sentence below the table.
    pub(crate) fn note(&mut self, text: String) {
        say(&text);
        self.notes.push(text);
    }

    /// The whole, as Markdown.
    #[expect(clippy::print_stdout, reason = "this is what the program is for")]
    pub(crate) fn print(&self) {
        println!(
            "| etcd's data | what | s | records/s | delay p50, ms | p99 | longest | etcd's CPU a record, us | nodes' and edge's | etcd, % of a CPU | nodes and edge, % | syncs/s | syncing, % of the time | committing, % | etcd's memory, MB | database, MB |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        self.rows.iter().for_each(|row| println!("{row}"));
        println!();
        self.notes.iter().for_each(|note| println!("- {note}"));
    }
}

#[expect(clippy::print_stderr, reason = "progress for whoever waits")]
fn say(text: &str) {
    eprintln!("{text}");
}
