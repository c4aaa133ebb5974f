//! One peer: its handshakes, its sessions, and what waits for them. Time, randomness and the free indices come from
//! the caller; what is to be done comes back as [`Action`]s.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use countersign_wg_proto::{PresharedKey, PublicKey};
use zeroize::Zeroizing;

use crate::cookie::Outgoing;
use crate::crypto::{Forged, Key};
use crate::handshake::{Identity, Initiated, Received, Remote, STAMP, SessionKeys, initiate};
use crate::limits::{
    INITIATION_PACE, JITTER, KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, SECOND,
    STAGED,
};
use crate::message::{COOKIE_REPLY, INITIATION, RESPONSE};
use crate::session::Session;
use crate::timers::{Due, Timers};

/// Where unpredictable bytes come from.
pub trait Random {
    /// Fills all of `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// What a peer needs to know of the world.
pub struct Context<'a> {
    /// The device's own key.
    pub own: &'a Identity,
    /// Nanoseconds of the boot clock.
    pub now: u64,
    /// Time since 1970.
    pub unix: Duration,
    /// The device's MTU: padding ends there.
    pub mtu: usize,
    /// Unpredictable.
    pub random: &'a mut dyn Random,
    /// The index is somebody's already.
    pub taken: &'a dyn Fn(u32) -> bool,
}

/// What is to be done, in this order.
pub enum Action {
    /// Send it to the peer.
    Transmit(Vec<u8>),
    /// Messages with this index are for a handshake of this peer.
    Await(u32),
    /// Messages with its index are for this session.
    Install(Arc<Session>),
    /// The index is nobody's any more.
    Retire(u32),
    /// The peer does not answer: perhaps because of the address that we send from.
    NewSource,
}

/// Retired sessions that messages may still be on their way for: two, since both sides may begin at once.
const PREVIOUS: usize = 2;
/// How often an initiation is repeated.
const ATTEMPTS: u32 = (REKEY_ATTEMPT_TIME / REKEY_TIMEOUT) as u32;

/// See the module.
pub struct Peer {
    pub(crate) public: PublicKey,
    /// With our own key; made when it is needed.
    shared: Option<Key>,
    preshared: Key,
    keepalive: u64,
    initiated: Option<Initiated>,
    outgoing: Outgoing,
    /// The newest initiation of the peer's: what is not newer is a replay.
    pub(crate) newest: [u8; STAMP],
    received_at: Option<u64>,
    sent_at: Option<u64>,
    attempts: u32,
    pub(crate) previous: VecDeque<Arc<Session>>,
    pub(crate) current: Option<Arc<Session>>,
    /// The peer has begun it, and has not used it yet.
    pub(crate) next: Option<Arc<Session>>,
    pub(crate) staged: VecDeque<Vec<u8>>,
    timers: Timers,
    /// Data came again before we had anything to say to the last.
    another_keepalive: bool,
    /// Asked for a new session when the last data came in the end of the old one.
    last_minute: bool,
    pub(crate) handshake: Option<Duration>,
}

impl Peer {
    /// A peer that was never heard of.
    pub fn new(public: PublicKey) -> Self {
        Self {
            public,
            shared: None,
            preshared: Zeroizing::new([0; 32]),
            keepalive: 0,
            initiated: None,
            outgoing: Outgoing::to(&public),
            newest: [0; STAMP],
            received_at: None,
            sent_at: None,
            attempts: 0,
            previous: VecDeque::new(),
            current: None,
            next: None,
            staged: VecDeque::new(),
            timers: Timers::default(),
            another_keepalive: false,
            last_minute: false,
            handshake: None,
        }
    }

    /// The time of the last handshake.
    pub fn last_handshake(&self) -> Option<Duration> {
        self.handshake
    }

    /// For the next handshake; sessions stay as they are.
    pub fn set_preshared(&mut self, key: Option<&PresharedKey>) {
        self.preshared = Zeroizing::new(key.map_or([0; 32], |key| *key.expose()));
    }

    /// Seconds; 0 is off. Whoever switches it on should [`keep_alive`](Self::keep_alive) at once.
    pub fn set_keepalive(&mut self, seconds: u16) {
        self.keepalive = u64::from(seconds) * SECOND;
        if self.keepalive == 0 {
            self.timers.persistent = None;
        }
    }

    /// The device has another key: nothing is sent under the old one any more.
    pub fn forget_identity(&mut self, out: &mut Vec<Action>) {
        self.shared = None;
        self.sent_at = None;
        self.wipe(out);
    }

    /// The session to send with.
    pub fn session(&self, now: u64) -> Option<&Arc<Session>> {
        self.current.as_ref().filter(|session| session.lives(now))
    }

    /// A packet waits for a session. The oldest makes place for the newest.
    pub fn stage(&mut self, packet: Vec<u8>, world: &mut Context<'_>, out: &mut Vec<Action>) {
        if self.staged.len() >= STAGED {
            self.staged.pop_front();
        }
        self.staged.push_back(packet);
        self.initiate(world, out);
    }

    /// Packets were sent with the session.
    pub fn sent(&mut self, world: &mut Context<'_>, out: &mut Vec<Action>) {
        if self.timers.silence.is_none() {
            let jitter = jitter(world);
            self.timers.silence = Some(world.now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter);
        }
        self.any_sent(world.now);
        self.keep_fresh(world, out);
    }

    /// Messages of this session have authenticated; `data`: not only empty ones.
    pub fn received(
        &mut self,
        session: &Arc<Session>,
        data: bool,
        world: &mut Context<'_>,
        out: &mut Vec<Action>,
    ) {
        if self.next.as_ref().is_some_and(|next| Arc::ptr_eq(next, session)) {
            let (old, next) = (self.current.take(), self.next.take());
            self.current = next;
            self.shelve(old, out);
            self.completed(world.unix);
            self.flush(world, out);
        }
        self.timers.silence = None;
        self.arm_persistent(world.now);
        if data {
            match self.timers.keepalive {
                None => self.timers.keepalive = Some(world.now + KEEPALIVE_TIMEOUT),
                Some(_) => self.another_keepalive = true,
            }
        }
        let ends = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;
        let old = |of: &Arc<Session>| of.initiator && world.now.saturating_sub(of.born) >= ends;
        if !self.last_minute && self.current.as_ref().is_some_and(old) {
            self.last_minute = true;
            self.initiate(world, out);
        }
    }

    /// Begins a handshake, if none was begun a moment ago.
    pub fn initiate(&mut self, world: &mut Context<'_>, out: &mut Vec<Action>) {
        self.attempts = 0;
        self.try_initiate(world, out);
    }

    fn try_initiate(&mut self, world: &mut Context<'_>, out: &mut Vec<Action>) {
        if self.sent_at.is_some_and(|at| world.now.saturating_sub(at) < REKEY_TIMEOUT) {
            return;
        }
        self.sent_at = Some(world.now);
        let (index, ephemeral) = (free_index(world), random(world));
        let Ok(shared) = self.shared(world.own) else { return };
        let remote = Remote { public: &self.public, shared: &shared };
        let Ok((mut message, begun)) = initiate(world.own, &remote, index, ephemeral, stamp(world.unix))
        else {
            return;
        };
        self.outgoing.finish(&mut message, world.now);
        if let Some(old) = self.initiated.replace(begun) {
            out.push(Action::Retire(old.index));
        }
        out.push(Action::Await(index));
        out.push(Action::Transmit(message.to_vec()));
        self.timers.retransmit = Some(world.now + REKEY_TIMEOUT + jitter(world));
        self.any_sent(world.now);
    }

    fn shared(&mut self, own: &Identity) -> Result<Key, Forged> {
        if self.shared.is_none() {
            self.shared = Some(own.shared(&self.public)?);
        }
        self.shared.clone().ok_or(Forged)
    }

    /// An initiation, whose sender says that it is this peer. Nothing changes unless it is, and the message is newer
    /// than all before.
    pub fn answer(
        &mut self,
        mut received: Received,
        message: &[u8; INITIATION],
        world: &mut Context<'_>,
        out: &mut Vec<Action>,
    ) -> Result<(), Forged> {
        let shared = self.shared(world.own)?;
        let stamp = received.stamp(&shared, message)?;
        let too_soon = self.received_at.is_some_and(|at| world.now.saturating_sub(at) < INITIATION_PACE);
        if stamp <= self.newest || too_soon {
            return Err(Forged);
        }
        let (index, ephemeral) = (free_index(world), random(world));
        let (mut answer, remote, keys) = received.respond(&self.preshared, index, ephemeral)?;
        self.newest = stamp;
        self.received_at = Some(world.now);
        self.outgoing.finish(&mut answer, world.now);
        let session = self.derived(index, remote, false, keys, world.now, out);
        if let Some(unused) = self.next.replace(session) {
            out.push(Action::Retire(unused.local));
        }
        out.push(Action::Transmit(answer.to_vec()));
        self.any_sent(world.now);
        Ok(())
    }

    /// The answer to our initiation.
    pub fn finish(
        &mut self,
        message: &[u8; RESPONSE],
        world: &mut Context<'_>,
        out: &mut Vec<Action>,
    ) -> Result<(), Forged> {
        let begun = self.initiated.as_ref().ok_or(Forged)?;
        if crate::message::receiver(message) != Some(begun.index) {
            return Err(Forged);
        }
        let (remote, keys) = begun.finish(world.own, &self.preshared, message)?;
        let local = begun.index;
        self.initiated = None;
        let session = self.derived(local, remote, true, keys, world.now, out);
        let old = self.current.replace(session);
        self.shelve(old, out);
        // Begun by both at once: the peer may still use the other one.
        let unused = self.next.take();
        self.shelve(unused, out);
        self.timers.silence = None;
        self.arm_persistent(world.now);
        self.completed(world.unix);
        if self.staged.is_empty() {
            // The peer does not send before it has heard that we have it.
            self.keep_alive(world, out);
        } else {
            self.flush(world, out);
        }
        Ok(())
    }

    /// The peer is under load, and gives us a cookie for the next try.
    pub fn hear_cookie(&mut self, reply: &[u8; COOKIE_REPLY], now: u64) {
        self.outgoing.hear(reply, now);
    }

    fn derived(
        &mut self,
        local: u32,
        remote: u32,
        initiator: bool,
        keys: SessionKeys,
        now: u64,
        out: &mut Vec<Action>,
    ) -> Arc<Session> {
        let session = Arc::new(Session::new(local, remote, now, initiator, keys));
        out.push(Action::Install(Arc::clone(&session)));
        self.timers.wipe = Some(now + 3 * REJECT_AFTER_TIME);
        session
    }

    fn completed(&mut self, unix: Duration) {
        self.timers.retransmit = None;
        self.attempts = 0;
        self.last_minute = false;
        self.handshake = Some(unix);
    }

    fn shelve(&mut self, session: Option<Arc<Session>>, out: &mut Vec<Action>) {
        self.previous.extend(session);
        while self.previous.len() > PREVIOUS {
            out.extend(self.previous.pop_front().map(|gone| Action::Retire(gone.local)));
        }
    }

    /// Sends what waits.
    fn flush(&mut self, world: &mut Context<'_>, out: &mut Vec<Action>) {
        let Some(session) = self.session(world.now).cloned() else { return };
        let mut any = false;
        while let Some(packet) = self.staged.pop_front() {
            let Some(message) = session.message(&packet, world.mtu) else { return };
            out.push(Action::Transmit(message));
            any = true;
        }
        if any {
            self.sent(world, out);
        }
    }

    /// An empty message, or the handshake that must be before one.
    pub fn keep_alive(&mut self, world: &mut Context<'_>, out: &mut Vec<Action>) {
        match self.session(world.now).and_then(|session| session.message(&[], world.mtu)) {
            Some(message) => {
                out.push(Action::Transmit(message));
                self.any_sent(world.now);
                self.keep_fresh(world, out);
            }
            None => self.initiate(world, out),
        }
    }

    fn keep_fresh(&mut self, world: &mut Context<'_>, out: &mut Vec<Action>) {
        if self.current.as_ref().is_some_and(|current| current.is_old(world.now)) {
            self.initiate(world, out);
        }
    }

    fn any_sent(&mut self, now: u64) {
        self.timers.keepalive = None;
        self.arm_persistent(now);
    }

    fn arm_persistent(&mut self, now: u64) {
        self.timers.persistent = (self.keepalive > 0).then(|| now + self.keepalive);
    }

    /// As if everything had been heard and said a moment ago.
    pub(crate) fn resume_timers(&mut self, now: u64) {
        self.timers.wipe = self.current.as_ref().map(|current| current.born + 3 * REJECT_AFTER_TIME);
        self.timers.keepalive = self.current.as_ref().map(|_| now + KEEPALIVE_TIMEOUT);
        self.arm_persistent(now);
    }

    /// Does what is due.
    pub fn tick(&mut self, world: &mut Context<'_>, out: &mut Vec<Action>) {
        while let Some(due) = self.timers.take(world.now) {
            match due {
                Due::Wipe => self.wipe(out),
                Due::Retransmit if self.attempts >= ATTEMPTS => self.give_up(world.now),
                Due::Retransmit => {
                    self.attempts += 1;
                    out.push(Action::NewSource);
                    self.try_initiate(world, out);
                }
                Due::Silence => {
                    out.push(Action::NewSource);
                    self.initiate(world, out);
                }
                Due::Keepalive => {
                    let another = std::mem::take(&mut self.another_keepalive);
                    self.keep_alive(world, out);
                    if another {
                        self.timers.keepalive = Some(world.now + KEEPALIVE_TIMEOUT);
                    }
                }
                Due::Persistent => self.keep_alive(world, out),
            }
        }
    }

    /// Nobody waits any longer. A peer that is to be kept alive is asked again, at its interval.
    fn give_up(&mut self, now: u64) {
        self.staged.clear();
        self.timers.keepalive = None;
        self.arm_persistent(now);
        self.timers.wipe.get_or_insert(now + 3 * REJECT_AFTER_TIME);
    }

    /// No key stays.
    pub fn wipe(&mut self, out: &mut Vec<Action>) {
        out.extend(self.initiated.take().map(|begun| Action::Retire(begun.index)));
        let sessions = self.previous.drain(..).chain(self.current.take()).chain(self.next.take());
        out.extend(sessions.map(|session| Action::Retire(session.local)));
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn next_due(&self) -> Option<u64> {
        self.timers.next()
    }

    /// Every index that messages to this peer's sessions and handshakes have.
    pub fn indices(&self) -> Vec<u32> {
        let sessions =
            self.previous.iter().chain(&self.current).chain(&self.next).map(|session| session.local);
        sessions.chain(self.initiated.as_ref().map(|begun| begun.index)).collect()
    }
}

fn random<const N: usize>(world: &mut Context<'_>) -> [u8; N] {
    let mut bytes = [0; N];
    world.random.fill(&mut bytes);
    bytes
}

fn jitter(world: &mut Context<'_>) -> u64 {
    u64::from_le_bytes(random(world)) % JITTER
}

/// Unpredictable, so that an index tells nothing about how many there are.
fn free_index(world: &mut Context<'_>) -> u32 {
    loop {
        let index = u32::from_le_bytes(random(world));
        if !(world.taken)(index) {
            return index;
        }
    }
}

/// TAI64N, coarse: its low bits would tell how fast this machine works.
fn stamp(unix: Duration) -> [u8; STAMP] {
    let mut bytes = [0; STAMP];
    bytes[..8].copy_from_slice(&(0x4000_0000_0000_000a + unix.as_secs()).to_be_bytes());
    bytes[8..].copy_from_slice(&(unix.subsec_nanos() & !0x00ff_ffff).to_be_bytes());
    bytes
}
