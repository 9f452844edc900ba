//! The log, of every process and command.

/// Logs to standard error, the journal's under systemd: `RUST_LOG` filters, `info` by default.
pub fn to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A second call in one process changes nothing.
    let _ = log.without_time().with_target(false).try_init();
}
