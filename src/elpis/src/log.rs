//! The log of a process: lines on standard error, more or fewer of them while an operator wants that.

use elpis_watch::log::{LogOrder, wanted};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Without ELPIS_LOG. openraft warns of every heartbeat that does not arrive, 20 lines a second and lost node for as
/// long as that lasts; that a node is lost, and since when, the master notes once as a failover. The SNMP library calls
/// every silent target an error: the check's own result says that.
const USUAL: &str = "info,openraft=warn,openraft::core::heartbeat=error,async_snmp=off";
/// An order that stands longer is looked at again: the timer does not count the time that the machine sleeps.
const LOOK: Duration = Duration::from_secs(60);

/// The filter of this process's log.
pub(crate) struct Log {
    start: String,
    filter: Handle<EnvFilter, Registry>,
}

/// Opens the log. ELPIS_LOG says how much it holds (e.g. `debug`, `info,elpis_probe=trace`).
pub(crate) fn to_stderr() -> Log {
    let given = std::env::var("ELPIS_LOG").ok().filter(|text| !text.is_empty());
    let start = given.clone().unwrap_or_else(|| USUAL.to_owned());
    let (start, filter, wrong) = match EnvFilter::builder().parse(&start) {
        Ok(filter) => (start, filter, None),
        Err(error) => (USUAL.to_owned(), EnvFilter::new(USUAL), Some(error)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    match is_journal() {
        true => registry.with(lines.with_writer(Journal)).init(),
        false => registry.with(lines.with_writer(std::io::stderr)).init(),
    }
    if let Some(error) = wrong {
        tracing::warn!(%error, "ELPIS_LOG is not understood and left out; e.g. ELPIS_LOG=info,elpis_probe=trace");
    }
    Log { start, filter: handle }
}

/// Whether systemd reads standard error for the journal: it names the stream, and children inherit the name.
fn is_journal() -> bool {
    let (Ok(named), Ok(stderr)) = (std::env::var("JOURNAL_STREAM"), std::fs::metadata("/proc/self/fd/2"))
    else {
        return false;
    };
    named == format!("{}:{}", stderr.dev(), stderr.ino())
}

/// Standard error that the journal reads: each line says how important it is, so that warnings are found.
struct Journal;

/// Lines of one event.
struct Lines<W> {
    /// As syslog counts it.
    priority: u8,
    to: W,
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Lines<std::io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        Lines { priority: 6, to: std::io::stderr() }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        let priority = match *meta.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        Lines { priority, ..self.make_writer() }
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let mut text = Vec::with_capacity(event.len() + 3);
        for line in event.split_inclusive(|byte| *byte == b'\n') {
            text.extend([b'<', b'0' + self.priority, b'>']);
            text.extend(line);
        }
        self.to.write_all(&text)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

impl Log {
    /// Follows what the node agent wants of this process's log; returns to the start by time alone.
    pub(crate) async fn follow(self) {
        let mut orders = wanted();
        let mut held = None;
        loop {
            let order = orders.borrow_and_update().clone().filter(|order| order.ms_left() > 0);
            if order != held {
                self.apply(order.as_ref());
                held.clone_from(&order);
            }
            let left = held.as_ref().map_or(LOOK, |order| Duration::from_millis(order.ms_left()).min(LOOK));
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(left), if held.is_some() => {}
            }
        }
    }

    fn apply(&self, order: Option<&LogOrder>) {
        let text = order.map_or_else(|| self.start.clone(), |order| whole(&order.directives));
        let done = EnvFilter::builder().parse(&text).map_err(|error| error.to_string());
        if let Err(error) = done.and_then(|filter| self.filter.reload(filter).map_err(|e| e.to_string())) {
            tracing::warn!(error, directives = text, "the log level stays as it is");
            return;
        }
        match order {
            Some(order) => {
                let seconds = order.ms_left().div_ceil(1000);
                tracing::info!(directives = order.directives, seconds, "log level changed for a while");
            }
            None => tracing::info!(directives = text, "log level back to what it was at the start"),
        }
    }
}

/// PURE: an order as the filter takes it. A level alone is meant for our own code: what libraries say at `debug` is
/// much, and is had by naming them.
fn whole(directives: &str) -> String {
    let mut text = USUAL.to_owned();
    for part in directives.split(',').map(str::trim) {
        text.push_str(if part.contains('=') { "," } else { ",elpis=" });
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_told_how_important_a_line_is() {
        let mut lines = Lines { priority: 4, to: Vec::new() };
        lines.write_all(b"WARN one\ntwo\n").unwrap();
        assert_eq!(lines.to, b"<4>WARN one\n<4>two\n");
    }

    #[test]
    fn a_level_alone_is_for_our_own_code() {
        assert_eq!(whole("debug"), format!("{USUAL},elpis=debug"));
        assert_eq!(whole("warn, openraft=info"), format!("{USUAL},elpis=warn,openraft=info"));
        for text in [whole("trace"), whole("off,sqlx=trace"), USUAL.to_owned()] {
            EnvFilter::builder().parse(&text).unwrap();
        }
    }
}
