//! What of a peer goes on in another process: its sessions, and the newest initiation that was seen.
//! A handshake that is under way does not: it is begun anew.

use std::sync::Arc;
use std::time::Duration;

use countersign_wg_proto::PublicKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::handshake::{STAMP, SessionKeys};
use crate::peer::{Action, Context, Peer};
use crate::replay::Replay;
use crate::session::Session;

/// A session on its way.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct SessionState {
    local: u32,
    remote: u32,
    born: u64,
    initiator: bool,
    send: [u8; 32],
    receive: [u8; 32],
    next: u64,
    window_next: u64,
    window: Vec<u64>,
}

/// A peer on its way.
#[derive(Serialize, Deserialize)]
pub struct PeerState {
    public: [u8; 32],
    newest: [u8; STAMP],
    handshake: Option<Duration>,
    previous: Vec<SessionState>,
    current: Option<SessionState>,
    next: Option<SessionState>,
    /// Packets that wait for a session.
    staged: Vec<Vec<u8>>,
}

impl SessionState {
    fn of(session: &Arc<Session>) -> Self {
        let ((send, receive), next, replay) = session.parts();
        let (window_next, window) = replay.snapshot();
        Self {
            local: session.local,
            remote: session.remote,
            born: session.born,
            initiator: session.initiator,
            send: **send,
            receive: **receive,
            next,
            window_next,
            window,
        }
    }

    fn session(mut self) -> Option<Arc<Session>> {
        let keys = SessionKeys { send: Zeroizing::new(self.send), receive: Zeroizing::new(self.receive) };
        let replay = Replay::restored(self.window_next, std::mem::take(&mut self.window))?;
        let session = Session::new(self.local, self.remote, self.born, self.initiator, keys);
        Some(Arc::new(session.go_on(self.next, replay)))
    }
}

impl PeerState {
    /// Whose state this is.
    pub fn public(&self) -> PublicKey {
        PublicKey::from_bytes(self.public)
    }

    /// Bytes of the packets that wait.
    pub fn staged_bytes(&self) -> usize {
        self.staged.iter().map(Vec::len).sum()
    }
}

impl Peer {
    /// What goes on elsewhere. Nothing may be sealed or opened here after that.
    pub fn state(&self) -> PeerState {
        PeerState {
            public: *self.public.as_bytes(),
            newest: self.newest,
            handshake: self.handshake,
            previous: self.previous.iter().map(SessionState::of).collect(),
            current: self.current.as_ref().map(SessionState::of),
            next: self.next.as_ref().map(SessionState::of),
            staged: self.staged.iter().cloned().collect(),
        }
    }

    /// Goes on with it. A session that cannot be read is left out: a handshake makes another one.
    pub fn resume(&mut self, state: PeerState, world: &mut Context<'_>, out: &mut Vec<Action>) {
        self.wipe(out);
        self.newest = state.newest;
        self.handshake = state.handshake;
        self.previous = state.previous.into_iter().filter_map(SessionState::session).collect();
        self.current = state.current.and_then(SessionState::session);
        self.next = state.next.and_then(SessionState::session);
        let sessions = self.previous.iter().chain(&self.current).chain(&self.next);
        out.extend(sessions.map(|session| Action::Install(Arc::clone(session))));
        self.resume_timers(world.now);
        for packet in state.staged {
            self.stage(packet, world, out);
        }
    }
}
