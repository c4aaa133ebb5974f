//! One conversation with the kernel.

use std::io::ErrorKind;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlMessage};
use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use zeroize::Zeroizing;

use super::answers::Answers;
use super::{Error, Wiped};
use crate::limits::NETLINK_ANSWER;

/// A socket of its own. What goes through it is wiped.
pub(super) struct Talk {
    socket: TokioSocket,
    buffer: Zeroizing<Vec<u8>>,
    sequence: u32,
}

impl Talk {
    pub(super) fn begin() -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
        // A refusal would repeat the request, keys included.
        socket.socket_ref().set_cap_ack(true)?;
        Ok(Self { socket, buffer: Zeroizing::new(Vec::with_capacity(NETLINK_ANSWER)), sequence: 0 })
    }

    /// The number of WireGuard's family. None: the kernel has none.
    pub(super) async fn family(&mut self) -> Result<Option<u16>, Error> {
        let name = GenlCtrlAttrs::FamilyName(WireguardMessage::family_name().to_owned());
        let question = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
        let request = self.request(&GenlMessage::from_payload(question), NLM_F_ACK);
        let answers = match self.ask::<GenlCtrl>("finding its family", &request).await {
            Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(None),
            other => other?,
        };
        let id = answers.iter().flat_map(|answer| &answer.nlas).find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        id.map(Some).ok_or_else(|| Error::Malformed("its family has no number".to_owned()))
    }

    /// All of a device, in the parts that the kernel makes of it.
    pub(super) async fn dump(&mut self, family: u16, device: &str) -> Result<Vec<Wiped>, Error> {
        let name = WireguardAttribute::IfName(device.to_owned());
        let question = WireguardMessage { cmd: WireguardCmd::GetDevice, attributes: vec![name] };
        let mut question = GenlMessage::from_payload(question);
        question.set_resolved_family_id(family);
        let request = self.request(&question, NLM_F_DUMP);
        let parts = self.ask::<WireguardMessage>(&format!("reading {device}"), &request).await?;
        Ok(parts.into_iter().map(Wiped).collect())
    }

    /// One change of a device.
    pub(super) async fn set(&mut self, family: u16, message: &Wiped) -> Result<(), Error> {
        // The copy in between is wiped as well.
        let mut copy = Wiped(message.0.clone());
        let nothing = WireguardMessage { cmd: copy.0.cmd, attributes: Vec::new() };
        let mut question = GenlMessage::from_payload(std::mem::replace(&mut copy.0, nothing));
        question.set_resolved_family_id(family);
        let request = self.request(&question, NLM_F_ACK);
        copy.0 = question.payload;
        self.ask::<WireguardMessage>("changing a device", &request).await.map(|_| ())
    }

    fn request<F>(&mut self, question: &GenlMessage<F>, flags: u16) -> Zeroizing<Vec<u8>>
    where
        F: GenlFamily + netlink_packet_core::Emitable + std::fmt::Debug,
    {
        self.sequence = self.sequence.wrapping_add(1);
        encode(question, flags, self.sequence)
    }

    async fn ask<F>(&mut self, doing: &str, request: &[u8]) -> Result<Vec<F>, Error>
    where
        F: netlink_packet_core::ParseableParametrized<[u8], netlink_packet_generic::GenlHeader>
            + std::fmt::Debug,
    {
        self.socket.send(request).await?;
        let mut answers = Answers::new(self.sequence, doing);
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut *self.buffer).await {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // The socket had no room for an answer: it is lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Err(Error::Interrupted),
                other => other?,
            }
            // It may have been larger.
            if self.buffer.len() == self.buffer.capacity() {
                return Err(Error::Interrupted);
            }
            if answers.take(&self.buffer)? {
                return Ok(answers.finish());
            }
        }
    }
}

/// A request as it goes to the kernel.
pub(super) fn encode<F>(question: &GenlMessage<F>, flags: u16, sequence: u32) -> Zeroizing<Vec<u8>>
where
    F: GenlFamily + netlink_packet_core::Emitable + std::fmt::Debug,
{
    use netlink_packet_core::Emitable as _;
    let mut header = NetlinkHeader::default();
    let length = header.buffer_len() + netlink_packet_core::Emitable::buffer_len(question);
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    header.message_type = question.family_id();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut bytes = Zeroizing::new(vec![0; length]);
    header.emit(&mut bytes);
    netlink_packet_core::Emitable::emit(question, &mut bytes[header.buffer_len()..]);
    bytes
}
