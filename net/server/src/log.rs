//! Log lines: on stderr, `info` and above unless `BARRAGE_LOG` says otherwise, JSON with
//! `BARRAGE_LOG_FORMAT=json`. Never anything on stdout: that is for data.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Which lines: the filter syntax of tracing, for example `warn,barrage_native=debug`.
pub(crate) const VARIABLE: &str = "BARRAGE_LOG";
/// What other Rust programs use; taken when the first is not set.
const VARIABLE_COMMON: &str = "RUST_LOG";
/// `text` or `json`.
pub(crate) const VARIABLE_FORMAT: &str = "BARRAGE_LOG_FORMAT";
/// openraft tells about every vote and membership at `info` and `warn`, also when all is well; what
/// an operator needs of it, our own crates tell.
const DEFAULT: &str = "info,openraft=off";

/// Starts logging. Called once, before anything that logs.
pub(crate) fn start() -> Result<(), String> {
    let text = env::var(VARIABLE).or_else(|_| env::var(VARIABLE_COMMON));
    let text = text.unwrap_or_else(|_| DEFAULT.to_owned());
    let filter =
        EnvFilter::try_new(&text).map_err(|error| format!("{VARIABLE}={text}: {error}"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    match env::var(VARIABLE_FORMAT).as_deref() {
        Ok("json") => lines.json().init(),
        Ok("text") | Err(_) => lines.init(),
        Ok(other) => return Err(format!("{VARIABLE_FORMAT}={other}: text or json expected")),
    }
    Ok(())
}
