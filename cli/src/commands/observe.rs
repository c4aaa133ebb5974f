//! `observe`: past flows in the order of their times, then new ones as they come.

use anyhow::Result;
use countersign_agent_api::{
    Client, ClientError, FlowEvent, FlowFilter, ItemStream, ObserveRequest, Request,
};
use futures::future::join_all;
use tokio::sync::mpsc;

use super::code;
use crate::args::{FilterArgs, FlowFormat, ObserveArgs};
use crate::exit::Code;
use crate::limits::OBSERVE_QUEUE;
use crate::output::Output;
use crate::render::flow::line;
use crate::target::{Target, Targets};

/// Past flows shown where nothing was said about them.
const DEFAULT_LAST: u32 = 20;

pub(super) async fn run(targets: &Targets, args: &ObserveArgs, out: &Output) -> Result<Code> {
    let last = args.last.unwrap_or(if args.follow { 0 } else { DEFAULT_LAST });
    let request =
        Request::Observe(ObserveRequest { follow: args.follow, last, filter: filter(&args.filter) });
    if let Err(error) = request.validate() {
        return Err(ClientError::Agent(error).into());
    }
    let opened = join_all(targets.all.iter().map(|target| open(target, &request))).await;
    let mut all_answered = true;
    let mut streams = Vec::new();
    for (target, stream) in targets.all.iter().zip(opened) {
        match stream {
            Ok(stream) => streams.push((target.clone(), stream)),
            Err(error) => {
                out.complain_of(target, &error);
                all_answered = false;
            }
        }
    }
    let ended_well = if args.follow {
        follow(streams, args.output, out).await?
    } else {
        past(streams, last, args.output, out).await?
    };
    Ok(code(all_answered && ended_well))
}

async fn open(target: &Target, request: &Request) -> Result<ItemStream<FlowEvent>, ClientError> {
    Client::connect(&target.socket).await?.stream(request).await
}

type Streams = Vec<(Target, ItemStream<FlowEvent>)>;

/// What one node sent; an error is its last.
type Message = (Target, Result<FlowEvent, ClientError>);

/// The newest `last` of all nodes' past flows.
async fn past(streams: Streams, last: u32, format: FlowFormat, out: &Output) -> Result<bool> {
    let (mut flows, mut ended_well) = (Vec::new(), true);
    let mut messages = merge(streams);
    while let Some((target, event)) = messages.recv().await {
        match event {
            Ok(event) => flows.push((target, event)),
            Err(error) => {
                out.complain_of(&target, &error);
                ended_well = false;
            }
        }
    }
    // RFC 3339 times with the same number of digits sort as text.
    flows.sort_by(|(_, a), (_, b)| time(a).cmp(time(b)));
    let skip = flows.len().saturating_sub(usize::try_from(last).unwrap_or(usize::MAX));
    for (target, event) in &flows[skip..] {
        print(target, event, format, out)?;
    }
    Ok(ended_well)
}

fn time(event: &FlowEvent) -> &str {
    match event {
        FlowEvent::Flow(flow) => &flow.time,
        FlowEvent::Lost { .. } => "",
    }
}

async fn follow(streams: Streams, format: FlowFormat, out: &Output) -> Result<bool> {
    let mut ended_well = true;
    let mut messages = merge(streams);
    while let Some((target, event)) = messages.recv().await {
        match event {
            Ok(event) => print(&target, &event, format, out)?,
            Err(error) => {
                out.complain_of(&target, &error);
                ended_well = false;
            }
        }
    }
    Ok(ended_well)
}

/// One queue of what all nodes send. A full queue holds the nodes' agents up, who then count what we miss.
fn merge(streams: Streams) -> mpsc::Receiver<Message> {
    let (sender, receiver) = mpsc::channel(OBSERVE_QUEUE);
    for (target, mut stream) in streams {
        let sender = sender.clone();
        tokio::spawn(async move {
            while let Some(event) = stream.next().await {
                if sender.send((target.clone(), event)).await.is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

fn print(target: &Target, event: &FlowEvent, format: FlowFormat, out: &Output) -> Result<()> {
    match format {
        FlowFormat::Json => out.json_line(event)?,
        FlowFormat::Compact | FlowFormat::Wide => {
            out.text(&line(event, target.node.as_deref(), format == FlowFormat::Wide, out.paint))?;
        }
    }
    Ok(())
}

fn filter(args: &FilterArgs) -> FlowFilter {
    FlowFilter {
        namespace: args.namespace.clone(),
        pod: args.pod.clone(),
        from_pod: args.from_pod.clone(),
        to_pod: args.to_pod.clone(),
        identity: args.identity.clone(),
        verdict: args.verdict.clone(),
        drop_reason: args.drop_reason.clone(),
        protocol: args.protocol.clone(),
        port: args.port.clone(),
        ip: args.ip.clone(),
        policy: args.policy.clone(),
        direction: args.direction.clone(),
    }
}
