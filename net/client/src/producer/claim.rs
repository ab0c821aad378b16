//! The hold of a producer on a topic whose order is global: taken before anything is sent, kept by
//! heartbeats, given up at the end.
//!
//! Owns: under which id the topic is held. Must never: hold it again after it was lost.

use std::time::Duration;

use barrage_model::{PartitionId, ProducerId};
use barrage_wire::{ClaimKind, ErrorCode, InitProducerReply, ProducerClaim, Request, Response};
use tokio::time::{sleep, timeout};

use crate::error::ClientError;
use crate::leader::{self, Terms};
use crate::options::Rival;
use crate::pause::about;
use crate::route::Routes;

/// A topic whose order is global has one partition.
const PARTITION: PartitionId = PartitionId(0);
/// How often who waits for a topic asks for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long to try to give the topic up; after that the session runs out by itself.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// The topic is held.
#[derive(Debug)]
pub(super) struct Hold {
    producer: ProducerId,
    session: Duration,
}

impl Hold {
    /// Takes the topic under a fresh id.
    pub(super) async fn take(
        routes: &Routes,
        rival: Rival,
        session: Duration,
    ) -> Result<(Self, InitProducerReply), ClientError> {
        let patience = routes.client().pool().options().request_timeout;
        let kind = match rival {
            Rival::Refuse | Rival::Wait => ClaimKind::Hold,
            Rival::TakeOver => ClaimKind::TakeOver,
        };
        let mut identity = None;
        loop {
            let taken = async {
                // The same one again: it may hold the topic already, and the answer was lost.
                let identity = match &mut identity {
                    Some(identity) => *identity,
                    none => *none.insert(routes.client().init_producer().await?),
                };
                let hold = Self { producer: identity.producer, session };
                hold.claim(routes, kind, patience).await?;
                Ok((hold, identity))
            };
            match taken.await {
                Err(error) if rival == Rival::Wait && may_end(&error) => {
                    if error.code() == Some(ErrorCode::ProducerFenced) {
                        identity = None;
                    }
                    sleep(about(LOOK_EVERY)).await;
                }
                other => return other,
            }
        }
    }

    /// Keeps the topic; ends with the error that tells that it is lost.
    pub(super) async fn keep(&self, routes: &Routes) -> ClientError {
        // An attempt that is not answered leaves time for others, elsewhere.
        let within = self.session / 6;
        loop {
            sleep(self.session / 3).await;
            loop {
                match timeout(within, self.claim(routes, ClaimKind::Keep, within)).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) if is_over(&error) => return error,
                    Ok(Err(_)) => sleep(self.session / 24).await,
                    // Whoever does not answer may not lead any more.
                    Err(_) => drop(timeout(within, routes.refresh(None)).await),
                }
            }
        }
    }

    /// Gives the topic up, so that the next one need not wait.
    pub(super) async fn release(&self, routes: &Routes) {
        let release = self.claim(routes, ClaimKind::Release, RELEASE_WITHIN);
        drop(timeout(RELEASE_WITHIN, release).await);
    }

    async fn claim(
        &self,
        routes: &Routes,
        kind: ClaimKind,
        patience: Duration,
    ) -> Result<(), ClientError> {
        let (key, producer) = (routes.key(PARTITION), self.producer);
        let session_ms = u32::try_from(self.session.as_millis()).unwrap_or(u32::MAX);
        let request = |_| Request::ProducerClaim(ProducerClaim { key, producer, kind, session_ms });
        let terms = Terms { wait: Duration::ZERO, patience };
        let answer = leader::ask(routes, PARTITION, terms, request).await?;
        match answer.decode()? {
            Response::ProducerClaim => Ok(()),
            _ => Err(answer.wrong()),
        }
    }
}

/// Whether waiting may help: another producer is there, or has taken what was held for a moment
/// without a word, or nobody answers just now.
fn may_end(error: &ClientError) -> bool {
    let codes = [ErrorCode::ProducerHeld, ErrorCode::ProducerFenced];
    error.code().is_some_and(|code| codes.contains(&code)) || error.is_retriable()
}

/// Somebody else has the topic, or there is none.
fn is_over(error: &ClientError) -> bool {
    let codes = [ErrorCode::ProducerFenced, ErrorCode::UnknownTopic];
    error.code().is_some_and(|code| codes.contains(&code))
        || matches!(error, ClientError::TopicReplaced { .. })
}
