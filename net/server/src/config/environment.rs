//! Settings from the environment: `BARRAGE_` and the key in capitals, dots as underscores.

use super::{Config, ConfigError, hint, key};

const PREFIX: &str = "BARRAGE_";
/// Variables of client commands and logging, which are no settings of a node.
const OTHERS: [&str; 4] = ["SERVER", "OUTPUT", "LOG", "LOG_FORMAT"];

/// Takes every `BARRAGE_*` variable; one that means nothing is told, not refused: a variable may
/// be meant for another version on the same machine.
pub(super) fn apply(
    config: &mut Config,
    environment: &[(String, String)],
) -> Result<(), ConfigError> {
    for (variable, value) in environment {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        if OTHERS.contains(&name) {
            continue;
        }
        match key::KEYS.iter().find(|key| variable_name(key.name) == name) {
            Some(key) => {
                config.set(key.name, value).map_err(|reason| ConfigError::new(variable, reason))?;
            }
            None => warn_unknown(variable, name),
        }
    }
    Ok(())
}

fn warn_unknown(variable: &str, name: &str) {
    let names: Vec<String> = key::KEYS.iter().map(|key| variable_name(key.name)).collect();
    match hint::nearest(name, names.iter().map(String::as_str)) {
        Some(near) => tracing::warn!(variable, "unknown variable; did you mean {PREFIX}{near}?"),
        None => tracing::warn!(variable, "unknown variable"),
    }
}

fn variable_name(key: &str) -> String {
    key.replace('.', "_").to_uppercase()
}
