//! `portsplice top`: what the node does, while it does it.

mod model;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::operator::Daemon;
use portsplice_control::api::Filter;
use portsplice_control::client::{Client, Failure};

use model::{Model, Order, Show, Snapshot};

/// How soon a signal or a key is noticed.
const TICK: Duration = Duration::from_millis(100);
/// How long the terminal may take to be restored once the end was asked for.
const GRACE: Duration = Duration::from_secs(1);

/// What `portsplice top` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: q quits, Tab switches between containers and connections, the arrows scroll. n, c, r, u, d and f
sort by name, connections, requests, bytes up, bytes down and the fast path's share.

Rates are averages over one interval. Connections that open and close within an interval
are not included.")]
pub(super) struct TopArgs {
    #[command(flatten)]
    daemon: Daemon,
    /// Update interval
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Sort order
    #[arg(long, value_enum, default_value_t = Order::Down)]
    sort: Order,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    if range.contains(&time) { Ok(time) } else { Err("write a time from 100ms to 1h".to_owned()) }
}

pub(super) fn run(args: &TopArgs) -> Result<()> {
    ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal(),
        "`top` needs a terminal; `portsplice connections --json` and `portsplice ps --json` are for programs"
    );
    let mut daemon = args.daemon.connect()?;
    // Before the terminal is changed: what is wrong with the daemon is read on the ordinary screen.
    let mut model = Model::new(args.sort, sample(&mut daemon)?);
    let ended = on_signals().context("cannot install signal handlers")?;
    // Also restores it when this panics.
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let shown = show(&mut terminal, &mut daemon, &mut model, args.interval, &ended);
    if is_gone(Some(&Timespec::default())) {
        // It takes no restoring, and nobody is there to read that; dropping would say so, to a stderr that is gone too.
        std::mem::forget(terminal);
        return Ok(());
    }
    ratatui::try_restore().context("cannot restore the terminal; run `reset`")?;
    shown
}

fn show(
    terminal: &mut DefaultTerminal,
    daemon: &mut Client,
    model: &mut Model,
    interval: Duration,
    ended: &AtomicBool,
) -> Result<()> {
    let mut next = Instant::now() + interval;
    loop {
        terminal.draw(|frame| view::draw(frame, model))?;
        loop {
            if ended.load(Relaxed) {
                return Ok(());
            }
            let left = next.saturating_duration_since(Instant::now());
            if event::poll(left.min(TICK))? {
                if let Event::Key(key) = event::read()?
                    && key.kind == KeyEventKind::Press
                    && !model.press(key)
                {
                    return Ok(());
                }
                break;
            }
            if left.is_zero() {
                model.update(sample(daemon)?);
                next = Instant::now() + interval;
                break;
            }
        }
    }
}

/// Asks for all that is shown.
fn sample(daemon: &mut Client) -> Result<Snapshot, Failure> {
    let at = Instant::now();
    Ok(Snapshot {
        at,
        stats: daemon.call("stats", &json!({}))?,
        containers: daemon.call("container.list", &json!({}))?,
        connections: daemon.call("connections.list", &Filter::default())?,
    })
}

/// Notes signals that ask for an end, and a terminal that is gone, so that the terminal is restored first.
///
/// What reads and writes the terminal need not come back from one that is gone (crossterm reads on and on when reading
/// fails) or stopped; so the process ends anyway, a little later.
fn on_signals() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&ended);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _within = runtime.enter();
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal)
    };
    if let Some(error) = signals.iter_mut().find_map(|signal| signal.as_mut().err()) {
        return Err(io::Error::new(error.kind(), error.to_string()));
    }
    std::thread::spawn(move || {
        runtime.block_on(async {
            let waiting = signals.iter_mut().flatten().map(|signal| Box::pin(signal.recv()));
            futures_util::future::select_all(waiting).await;
        });
        end(&noted);
    });
    let noted = Arc::clone(&ended);
    std::thread::spawn(move || {
        is_gone(None);
        end(&noted);
    });
    Ok(ended)
}

/// Whether the terminal is gone, which is waited for as long as `timeout` tells: poll(2) tells that, and nothing else, when
/// it is asked for nothing.
fn is_gone(timeout: Option<&Timespec>) -> bool {
    let stdin = io::stdin();
    loop {
        match rustix::event::poll(&mut [PollFd::new(&stdin, PollFlags::empty())], timeout) {
            Ok(0) if timeout.is_some() => return false,
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}

/// Asks for the end, and sees to it. When all goes well the process has ended before this returns.
fn end(noted: &AtomicBool) {
    noted.store(true, Relaxed);
    std::thread::sleep(GRACE);
    // By settings alone; to write what else it takes may be what does not come back.
    let _ = ratatui::crossterm::terminal::disable_raw_mode();
    std::process::exit(0);
}

impl Model {
    /// Does what a key asks for; false ends.
    fn press(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return false,
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Tab => {
                self.show = if self.show == Show::Containers { Show::Connections } else { Show::Containers };
                self.scroll = 0;
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(10),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            KeyCode::Home => self.scroll = 0,
            KeyCode::Char(key) => {
                if let Some(order) = Order::value_variants().iter().find(|order| order.key() == key) {
                    self.order = *order;
                }
            }
            _ => {}
        }
        true
    }
}
