//! The configuration file: TOML, whose tables are the parts of a key's name. Every mistake is told
//! with file, line and key.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use barrage_model::ByteSize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::expression::{Expression, Expressions, TooLarge};
use super::{Config, ConfigError};

/// A longer file is refused: all settings, each with a page of comment, take less.
const FILE_SIZE_MAX: ByteSize = ByteSize::kib(64);

/// Reads the file's text, one byte beyond the limit at most.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_SIZE_MAX.0 + 1).read_to_end(&mut bytes)?;
    // What is cut off by the limit is refused for its length, whatever the cut did to the text.
    if bytes.len() as u64 > FILE_SIZE_MAX.0 {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Applies the settings of `text`, which was read from `name`.
pub(super) fn apply(config: &mut Config, name: &str, text: &str) -> Result<(), ConfigError> {
    if text.len() as u64 > FILE_SIZE_MAX.0 {
        return Err(ConfigError::new(name, format!("longer than {FILE_SIZE_MAX}")));
    }
    let mut file = File { name, text, table: String::new(), seen: Vec::new() };
    let mut expressions = Expressions::new(text);
    while let Some(next) = expressions.next() {
        let next = next.map_err(|TooLarge { at }| file.error(at, "too large for a setting"))?;
        file.apply(config, &next)?;
    }
    Ok(())
}

/// A file that is being applied.
struct File<'a> {
    name: &'a str,
    text: &'a str,
    /// The table that the last header named.
    table: String,
    /// What has been set: keys, so there are never more than keys.
    seen: Vec<String>,
}

impl File<'_> {
    fn error(&self, at: usize, reason: impl ToString) -> ConfigError {
        ConfigError::new(format!("{}:{}", self.name, line_of(self.text, at)), reason)
    }

    fn apply(
        &mut self,
        config: &mut Config,
        expression: &Expression<'_>,
    ) -> Result<(), ConfigError> {
        let Expression { text, at, is_header } = *expression;
        let table = DeTable::parse(text).map_err(|error| {
            self.error(at + error.span().map_or(0, |span| span.start), error.message())
        })?;
        if is_header {
            self.table.clear();
        }
        let prefix = std::mem::take(&mut self.table);
        let last = self.apply_table(config, at, &prefix, table.get_ref())?;
        self.table = if is_header { last } else { prefix };
        Ok(())
    }

    /// Sets what is in a table; gives the name of the last table in it.
    fn apply_table(
        &mut self,
        config: &mut Config,
        start: usize,
        prefix: &str,
        table: &DeTable<'_>,
    ) -> Result<String, ConfigError> {
        // In the order of the file: the first mistake is the one that is told.
        let mut entries: Vec<(&Spanned<_>, &Spanned<DeValue<'_>>)> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut last = prefix.to_owned();
        for (key, value) in entries {
            let name = match prefix {
                "" => key.get_ref().to_string(),
                prefix => format!("{prefix}.{}", key.get_ref()),
            };
            let at = start + key.span().start;
            let text = match value.get_ref() {
                DeValue::Table(table) => {
                    last = self.apply_table(config, start, &name, table)?;
                    continue;
                }
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Boolean(value) => value.to_string(),
                other => {
                    let reason = format!(
                        "{name}: text, a number or a boolean expected, not an {}",
                        other.type_str()
                    );
                    return Err(self.error(at, reason));
                }
            };
            if self.seen.contains(&name) {
                return Err(self.error(at, format!("{name} is set twice")));
            }
            config.set(&name, &text).map_err(|reason| self.error(at, reason))?;
            self.seen.push(name);
        }
        Ok(last)
    }
}

/// The 1-based line of a byte.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    before.filter(|byte| **byte == b'\n').count() + 1
}
