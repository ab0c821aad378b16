//! Requests to the leader of a partition, wherever it is by now.
//!
//! Owns: following a lead that moves, and trying again. Must never: hide that an earlier attempt
//! may have been carried out.

use std::time::Duration;

use barrage_model::PartitionId;
use barrage_wire::{ErrorCode, Frame, Request, Response};
use tokio::time::Instant;

use crate::connection::decode;
use crate::error::ClientError;
use crate::pause::Pause;
use crate::route::Routes;

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A group that was just made, and its partition just moved: so long it may be unknown there.
const OPENING: Duration = Duration::from_secs(1);

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// The server may hold its answer back for so long.
    pub(crate) wait: Duration,
    /// When it has failed for so long it is not sent again.
    pub(crate) patience: Duration,
}

/// What a leader said.
pub(crate) struct Answer {
    pub(crate) server: String,
    pub(crate) frame: Frame,
    /// An earlier attempt may have been carried out.
    pub(crate) is_repeated: bool,
}

impl Answer {
    pub(crate) fn decode(&self) -> Result<Response<'_>, ClientError> {
        decode(&self.server, &self.frame)
    }

    pub(crate) fn wrong(&self) -> ClientError {
        self.broken("an answer to another question".to_owned())
    }

    pub(crate) fn broken(&self, cause: String) -> ClientError {
        ClientError::Protocol { server: self.server.clone(), cause }
    }
}

/// A request that failed, and the server that was asked, if one could be.
struct Failure {
    server: Option<String>,
    error: ClientError,
}

/// Asks the leader of `partition`; again while that is of use and `terms` allow it. `request` is
/// given how long the answer may be held back, in milliseconds. Only for requests that may be
/// carried out twice.
pub(crate) async fn ask(
    routes: &Routes,
    partition: PartitionId,
    terms: Terms,
    request: impl Fn(u32) -> Request<'static>,
) -> Result<Answer, ClientError> {
    let until = Instant::now() + terms.wait;
    let mut pause = Pause::new(PAUSE_MIN, PAUSE_MAX);
    let mut trouble_since = None;
    let mut is_repeated = false;
    loop {
        let wait = until.saturating_duration_since(Instant::now());
        let request = request(u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
        let Failure { server, error } = match ask_once(routes, partition, &request, wait).await {
            Ok((server, frame)) => return Ok(Answer { server, frame, is_repeated }),
            Err(failure) => failure,
        };
        is_repeated |= server.is_some() && error.is_retriable() && !error.is_refused_untouched();
        let moved =
            server.as_ref().is_some_and(|server| routes.handle_error(partition, server, &error));
        let opening = error.code() == Some(ErrorCode::UnknownGroup);
        let patience = if opening { terms.patience.min(OPENING) } else { terms.patience };
        let since = *trouble_since.get_or_insert_with(Instant::now);
        let hopeless = !(error.is_retriable() || moved || opening);
        if hopeless || since.elapsed() >= patience {
            return Err(error);
        }
        if moved && let Err(error) = routes.refresh(server.as_deref()).await {
            // Gone for good, or nobody there to ask: the latter is tried again.
            if !error.is_retriable() {
                return Err(error);
            }
        }
        tokio::time::sleep(error.retry_after().unwrap_or_else(|| pause.next())).await;
    }
}

/// One attempt. An error reply is an error here.
async fn ask_once(
    routes: &Routes,
    partition: PartitionId,
    request: &Request<'_>,
    wait: Duration,
) -> Result<(String, Frame), Failure> {
    let connection = match routes.live(partition) {
        Some(connection) => connection,
        None => {
            let connected = routes.connect(partition).await;
            connected.map_err(|error| Failure { server: None, error })?
        }
    };
    let server = connection.server().to_owned();
    let answer = connection.ask_for(request, wait).await;
    match answer.and_then(|frame| decode(&server, &frame).map(|_| frame.clone())) {
        Ok(frame) => Ok((server, frame)),
        Err(error) => Err(Failure { server: Some(server), error }),
    }
}
