//! The agent sends flow records of another crate's making: both ends are held to the same text.

use countersign_agent_api::FlowEvent;

#[test]
fn a_record_of_the_store_is_read_whole() {
    let text = include_str!("../../../flows/tests/fixtures/flow.json");
    let event: FlowEvent = serde_json::from_str(text).expect("a flow");
    // Written again, nothing is missing and nothing is renamed.
    assert_eq!(serde_json::to_string_pretty(&event).expect("JSON") + "\n", text);
    let lost: FlowEvent =
        serde_json::from_str(r#"{"lost":{"source":"ring_buffer","count":7}}"#).expect("a loss");
    assert_eq!(lost, FlowEvent::Lost { source: "ring_buffer".into(), count: 7 });
}
