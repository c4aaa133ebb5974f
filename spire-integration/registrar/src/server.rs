//! SPIRE server's Entry API.

use std::collections::BTreeSet;

use countersign_certs::TrustDomain;
use countersign_spire_proto::{Entry, Existing};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::connection::{Connection, Target};
use crate::limits::{MAX_ANSWER_BYTES, MAX_LISTED, PAGE_ENTRIES};
use crate::message::{from_message, to_message};
use crate::spire::api::server::entry::v1::entry_client::EntryClient;
use crate::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, ListEntriesRequest,
};
use crate::spire::api::types;

/// Why a request came to nothing. What it may have done all the same is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// We have nothing to show, yet.
    #[error("{0}")]
    NoSvid(String),
    /// The server is away, or refuses the whole request.
    #[error("{0}")]
    Failed(String),
    /// The answer makes no sense.
    #[error("the server's answer makes no sense: {0}")]
    Answer(&'static str),
}

/// What became of one entry of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as asked.
    Done,
    /// It was not created, for one that is alike is there.
    Alike(Box<Existing>),
    /// There is none with that ID.
    NotFound,
    /// The server does not take it, and why.
    Refused(String),
}

/// A client of one server.
#[derive(Debug)]
pub struct Server {
    connection: Connection,
}

impl Server {
    /// Connects when it is used. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the target's name is none.
    pub fn new(target: &Target, domain: &TrustDomain) -> anyhow::Result<Self> {
        Ok(Self { connection: Connection::new(target, domain)? })
    }

    fn client(&mut self) -> Result<EntryClient<Channel>, ServerError> {
        let channel = self.connection.channel().map_err(ServerError::NoSvid)?;
        Ok(EntryClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }

    /// Resolves when there is another SVID to show than at the last request.
    pub(crate) async fn renewed(&mut self) {
        self.connection.renewed().await;
    }

    /// Every entry on the server, to the last page.
    ///
    /// # Errors
    /// If any page fails: half a list says nothing.
    pub async fn list(&mut self) -> Result<Vec<Existing>, ServerError> {
        let mut client = self.client()?;
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        let mut page_token = String::new();
        loop {
            let request =
                ListEntriesRequest { filter: None, output_mask: None, page_size: PAGE_ENTRIES, page_token };
            let answer = client.list_entries(request).await.map_err(failed)?.into_inner();
            found.extend(answer.entries.into_iter().map(from_message));
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
            if found.len() > MAX_LISTED || !seen.insert(page_token.clone()) {
                return Err(ServerError::Answer("its list of entries has no end"));
            }
        }
    }

    /// Creates entries; one outcome each, in order.
    ///
    /// # Errors
    /// If the request fails as a whole.
    pub async fn create(&mut self, entries: &[(String, Entry)]) -> Result<Vec<Outcome>, ServerError> {
        let request = BatchCreateEntryRequest { entries: messages(entries), output_mask: None };
        let answer = self.client()?.batch_create_entry(request).await.map_err(failed)?.into_inner();
        let outcomes = answer.results.into_iter().map(|result| {
            let (code, why) = status(result.status);
            match (code, result.entry) {
                (Code::AlreadyExists, Some(entry)) => Outcome::Alike(Box::new(from_message(entry))),
                _ => outcome(code, why),
            }
        });
        one_each(outcomes.collect(), entries.len())
    }

    /// Makes entries, which are there, be exactly these.
    ///
    /// # Errors
    /// If the request fails as a whole.
    pub async fn update(&mut self, entries: &[(String, Entry)]) -> Result<Vec<Outcome>, ServerError> {
        let request =
            BatchUpdateEntryRequest { entries: messages(entries), input_mask: None, output_mask: nothing() };
        let answer = self.client()?.batch_update_entry(request).await.map_err(failed)?.into_inner();
        let outcomes = answer.results.into_iter().map(|result| {
            let (code, why) = status(result.status);
            outcome(code, why)
        });
        one_each(outcomes.collect(), entries.len())
    }

    /// Deletes entries.
    ///
    /// # Errors
    /// If the request fails as a whole.
    pub async fn delete(&mut self, ids: &[String]) -> Result<Vec<Outcome>, ServerError> {
        let request = BatchDeleteEntryRequest { ids: ids.to_vec() };
        let answer = self.client()?.batch_delete_entry(request).await.map_err(failed)?.into_inner();
        let outcomes = answer.results.into_iter().map(|result| {
            let (code, why) = status(result.status);
            outcome(code, why)
        });
        one_each(outcomes.collect(), ids.len())
    }
}

fn messages(entries: &[(String, Entry)]) -> Vec<types::Entry> {
    entries.iter().map(|(id, entry)| to_message(id, entry)).collect()
}

/// Of an answer's entries, nothing: what they are is what was asked.
fn nothing() -> Option<types::EntryMask> {
    Some(types::EntryMask::default())
}

fn status(status: Option<types::Status>) -> (Code, String) {
    // No status would be a server that says nothing of an entry: not a success.
    status.map_or((Code::Unknown, "no status".to_owned()), |status| (Code::from(status.code), status.message))
}

fn outcome(code: Code, why: String) -> Outcome {
    match code {
        Code::Ok => Outcome::Done,
        Code::NotFound => Outcome::NotFound,
        _ => Outcome::Refused(format!("{code:?}: {why}")),
    }
}

fn one_each(outcomes: Vec<Outcome>, asked: usize) -> Result<Vec<Outcome>, ServerError> {
    match outcomes.len() == asked {
        true => Ok(outcomes),
        false => Err(ServerError::Answer("it has not one result for each entry")),
    }
}

#[allow(clippy::needless_pass_by_value)]
fn failed(status: Status) -> ServerError {
    ServerError::Failed(text(&status))
}

/// In the words of whoever answered; of a connection that failed, its cause.
pub(crate) fn text(status: &Status) -> String {
    let mut text = format!("{}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{}: {error}", status.code());
        cause = error.source();
    }
    text
}
