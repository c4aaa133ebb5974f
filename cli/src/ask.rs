//! Asks all agents at once.

use std::future::Future;

use countersign_agent_api::{Client, ClientError, Request};
use futures::future::join_all;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::output::Output;
use crate::target::{Target, Targets};

/// What one agent said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OnNode<T> {
    /// Node of the agent, where several were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What it said.
    #[serde(flatten)]
    pub value: T,
}

/// What all agents said, in the order of their nodes.
#[derive(Debug)]
pub struct Answers<T> {
    /// Those that answered.
    pub values: Vec<OnNode<T>>,
    /// Those that did not, and why.
    pub failures: Vec<(Target, ClientError)>,
}

/// Asks each agent for one value.
pub async fn call<T: DeserializeOwned>(targets: &Targets, request: &Request) -> Answers<T> {
    gather(targets, |socket| async move { Client::connect(socket).await?.call(request).await }).await
}

/// Asks each agent for a list, and makes one of all.
pub async fn list<T: DeserializeOwned>(targets: &Targets, request: &Request) -> Answers<T> {
    let lists =
        gather(targets, |socket| async move { Client::connect(socket).await?.list::<T>(request).await });
    let Answers { values, failures } = lists.await;
    let items = values.into_iter().flat_map(|OnNode { node, value }| {
        value.into_iter().map(move |value| OnNode { node: node.clone(), value })
    });
    Answers { values: items.collect(), failures }
}

async fn gather<'a, T, F>(targets: &'a Targets, ask: impl Fn(&'a std::path::Path) -> F) -> Answers<T>
where
    F: Future<Output = Result<T, ClientError>> + 'a,
{
    let asked = targets.all.iter().map(|target| ask(&target.socket));
    let mut answers = Answers { values: Vec::new(), failures: Vec::new() };
    for (target, outcome) in targets.all.iter().zip(join_all(asked).await) {
        match outcome {
            Ok(value) => answers.values.push(OnNode { node: target.node.clone(), value }),
            Err(error) => answers.failures.push((target.clone(), error)),
        }
    }
    answers
}

impl<T> Answers<T> {
    /// Says on stderr who did not answer, why, and what to do. True where all did.
    pub fn complain(&self, out: &Output) -> bool {
        for (target, error) in &self.failures {
            out.complain_of(target, error);
        }
        self.failures.is_empty()
    }
}
