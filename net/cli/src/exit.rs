//! Exit codes: the one place where errors become numbers and words.

use std::io::{self, Write};
use std::process::ExitCode;

use barrage_client::{ClientError, ErrorKind};
use barrage_wire::ErrorCode;

/// Something failed that no other code names.
pub(crate) const FAILURE: u8 = 1;
/// The command line was wrong.
pub(crate) const USAGE: u8 = 2;
/// The topic, partition, group or file named does not exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// No server answers.
pub(crate) const UNREACHABLE: u8 = 5;
/// It exists already.
pub(crate) const CONFLICT: u8 = 6;

/// The command did its work, and the cluster is not well.
pub(crate) const UNHEALTHY: u8 = 7;

/// Prints the error, with what to do about it, and gives its exit code. Whoever reads our output
/// and goes away (`| head`) is no error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    say(&format!("barrage: {error:#}"));
    let refused = error.downcast_ref::<ClientError>();
    if refused.and_then(ClientError::code) == Some(ErrorCode::UnknownTopic) {
        say("  `barrage topic ls` shows what there is, `barrage topic create` makes one.");
    } else if refused.and_then(ClientError::code) == Some(ErrorCode::UnknownGroup) {
        say("  `barrage group ls` shows what there is, `barrage group create` makes one.");
    } else if refused.and_then(ClientError::code) == Some(ErrorCode::ProducerHeld) {
        say("  Stop it, or wait until it is gone (produce --stand-by), or end it (--take-over).");
    } else if refused.and_then(ClientError::code) == Some(ErrorCode::NotLeader) {
        say("  No node that was asked leads it. Perhaps a leader is being elected just now;");
        say("  else name more nodes with --server, and see `barrage cluster status`.");
    } else if let Some(fix) = refused.and_then(ClientError::fix) {
        say(&format!("  {fix}"));
    }
    ExitCode::from(code(error))
}

/// Words for people, on stderr. A closed stderr is no reason to fail.
pub(crate) fn say(words: &str) {
    drop(writeln!(io::stderr().lock(), "{words}"));
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return match error.kind() {
            ErrorKind::NotFound => NOT_FOUND,
            ErrorKind::Conflict => CONFLICT,
            ErrorKind::Unreachable => UNREACHABLE,
            ErrorKind::Usage => USAGE,
            ErrorKind::Other => FAILURE,
        };
    }
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => NOT_FOUND,
        _ => FAILURE,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn every_kind_of_error_has_its_code() {
        let unreachable = ClientError::Unreachable {
            server: "db1:7400".to_owned(),
            stage: barrage_client::Stage::Connect,
            cause: "refused".to_owned(),
        };
        let missing = ClientError::NoSuchPartition { partition: 7.into(), partitions: 4 };
        let table = [
            (anyhow::Error::from(unreachable), UNREACHABLE),
            (anyhow::Error::from(missing), NOT_FOUND),
            (anyhow::Error::from(io::Error::from(io::ErrorKind::NotFound)), NOT_FOUND),
            (anyhow::anyhow!("other"), FAILURE),
        ];
        for (error, expected) in table {
            let error = Err::<(), _>(error).context("while testing").unwrap_err();
            assert_eq!(code(&error), expected, "{error:#}");
        }
    }
}
