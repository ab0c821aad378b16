//! The hold of a producer on a topic whose order is global: taken before anything is sent, kept by
//! heartbeats, given up at the end.
//!
//! Owns: under which id the topic is held. Must never: go on after another producer has taken it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use barrage_model::{PartitionId, ProducerId};
use barrage_wire::{ClaimKind, ErrorCode, InitProducerReply, ProducerClaim, Request, Response};

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
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);

/// The topic is held, under the newest id.
#[derive(Debug)]
pub(super) struct Hold {
    producer: Mutex<ProducerId>,
    session: Duration,
}

impl Hold {
    /// Takes the topic under a fresh id.
    pub(super) async fn take(
        routes: &Routes,
        rival: Rival,
        session: Duration,
    ) -> Result<(Self, InitProducerReply), ClientError> {
        let identity = routes.client().init_producer().await?;
        let hold = Self { producer: Mutex::new(identity.producer), session };
        let kind = match rival {
            Rival::Refuse | Rival::Wait => ClaimKind::Hold,
            Rival::TakeOver => ClaimKind::TakeOver,
        };
        let patience = routes.client().pool().options().request_timeout;
        loop {
            match hold.claim(routes, kind, (identity.producer, None), patience).await {
                Ok(()) => return Ok((hold, identity)),
                Err(error) if is_held(&error) && rival == Rival::Wait => {
                    tokio::time::sleep(about(LOOK_EVERY)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes on under a fresh id.
    pub(super) async fn renew(&self, routes: &Routes) -> Result<InitProducerReply, ClientError> {
        let identity = routes.client().init_producer().await?;
        let before = self.producer();
        let ids = (identity.producer, Some(before));
        self.claim(routes, ClaimKind::Hold, ids, self.session).await?;
        *self.producer.lock().unwrap_or_else(PoisonError::into_inner) = identity.producer;
        Ok(identity)
    }

    /// Keeps the topic; ends with an error when that is over.
    pub(super) async fn keep(&self, routes: &Routes) -> ClientError {
        let every = self.session / 3;
        loop {
            tokio::time::sleep(every).await;
            let ids = (self.producer(), None);
            match self.claim(routes, ClaimKind::Hold, ids, every).await {
                Err(error) if is_over(&error) => return error,
                // It is asked again in time; if not, somebody else may come.
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Gives the topic up, so that the next one need not wait.
    pub(super) async fn release(&self, routes: &Routes) {
        let ids = (self.producer(), None);
        drop(self.claim(routes, ClaimKind::Release, ids, RELEASE_PATIENCE).await);
    }

    fn producer(&self) -> ProducerId {
        *self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(
        &self,
        routes: &Routes,
        kind: ClaimKind,
        (producer, instead_of): (ProducerId, Option<ProducerId>),
        patience: Duration,
    ) -> Result<(), ClientError> {
        let (key, session_ms) = (routes.key(PARTITION), self.session.as_millis());
        let session_ms = u32::try_from(session_ms).unwrap_or(u32::MAX);
        let claim = ProducerClaim { key, producer, instead_of, kind, session_ms };
        let request = |_| Request::ProducerClaim(claim);
        let terms = Terms { wait: Duration::ZERO, patience };
        let answer = leader::ask(routes, PARTITION, terms, request).await?;
        match answer.decode()? {
            Response::ProducerClaim => Ok(()),
            _ => Err(answer.wrong()),
        }
    }
}

fn is_held(error: &ClientError) -> bool {
    error.code() == Some(ErrorCode::ProducerHeld)
}

/// Somebody else has the topic, or there is none.
pub(super) fn is_over(error: &ClientError) -> bool {
    let codes = [ErrorCode::ProducerHeld, ErrorCode::ProducerFenced, ErrorCode::UnknownTopic];
    error.code().is_some_and(|code| codes.contains(&code))
        || matches!(error, ClientError::TopicReplaced { .. })
}
