//! The layout's version and the maps' names, in one place for the programs' object and its loader.

/// Raised with every change of a key, a value, or what they mean; it is part of the path of the pins.
pub const VERSION: u32 = 2;

/// The programs of the object, by name.
pub mod program {
    /// From a pod: tc ingress of its host-side device.
    pub const FROM_POD: &str = "cs_from_pod";
    /// To a pod: tc egress of its host-side device.
    pub const TO_POD: &str = "cs_to_pod";
    /// From the parking device: its tc ingress.
    pub const FROM_PARK: &str = "cs_from_park";
    /// To the wire: tc egress of the uplink.
    pub const TO_WIRE: &str = "cs_to_wire";
    /// From the wire: tc ingress of the uplink.
    pub const FROM_WIRE: &str = "cs_from_wire";
    /// To the encrypted device: its tc egress.
    pub const TO_WG: &str = "cs_to_wg";
    /// From the encrypted device: its tc ingress.
    pub const FROM_WG: &str = "cs_from_wg";
    /// All of them.
    pub const ALL: [&str; 7] = [FROM_POD, TO_POD, FROM_PARK, TO_WIRE, FROM_WIRE, TO_WG, FROM_WG];
}
