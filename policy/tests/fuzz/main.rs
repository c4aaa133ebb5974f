//! Documents that mean harm, by the million: valid ones mutated as text and as values, and noise. Whatever comes is
//! read or refused: no panic, nothing that takes long, no more memory than is bounded.
//!
//! `cargo xtask fuzz policy --minutes 30` runs this for longer; `make test` for some seconds.

mod memory;
mod mutate;
mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use countersign_policy::identity::{FIRST_CIDR, cidr_labels};
use countersign_policy::lint::lint;
use countersign_policy::objects::{Namespace, Node, Pod};
use countersign_policy::verdicts::{Manifests, World};
use countersign_policy::yaml::{self, Document};
use countersign_policy::{Settings, parse};
use memory::Counting;
use mutate::{Mutator, Rng};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Documents where no time is given.
const DOCUMENTS: u64 = 20_000;
/// No text takes this much of a processor, however slow it is.
const HANG: Duration = Duration::from_secs(20);
/// Most memory for one text, whatever its length: the most values there may be, each in a map of its own.
const MOST_MEMORY: usize = 768 << 20;

/// What a run has seen.
#[derive(Debug, Default)]
struct Tally {
    texts: u64,
    syntax: u64,
    documents: u64,
    accepted: u64,
    slowest: Duration,
    most_memory: usize,
}

/// One text through everything that reads documents; what is accepted is compiled and linted.
fn feed(text: &str, tally: &mut Tally) -> Vec<Document> {
    let mut accepted = Vec::new();
    match yaml::parse(text) {
        Ok(documents) => {
            for document in documents {
                tally.documents += 1;
                if read(&document) {
                    accepted.push(document);
                }
            }
        }
        Err(error) => {
            tally.syntax += 1;
            assert!(error.line >= 1 && !error.message.is_empty(), "{error:?}");
        }
    }
    // As from an API server.
    if let Ok(value) = serde_json::from_str(text) {
        let document = Document::from_value(value);
        tally.documents += 1;
        if read(&document) && accepted.is_empty() {
            accepted.push(document);
        }
    }
    tally.accepted += accepted.len() as u64;
    compile(&accepted);
    accepted
}

fn read(document: &Document) -> bool {
    let kinds = [
        Pod::from_document(document).is_ok(),
        Namespace::from_document(document).is_ok(),
        Node::from_document(document).is_ok(),
    ];
    match parse(document, &Settings::default()) {
        Ok(policy) => {
            assert!(!policy.id.name.is_empty() && kinds == [false; 3], "{policy:?}");
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            kinds.contains(&true)
        }
    }
}

/// Makes a small cluster of what was accepted, and the maps of every pod in it.
fn compile(documents: &[Document]) {
    let mut manifests = Manifests::new(Settings::default());
    for document in seeds::cluster().iter().chain(documents) {
        // A name may be there already.
        let _ = manifests.add(document);
    }
    let _ = lint(&manifests);
    let mut repository = World::new(manifests).into_repository();
    for (number, net) in (FIRST_CIDR..).zip(repository.cidrs()) {
        repository.upsert_identity(number, cidr_labels(net));
    }
    let identities: Vec<u32> = repository.identities().map(|(identity, _)| identity).collect();
    let before: Vec<_> = identities.iter().map(|identity| repository.resolve(*identity, 1)).collect();
    for id in repository.policies().map(|policy| policy.id.clone()).collect::<Vec<_>>() {
        let _ = repository.conditions(&id);
        repository.remove_policy(&id);
    }
    for (identity, before) in identities.iter().zip(before) {
        let _ = countersign_policy::diff(&before, &repository.resolve(*identity, 1));
    }
}

/// Feeds one text and holds it against the bounds; what breaks them is shown whole.
fn check(text: &str, origin: &str, tally: &mut Tally) -> Vec<Document> {
    let (started, mark) = (processor_time(), memory::mark());
    let fed = catch_unwind(AssertUnwindSafe(|| feed(text, tally)));
    let (took, memory) = (processor_time() - started, memory::peak_since(mark));
    tally.texts += 1;
    tally.slowest = tally.slowest.max(took);
    tally.most_memory = tally.most_memory.max(memory);
    let fine = fed.is_ok() && took < HANG && memory < MOST_MEMORY;
    assert!(fine, "{origin}: {took:?}, {memory} bytes, panicked: {}\n{text:?}", fed.is_err());
    fed.unwrap_or_default()
}

/// What this thread has had of a processor: a machine that has better things to do makes nothing a hang.
fn processor_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the kernel tells how long a thread has run"))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn mutated_documents_and_noise_do_no_harm() {
    let seed = number("CS_FUZZ_SEED").unwrap_or(1);
    let time = number("CS_FUZZ_SECONDS").map(Duration::from_secs);
    let (started, mut told) = (Instant::now(), Instant::now());
    let mut mutator = Mutator::new(Rng::new(seed), seeds::texts());
    let mut tally = Tally::default();
    while time.map_or(tally.texts < DOCUMENTS, |time| started.elapsed() < time) {
        let text = mutator.next_text();
        let accepted = check(&text, &format!("seed {seed}, text {}", tally.texts), &mut tally);
        if !accepted.is_empty() {
            mutator.keep(text, accepted.into_iter().map(|document| document.value));
        }
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            println!("{:?}: {tally:?}", started.elapsed());
        }
    }
    println!("fuzzed for {:?} from seed {seed}: {tally:?}", started.elapsed());
    // A mutator that breaks everything, or nothing, tests nothing.
    assert!(tally.accepted * 50 > tally.texts, "hardly anything is accepted: {tally:?}");
    assert!(tally.accepted < tally.documents, "nothing is refused: {tally:?}");
}

/// Shapes that take the most memory for their length.
#[test]
fn the_worst_shapes_are_bounded() {
    let mut tally = Tally::default();
    let most = countersign_policy::limits::TEXT_BYTES;
    // Room for what stands around it.
    let fill = |piece: &str| piece.repeat((most - 2_000) / piece.len());
    let shapes = [
        fill("- {a: 1}\n"),
        fill("- [1]\n"),
        fill("- x\n"),
        format!("[{}]", fill("{},")),
        format!("[{}]", fill("[],")),
        format!("{{\"a\":[{}{{}}]}}", fill("{\"a\":{}},")),
        format!("a: &a {{b: {{c: d}}}}\nb: [{}]", fill("*a,")),
        format!("a: &a {}\nb: [{}]", "x".repeat(1000), fill("*a,")),
        format!("x: {}", "&a [".repeat(60)) + &"x".repeat(1 << 20) + &"]".repeat(60),
        format!("{{\"kind\":\"List\",\"items\":[{}{{}}]}}", fill("{\"kind\":\"a\"},")),
        (0..300_000).map(|n| format!("k{n}: 1\n")).collect::<String>(),
        fill("---\na: 1\n"),
    ];
    for (index, shape) in shapes.iter().enumerate() {
        assert!(shape.len() <= most, "shape {index}: {} bytes", shape.len());
        let mark = memory::mark();
        drop(yaml::parse(shape));
        let memory = memory::peak_since(mark);
        println!("shape {index}: {} MiB", memory >> 20);
        tally.most_memory = tally.most_memory.max(memory);
        assert!(memory < MOST_MEMORY, "shape {index}: {memory} bytes");
    }
    println!("worst shapes: {} MiB", tally.most_memory >> 20);
}

#[test]
fn ten_megabytes_are_refused_before_they_are_read() {
    let json = format!("{{\"a\":[{}1]}}", "1,".repeat(5 << 20));
    let yaml = "a: [1, 2]\n---\n".repeat((10 << 20) / 14 + 1);
    for text in [json, yaml, "\u{0}".repeat(10 << 20), "[".repeat(10 << 20)] {
        assert!(text.len() >= 10 << 20);
        let mark = memory::mark();
        assert!(yaml::parse(&text).unwrap_err().message.contains("bytes of text"));
        assert!(memory::peak_since(mark) < 1 << 16, "it was looked at");
    }
}
